//! The side module that turns a hidden state into the next input of a latent step.
//!
//! ```text
//! state [E] ─up_proj─▶ [I] ─gelu─▶ ─down_proj─▶ [E] ─layer_norm─▶ input [E]
//! ```
//!
//! Source: CODI, arXiv 2502.21074, its projection `Linear → GELU → Linear → LayerNorm`. GELU is its tanh form, as in training.

use skimstone_kernels::Linear;

use crate::config::TensorShape;

/// Added to the variance.
const EPS: f32 = 1e-5;

pub(crate) mod names {
    pub(crate) const UP_PROJ: &str = "latent_map.up_proj";
    pub(crate) const DOWN_PROJ: &str = "latent_map.down_proj";
    pub(crate) const NORM: &str = "latent_map.norm";
}

/// The tensors of a latent map with one hidden layer of `inner_size` values over states of `hidden_size`, by name and shape.
pub(crate) fn tensors(hidden_size: usize, inner_size: usize) -> Vec<TensorShape> {
    let tensor = |name: &str, part: &str, shape: &[usize]| TensorShape {
        name: format!("{name}.{part}"),
        shape: shape.to_vec(),
    };
    vec![
        tensor(names::UP_PROJ, "weight", &[inner_size, hidden_size]),
        tensor(names::UP_PROJ, "bias", &[inner_size]),
        tensor(names::DOWN_PROJ, "weight", &[hidden_size, inner_size]),
        tensor(names::DOWN_PROJ, "bias", &[hidden_size]),
        tensor(names::NORM, "weight", &[hidden_size]),
        tensor(names::NORM, "bias", &[hidden_size]),
    ]
}

/// The weights of a latent map.
#[derive(Clone, Copy, Debug)]
pub struct LatentMapWeights<'a> {
    /// `[I, E]`
    pub up_proj: Linear<'a>,
    /// `[E, I]`
    pub down_proj: Linear<'a>,
    /// `[E]`
    pub norm: &'a [f32],
    /// `[E]`
    pub norm_bias: &'a [f32],
}

/// `x · σ(2√(2/π)(x + 0.044715 x³))` for each value: the tanh form of GELU. A few hundred values per latent step, so the standard exponential will do.
pub(crate) fn gelu(x: &mut [f32]) {
    for x in x {
        let u = 1.595_769 * (*x + 0.044_715 * *x * *x * *x);
        *x /= 1.0 + (-u).exp();
    }
}

/// `x = (x − mean(x)) / √(variance(x) + ε) · weight + bias`
pub(crate) fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32]) {
    let len = x.len() as f32;
    let mean = x.iter().sum::<f32>() / len;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / len;
    let inverse = 1.0 / (variance + EPS).sqrt();
    for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * inverse * weight + bias;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_by_hand() {
        let mut x = [0.0, 1.0, -1.0, 30.0, -30.0];
        gelu(&mut x);
        // 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))) at ±1.
        let expected = [0.0, 0.841_192, -0.158_808, 30.0, 0.0];
        let worst = x
            .iter()
            .zip(expected)
            .map(|(a, b): (&f32, f32)| (a - b).abs());
        assert!(worst.fold(0.0, f32::max) < 1e-6, "{x:?}");

        let mut x = [1.0, 2.0, 3.0, 6.0];
        layer_norm(&mut x, &[1.0, 1.0, 1.0, 2.0], &[0.0, 0.0, 0.0, 1.0]);
        // Mean 3, variance 3.5.
        let deviation = 3.5f32.sqrt();
        let expected = [
            -2.0 / deviation,
            -1.0 / deviation,
            0.0,
            6.0 / deviation + 1.0,
        ];
        let worst = x.iter().zip(expected).map(|(a, b)| (a - b).abs());
        assert!(worst.fold(0.0, f32::max) < 1e-5, "{x:?}");
    }
}
