//! Weighted cross-entropy over scored positions.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::simd::{LANES, exp, max, multiversion};
use super::{tensor_like, with_values};

/// The summed loss of a micro-batch and how often the largest logit was the target.
#[derive(Debug)]
pub struct CrossEntropy {
    /// `Σ weight · −ln p(target)`, a scalar that carries the gradient of the logits.
    pub loss: Tensor,
    /// Scored positions whose arg-max is the target.
    pub correct: usize,
}

/// Cross-entropy of `logits` `[M, V]` against one target and weight per row.
///
/// The loss is a sum, so that micro-batches of different sizes add up; divide by the total weight once per step.
/// Loss and gradient come out of one pass; the backward pass only hands the stored gradient over.
pub fn cross_entropy(logits: &Tensor, targets: &[u32], weights: &[f32]) -> Result<CrossEntropy> {
    let vocabulary = logits.dims2()?.1;
    let mut gradient = with_values(logits, <[f32]>::to_vec)?;
    let (loss, correct) = into_gradient(&mut gradient, vocabulary, targets, weights)?;
    let loss = loss as f32;
    let gradient = tensor_like(gradient, logits.shape(), logits)?;
    Ok(CrossEntropy {
        loss: logits.apply_op1(Stored { loss, gradient })?,
        correct,
    })
}

/// Turns logits `[M, V]` into their gradient, in place; returns the summed loss and the rows whose arg-max is the target.
///
/// # Errors
/// If targets or weights are not one per row, or a target is outside the vocabulary.
pub(crate) fn into_gradient(
    logits: &mut [f32],
    vocabulary: usize,
    targets: &[u32],
    weights: &[f32],
) -> Result<(f64, usize)> {
    let rows = logits.len() / vocabulary;
    if targets.len() != rows || weights.len() != rows {
        bail!(
            "cross-entropy: {rows} rows, {} targets, {} weights",
            targets.len(),
            weights.len()
        );
    }
    if let Some(target) = targets.iter().find(|t| **t as usize >= vocabulary) {
        bail!("cross-entropy: target {target} outside the vocabulary of {vocabulary}");
    }
    Ok(fused(logits, vocabulary, targets, weights))
}

/// A scalar whose gradient with respect to its argument is already known.
struct Stored {
    loss: f32,
    gradient: Tensor,
}

impl CustomOp1 for Stored {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let scale = grad.to_scalar::<f32>()?;
        // The usual root of the graph: nothing to scale.
        Ok(Some(if scale == 1.0 {
            self.gradient.clone()
        } else {
            (&self.gradient * f64::from(scale))?
        }))
    }
}

multiversion! {
    fn fused(logits: &mut [f32], vocabulary: usize, targets: &[u32], weights: &[f32]) -> (f64, usize) {
        let mut total = 0f64;
        let mut correct = 0;
        for (x, (target, weight)) in logits.chunks_exact_mut(vocabulary).zip(targets.iter().zip(weights)) {
            let target = *target as usize;
            let peak = max(x);
            let logit = x[target];
            let mut lanes = [0f32; LANES];
            let mut chunks = x.chunks_exact_mut(LANES);
            for chunk in &mut chunks {
                for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
                    *x = exp(*x - peak);
                    *lane += *x;
                }
            }
            let mut sum = lanes.iter().sum::<f32>();
            for x in chunks.into_remainder() {
                *x = exp(*x - peak);
                sum += *x;
            }
            let scale = weight / sum;
            x.iter_mut().for_each(|x| *x *= scale);
            x[target] -= weight;
            total += f64::from(*weight) * (f64::from(sum).ln() + f64::from(peak) - f64::from(logit));
            correct += usize::from(logit == peak);
        }
        (total, correct)
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{gradients_agree, wave};
    use super::*;

    #[test]
    fn agrees_with_the_plain_form() -> Result<()> {
        let (targets, weights) = ([3u32, 0, 36, 7], [1.0f32, 0.5, 0.0, 2.0]);
        let plain = |t: &[Tensor]| {
            let log = candle_nn::ops::log_softmax(&t[0], 1)?;
            let at = Tensor::new(&targets, t[0].device())?.unsqueeze(1)?;
            let weights = Tensor::new(&weights, t[0].device())?;
            log.gather(&at, 1)?
                .squeeze(1)?
                .mul(&weights)?
                .sum_all()?
                .neg()
        };
        let fused = |t: &[Tensor]| Ok(cross_entropy(&t[0], &targets, &weights)?.loss);
        gradients_agree(&[wave(&[4, 37], 0.9)?], fused, plain, 1e-5)
    }

    #[test]
    fn counts_correct_rows_and_refuses_foreign_targets() -> Result<()> {
        let logits = Tensor::new(
            &[[0f32, 2.0, 1.0], [3.0, 2.0, 1.0]],
            &candle_core::Device::Cpu,
        )?;
        assert_eq!(cross_entropy(&logits, &[1, 1], &[1.0, 1.0])?.correct, 1);
        let error = cross_entropy(&logits, &[1, 3], &[1.0, 1.0])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("target 3 outside the vocabulary of 3"),
            "{error}"
        );
        Ok(())
    }
}
