//! `silu(gate) · up`, on the packed output of one product with `[gate_proj; up_proj]`.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::simd::{LANES, exp, multiversion};
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

/// The gradients of gate and up, and the value itself.
#[inline(always)]
fn lane_back(gate: f32, up: f32, dy: f32) -> (f32, f32, f32) {
    let s = sigmoid(gate);
    let silu = gate * s;
    (dy * up * s * (1.0 + gate * (1.0 - s)), dy * silu, silu * up)
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
            let whole = width / LANES * LANES;
            let (gates, gate_rest) = gate.split_at_mut(whole);
            let (ups, up_rest) = up.split_at_mut(whole);
            let (dys, dy_rest) = dy.split_at(whole);
            let (ys, y_rest) = y.split_at_mut(whole);
            let chunks = gates.chunks_exact_mut(LANES).zip(ups.chunks_exact_mut(LANES));
            for (((gate, up), dy), y) in chunks.zip(dys.chunks_exact(LANES)).zip(ys.chunks_exact_mut(LANES)) {
                // Loaded as a whole before anything is written: the compiler cannot know that four slices do not overlap.
                let (mut g, mut u, mut d) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
                g.copy_from_slice(gate);
                u.copy_from_slice(up);
                d.copy_from_slice(dy);
                for lane in 0..LANES {
                    (g[lane], u[lane], d[lane]) = lane_back(g[lane], u[lane], d[lane]);
                }
                gate.copy_from_slice(&g);
                up.copy_from_slice(&u);
                y.copy_from_slice(&d);
            }
            for (((gate, up), dy), y) in gate_rest.iter_mut().zip(up_rest).zip(dy_rest).zip(y_rest) {
                (*gate, *up, *y) = lane_back(*gate, *up, *dy);
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
