//! Rotary position embedding: the frequencies of a model, and the angles of the positions in one pass.
//!
//! Angles are computed once per pass and shared by all layers, so that no table grows with the context.

use crate::config::{ModelConfig, RopeScaling};

/// Inverse frequencies of the `D/2` rotated pairs.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    inverse_frequencies: Vec<f64>,
}

impl Rope {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let half = config.head_dim / 2;
        let inverse_frequencies = (0..half)
            .map(|i| scale(frequency(config, i), &config.rope_scaling))
            .collect();
        Rope {
            inverse_frequencies,
        }
    }

    /// Fills `cos` and `sin`, both `[T, D/2]`, for `positions` `[T]`.
    pub(crate) fn angles(&self, positions: &[u32], cos: &mut [f32], sin: &mut [f32]) {
        let half = self.inverse_frequencies.len();
        let rows = cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half));
        for (&position, (cos, sin)) in positions.iter().zip(rows) {
            for ((c, s), frequency) in cos.iter_mut().zip(sin).zip(&self.inverse_frequencies) {
                let (sine, cosine) = (f64::from(position) * frequency).sin_cos();
                (*c, *s) = (cosine as f32, sine as f32);
            }
        }
    }
}

/// The inverse frequency of pair `i`, not scaled.
pub(crate) fn frequency(config: &ModelConfig, i: usize) -> f64 {
    let exponent = (2 * i) as f64 / config.head_dim as f64;
    config.rope_theta.powf(-exponent)
}

/// One inverse frequency under `scaling`.
///
/// `llama3`: wavelengths beyond `original / low_freq_factor` are stretched by `factor`, those below
/// `original / high_freq_factor` are kept, those between are blended linearly in frequency. Source: the `llama3` rule of
/// Hugging Face transformers, `modeling_rope_utils.py`.
pub(crate) fn scale(frequency: f64, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let wavelength = std::f64::consts::TAU / frequency;
            let turns = original_max_position_embeddings as f64 / wavelength;
            let keep =
                ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            keep * frequency + (1.0 - keep) * frequency / factor
        }
        _ => frequency,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: RopeScaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };

    #[test]
    fn llama3_keeps_high_frequencies_and_stretches_low_ones() {
        let wavelength = |w: f64| std::f64::consts::TAU / w;
        assert_eq!(scale(wavelength(100.0), &LLAMA3), wavelength(100.0));
        assert_eq!(
            scale(wavelength(100_000.0), &LLAMA3),
            wavelength(100_000.0) / 8.0
        );
        // 8192 / 3276.8 = 2.5 turns, halfway between 1 and 4.
        let middle = scale(wavelength(3276.8), &LLAMA3) / wavelength(3276.8);
        assert!((middle - 0.5 * (1.0 + 1.0 / 8.0)).abs() < 1e-12);
    }
}
