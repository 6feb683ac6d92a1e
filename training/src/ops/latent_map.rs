//! From the hidden state of one position to the input of the next: a feed-forward network with one hidden layer, and a layer norm.
//!
//! ```text
//! h [R, E] ─up_proj─▶ [R, I] ─gelu─▶ ─down_proj─▶ [R, E] ─layer_norm─▶ input [R, E]
//! ```
//!
//! Source: CODI, arXiv 2502.21074, its projection `Linear → GELU → Linear → LayerNorm`; the activation is GELU's tanh form, which differs from the
//! exact one by 5·10⁻⁴ at most.

use std::ops::Range;

use super::projection::Stacked;
use super::simd::{exp, multiversion, sum_lanes};

/// Added to the variance.
pub(crate) const EPS: f32 = 1e-5;

/// Where the weights lie, and what the way back needs of the rows that were mapped.
#[derive(Debug)]
pub(crate) struct LatentMap {
    up_proj: Stacked,
    down_proj: Stacked,
    /// `[E]`
    weight: Range<usize>,
    /// `[E]`
    bias: Range<usize>,
    /// `E`
    hidden: usize,
    /// `I`
    inner: usize,
    kept: Kept,
    work: Vec<f32>,
}

/// Rows in the order in which they were mapped, `R` in all.
#[derive(Debug, Default)]
struct Kept {
    /// `[R, E]`
    read: Vec<f32>,
    /// `[R, I]`, before the activation.
    inner: Vec<f32>,
    /// `[R, I]`
    activated: Vec<f32>,
    /// `[R, E]`, before the norm.
    mapped: Vec<f32>,
}

impl LatentMap {
    pub(crate) fn new(
        up_proj: Stacked,
        down_proj: Stacked,
        (weight, bias): (Range<usize>, Range<usize>),
        inner: usize,
    ) -> LatentMap {
        LatentMap {
            hidden: weight.len(),
            up_proj,
            down_proj,
            weight,
            bias,
            inner,
            kept: Kept::default(),
            work: Vec::new(),
        }
    }

    /// Forgets the rows of the batch before.
    pub(crate) fn clear(&mut self) {
        let Kept {
            read,
            inner,
            activated,
            mapped,
        } = &mut self.kept;
        for rows in [read, inner, activated, mapped] {
            rows.clear();
        }
    }

    /// Maps `state` `[E]` to `input` `[E]` and keeps what the way back needs.
    pub(crate) fn forward(&mut self, weights: &[f32], state: &[f32], input: &mut [f32]) {
        let Kept {
            read,
            inner,
            activated,
            mapped,
        } = &mut self.kept;
        read.extend_from_slice(state);
        let row = inner.len();
        inner.resize(row + self.inner, 0.0);
        self.up_proj
            .forward(weights, state, false, &mut inner[row..]);
        activated.resize(row + self.inner, 0.0);
        gelu(&inner[row..], &mut activated[row..]);
        let out = mapped.len();
        mapped.resize(out + self.hidden, 0.0);
        self.down_proj
            .forward(weights, &activated[row..], false, &mut mapped[out..]);
        let (weight, bias) = (&weights[self.weight.clone()], &weights[self.bias.clone()]);
        layer_norm(&mapped[out..], weight, bias, input);
    }

    /// Takes back row `row`, counted in the order of [`LatentMap::forward`]: adds the gradient of the state to `dstate` `[E]` and those of the weights
    /// to `gradient`.
    pub(crate) fn backward(
        &mut self,
        weights: &[f32],
        row: usize,
        dinput: &[f32],
        dstate: &mut [f32],
        gradient: &mut [f32],
    ) {
        let hidden = row * self.hidden..(row + 1) * self.hidden;
        let inner = row * self.inner..(row + 1) * self.inner;
        let Kept {
            read,
            inner: before,
            activated,
            mapped,
        } = &mut self.kept;
        self.work.clear();
        self.work.resize(2 * self.hidden + self.inner, 0.0);
        let (dmapped, rest) = self.work.split_at_mut(self.hidden);
        let (dread, dinner) = rest.split_at_mut(self.hidden);
        for (at, dy) in self.bias.clone().zip(dinput) {
            gradient[at] += dy;
        }
        let weight = &weights[self.weight.clone()];
        let dweight = &mut gradient[self.weight.clone()];
        layer_norm_back(&mapped[hidden.clone()], weight, dinput, dmapped, dweight);
        self.down_proj.backward(weights, dmapped, dinner);
        self.down_proj
            .accumulate(dmapped, &activated[inner.clone()], gradient);
        gelu_back(&before[inner], dinner);
        self.up_proj.backward(weights, dinner, dread);
        self.up_proj.accumulate(dinner, &read[hidden], gradient);
        dstate
            .iter_mut()
            .zip(dread)
            .for_each(|(sum, dx)| *sum += *dx);
    }
}

/// `x · σ(2√(2/π)(x + 0.044715 x³))`, which is the tanh form, and its derivative.
#[inline(always)]
fn gelu_lane(x: f32) -> (f32, f32) {
    const SCALE: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;
    let sigmoid = 1.0 / (1.0 + exp(-SCALE * (x + CUBIC * x * x * x)));
    let slope = SCALE * (1.0 + 3.0 * CUBIC * x * x);
    (x * sigmoid, sigmoid + x * sigmoid * (1.0 - sigmoid) * slope)
}

multiversion! {
    fn gelu(x: &[f32], y: &mut [f32]) {
        x.iter().zip(y).for_each(|(x, y)| *y = gelu_lane(*x).0);
    }
}

multiversion! {
    /// `dy` becomes the gradient of `x`.
    fn gelu_back(x: &[f32], dy: &mut [f32]) {
        x.iter().zip(dy).for_each(|(x, dy)| *dy *= gelu_lane(*x).1);
    }
}

/// Mean and `1/√(variance + ε)` of a row.
#[inline(always)]
fn moments(x: &[f32]) -> (f32, f32) {
    let len = x.len() as f32;
    let mean = sum_lanes(x.len(), |i| x[i]) / len;
    let variance = sum_lanes(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / len;
    (mean, 1.0 / (variance + EPS).sqrt())
}

multiversion! {
    fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
        let (mean, inverse) = moments(x);
        for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * inverse * weight + bias;
        }
    }
}

multiversion! {
    /// Writes `dx` and adds to `dweight`.
    fn layer_norm_back(x: &[f32], weight: &[f32], dy: &[f32], dx: &mut [f32], dweight: &mut [f32]) {
        let (mean, inverse) = moments(x);
        let len = x.len() as f32;
        let normed = |i: usize| (x[i] - mean) * inverse;
        let sum = sum_lanes(x.len(), |i| dy[i] * weight[i]) / len;
        let product = sum_lanes(x.len(), |i| dy[i] * weight[i] * normed(i)) / len;
        for i in 0..x.len() {
            dx[i] = inverse * (dy[i] * weight[i] - sum - normed(i) * product);
            dweight[i] += dy[i] * normed(i);
        }
    }
}
