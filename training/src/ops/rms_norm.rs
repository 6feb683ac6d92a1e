//! `y = x / rms(x) · w` over rows, with gradients for both arguments.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::simd::{dot, multiversion, sum_lanes};
use super::{tensor_like, values, with_values};

/// Normalizes every run of `w.len()` values of `x` by its root mean square and scales it by `w`.
///
/// Shapes: `x` `[N, …]` with a last axis that `E` divides, `w` `[E]`; result as `x`. With `w` of `[D]` and `x` of `[N, H·D]`
/// this is QK-norm.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    x.apply_op2(w, RmsNorm { eps: eps as f32 })
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (values(x, xl, "rms-norm")?, values(w, wl, "rms-norm")?);
        let last = xl.dims().last().copied().unwrap_or(0);
        if w.is_empty() || !last.is_multiple_of(w.len()) {
            bail!(
                "rms-norm: rows of {last} values cannot be cut into {}",
                w.len()
            );
        }
        let mut y = vec![0f32; x.len()];
        forward(x, w, self.eps, &mut y);
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut dx = vec![0f32; x.elem_count()];
        let mut dw = vec![0f32; w.elem_count()];
        with_values(x, |x| {
            with_values(w, |w| {
                with_values(grad, |dy| {
                    backward(x, w, dy, self.eps, false, &mut dx, &mut dw)
                })
            })
        })???;
        Ok((
            Some(tensor_like(dx, x.shape(), x)?),
            Some(tensor_like(dw, w.shape(), w)?),
        ))
    }
}

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// One row forward.
#[inline(always)]
pub(super) fn row_forward(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
    let inverse = inverse_rms(x, eps);
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = x * inverse * w;
    }
}

/// One row backward: writes `dx` or, if `ADD`, adds to it; always adds to `dw`.
#[inline(always)]
pub(super) fn row_backward<const ADD: bool>(
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    eps: f32,
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let len = x.len();
    let (w, dy) = (&w[..len], &dy[..len]);
    let inverse = inverse_rms(x, eps);
    let along = sum_lanes(len, |i| x[i] * w[i] * dy[i]) * inverse * inverse / len as f32;
    for (((dx, x), w), dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
        let gradient = inverse * (w * dy - x * along);
        *dx = if ADD { *dx + gradient } else { gradient };
    }
    for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
        *dw += dy * x * inverse;
    }
}

multiversion! {
    /// Rows of `w.len()` values forward.
    pub(crate) fn forward(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(w.len()).zip(y.chunks_exact_mut(w.len())) {
            row_forward(x, w, eps, y);
        }
    }
}

multiversion! {
    /// Rows of `w.len()` values backward: writes `dx` or, if `add`, adds to it; always adds to `dw`.
    pub(crate) fn backward(x: &[f32], w: &[f32], dy: &[f32], eps: f32, add: bool, dx: &mut [f32], dw: &mut [f32]) {
        let len = w.len();
        for ((x, dy), dx) in x.chunks_exact(len).zip(dy.chunks_exact(len)).zip(dx.chunks_exact_mut(len)) {
            if add {
                row_backward::<true>(x, w, dy, eps, dx, dw);
            } else {
                row_backward::<false>(x, w, dy, eps, dx, dw);
            }
        }
    }
}

/// The same out of candle's elementary, differentiable operations.
#[cfg(test)]
pub(crate) fn plain(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let size = w.elem_count();
    let rows = x.reshape(((), size))?;
    let mean = (rows.sqr()?.sum_keepdim(1)? / size as f64)?;
    rows.broadcast_div(&(mean + eps)?.sqrt()?)?
        .broadcast_mul(w)?
        .reshape(x.shape())
}

#[cfg(test)]
mod tests {
    use super::super::check::{gradients_agree, wave};
    use super::*;

    #[test]
    fn agrees_with_the_plain_form() -> Result<()> {
        for (shape, size) in [([5, 33], 33), ([3, 64], 32), ([1, 16], 16)] {
            let inputs = [wave(&shape, 0.3)?, wave(&[size], 0.9)?];
            gradients_agree(
                &inputs,
                |t| rms_norm(&t[0], &t[1], 1e-6),
                |t| plain(&t[0], &t[1], 1e-6),
                1e-5,
            )?;
        }
        Ok(())
    }
}
