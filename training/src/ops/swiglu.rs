//! `silu(gate) · up`, on the packed output of one product with `[gate_proj; up_proj]`.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::simd::{exp, multiversion};
use super::{dims2, tensor_like, values, with_values};

/// `silu(gate) · up`. Shapes: `gate_up` `[N, 2F]`, a row holding gate then up; result `[N, F]`.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    gate_up.apply_op1(SwiGlu)
}

struct SwiGlu;

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = dims2(layout, "swiglu")?;
        if !width.is_multiple_of(2) {
            bail!("swiglu: rows of {width} values do not halve into gate and up");
        }
        let mut y = vec![0f32; tokens * width / 2];
        forward(values(x, layout, "swiglu")?, width / 2, &mut y);
        Ok((CpuStorage::F32(y), (tokens, width / 2).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = x.dims2()?.1;
        let mut dx = with_values(x, <[f32]>::to_vec)?;
        let mut y = vec![0f32; grad.elem_count()];
        with_values(grad, |dy| backward(&mut dx, dy, width / 2, &mut y))?;
        Ok(Some(tensor_like(dx, x.shape(), x)?))
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

multiversion! {
    /// `y` `[N, F]` from `x` `[N, 2F]`.
    pub(crate) fn forward(x: &[f32], width: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
            let (gate, up) = x.split_at(width);
            for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                *y = gate * sigmoid(*gate) * up;
            }
        }
    }
}

multiversion! {
    /// Turns `x` into its gradient, in place, and makes `y` again on the way: the weights' gradient needs it, and the sigmoid is
    /// at hand.
    pub(crate) fn backward(x: &mut [f32], dy: &[f32], width: usize, y: &mut [f32]) {
        for ((x, dy), y) in x.chunks_exact_mut(2 * width).zip(dy.chunks_exact(width)).zip(y.chunks_exact_mut(width)) {
            let (gate, up) = x.split_at_mut(width);
            for (((gate, up), dy), y) in gate.iter_mut().zip(up).zip(dy).zip(y) {
                let s = sigmoid(*gate);
                let (silu, slope) = (*gate * s, s * (1.0 + *gate * (1.0 - s)));
                *y = silu * *up;
                *gate = dy * *up * slope;
                *up = dy * silu;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{gradients_agree, wave};
    use super::*;

    #[test]
    fn agrees_with_the_plain_form() -> Result<()> {
        let plain = |t: &[Tensor]| {
            candle_nn::ops::silu(&t[0].narrow(1, 0, 19)?)?.mul(&t[0].narrow(1, 19, 19)?)
        };
        gradients_agree(&[wave(&[3, 38], 0.3)?], |t| swiglu(&t[0]), plain, 1e-5)
    }
}
