//! Bundles with random weights of a real shape, for measuring speed and memory where the real weights are not at hand.

use std::path::Path;

use serde_json::json;
use skimstone_kernels::Format;

use super::Progress;
use crate::bundle::{BundleSpec, BundleWriter, TensorDecl};
use crate::config::ModelConfig;
use crate::error::Result;

/// Writes a bundle of the shape of `config_json` whose weights are random; its provenance says `"random": true`.
///
/// Matrices are near normal with variance `1 / cols`, which keeps activations of order one through all layers; norms are 1, biases
/// 0. The same seed gives the same bundle.
///
/// # Errors
/// As [`ModelConfig::from_json`] for the configuration, and [`ErrorKind::Io`](crate::ErrorKind::Io).
pub fn synth(
    config_json: &str,
    format: Format,
    out: &Path,
    seed: u64,
    progress: Progress<'_>,
) -> Result<()> {
    let mut spec = BundleSpec::new(ModelConfig::from_json(config_json)?);
    spec.provenance = json!({
        "source": "random weights",
        "random": true,
        "seed": seed,
        "format": format.name(),
        "tool": concat!("skimstone ", env!("CARGO_PKG_VERSION")),
    });
    spec.reasoning.stop.clone_from(&spec.config.eos_token_id);

    let decls = TensorDecl::for_model(&spec.config, format);
    let bytes = |decl: &TensorDecl| decl.shape.iter().map(|&dim| dim as u64).product::<u64>() * 4;
    let (mut done, total) = (0, decls.iter().map(bytes).sum());
    let mut writer = BundleWriter::create(out, spec, &decls)?;
    let mut random = Random(seed);
    for decl in &decls {
        let scale = (decl.shape.last().copied().unwrap_or(1) as f32)
            .sqrt()
            .recip();
        writer.write_rows(&decl.name, |_, row| {
            match decl.shape.len() {
                2 => row.fill_with(|| random.normal() * scale),
                _ => row.fill(if decl.name.ends_with(".bias") {
                    0.0
                } else {
                    1.0
                }),
            }
            Ok(())
        })?;
        done += bytes(decl);
        progress(done, total, &decl.name);
    }
    writer.commit()
}

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and a mix per value, and any seed is a good one.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Near normal: the sum of four uniform 16-bit parts of one word, which has variance 1/3 before scaling. A bundle of a
    /// billion weights is made in seconds; exact tails would not matter to any measurement.
    fn normal(&mut self) -> f32 {
        let word = self.next();
        let sum: u64 = (0..4).map(|i| (word >> (16 * i)) & 0xffff).sum();
        (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_standard() {
        let mut random = Random(7);
        let values: Vec<f32> = (0..100_000).map(|_| random.normal()).collect();
        let mean = values.iter().sum::<f32>() / 1e5;
        let variance = values.iter().map(|x| x * x).sum::<f32>() / 1e5;
        // Four standard errors of mean and variance.
        assert!(
            mean.abs() < 0.013 && (variance - 1.0).abs() < 0.02,
            "{mean} {variance}"
        );
    }
}
