//! Rotary positions (and QK-norm before them) on the packed output of one product with `[q_proj; k_proj; v_proj]`.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::rms_norm::{row_backward, row_forward};
use super::simd::multiversion;
use super::{dims2, tensor_like, values, with_values};

/// How a packed row divides: `H` query heads, then `G` key heads, then `G` value heads, each of `D` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// `H`.
    pub query: usize,
    /// `G`; divides `H`.
    pub kv: usize,
    /// `D`; even.
    pub dim: usize,
}

impl Heads {
    /// Values per token in the packed row, `(H + 2G) · D`.
    pub fn width(self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }
}

/// Cosines and sines of a micro-batch, `[N, D/2]` each.
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
}

impl Angles {
    /// The angles of `positions` under `inverse_frequencies` `[D/2]`.
    pub fn new(positions: &[u32], inverse_frequencies: &[f64]) -> Self {
        let half = inverse_frequencies.len();
        // Many rows share their positions, so each is computed once.
        let count = positions.iter().max().map_or(0, |last| *last as usize + 1);
        let mut known = vec![(0f32, 0f32); count * half];
        for (position, row) in known.chunks_exact_mut(half.max(1)).enumerate() {
            for (frequency, pair) in inverse_frequencies.iter().zip(row) {
                // In f64 like the runtime: far positions lose whole digits of the angle in f32.
                let (sine, cosine) = (position as f64 * frequency).sin_cos();
                *pair = (cosine as f32, sine as f32);
            }
        }
        let mut cos = Vec::with_capacity(positions.len() * half);
        let mut sin = Vec::with_capacity(cos.capacity());
        for position in positions {
            for (cosine, sine) in &known[*position as usize * half..][..half] {
                cos.push(*cosine);
                sin.push(*sine);
            }
        }
        Self {
            cos: Arc::new(cos),
            sin: Arc::new(sin),
        }
    }
}

/// Rotates the query and key heads of `qkv`, after normalizing them by `norms` if there are any; values pass through.
///
/// Shapes: `qkv` `[N, (H+2G)·D]`, each norm `[D]`; half-split layout as in Hugging Face checkpoints.
pub fn rope(
    qkv: &Tensor,
    norms: Option<(&Tensor, &Tensor)>,
    heads: Heads,
    angles: &Angles,
    eps: f64,
) -> Result<Tensor> {
    let op = Rope {
        heads,
        angles: angles.clone(),
        eps: eps as f32,
    };
    match norms {
        Some((q_norm, k_norm)) => qkv.apply_op3(q_norm, k_norm, op),
        None => qkv.apply_op1(op),
    }
}

struct Rope {
    heads: Heads,
    angles: Angles,
    eps: f32,
}

impl Rope {
    fn check(&self, layout: &Layout, norms: &[usize]) -> Result<()> {
        let (tokens, width) = dims2(layout, "rope")?;
        let Heads { dim, .. } = self.heads;
        if width != self.heads.width() || !dim.is_multiple_of(2) || norms.iter().any(|n| *n != dim)
        {
            bail!(
                "rope: rows of {width} values and norms of {norms:?} do not fit {:?}",
                self.heads
            );
        }
        if self.angles.cos.len() != tokens * dim / 2 {
            bail!(
                "rope: {tokens} tokens, angles for {}",
                self.angles.cos.len() / (dim / 2)
            );
        }
        Ok(())
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.check(layout, &[])?;
        let x = values(x, layout, "rope")?;
        let mut y = x.to_vec();
        rotate(&mut y, self.heads, &self.angles, false);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut dx = with_values(grad, <[f32]>::to_vec)?;
        rotate(&mut dx, self.heads, &self.angles, true);
        Ok(Some(tensor_like(dx, x.shape(), x)?))
    }
}

impl CustomOp3 for Rope {
    fn name(&self) -> &'static str {
        "qk-norm-rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        q_norm: &CpuStorage,
        q_layout: &Layout,
        k_norm: &CpuStorage,
        k_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q_norm, k_norm) = (
            values(q_norm, q_layout, "rope")?,
            values(k_norm, k_layout, "rope")?,
        );
        self.check(layout, &[q_norm.len(), k_norm.len()])?;
        let x = values(x, layout, "rope")?;
        let mut y = vec![0f32; x.len()];
        norm(x, (q_norm, k_norm), self.heads, self.eps, &mut y);
        rotate(&mut y, self.heads, &self.angles, false);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        q_norm: &Tensor,
        k_norm: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut dx = with_values(grad, <[f32]>::to_vec)?;
        rotate(&mut dx, self.heads, &self.angles, true);
        let mut dq = vec![0f32; self.heads.dim];
        let mut dk = vec![0f32; self.heads.dim];
        with_values(x, |x| {
            with_values(q_norm, |q_norm| {
                with_values(k_norm, |k_norm| {
                    norm_back(
                        x,
                        (q_norm, k_norm),
                        self.heads,
                        self.eps,
                        &mut dx,
                        (&mut dq, &mut dk),
                    );
                })
            })
        })???;
        let dx = tensor_like(dx, x.shape(), x)?;
        Ok((
            Some(dx),
            Some(tensor_like(dq, q_norm.shape(), x)?),
            Some(tensor_like(dk, k_norm.shape(), x)?),
        ))
    }
}

multiversion! {
    /// QK-norm: `y` from `x`, both `[N, (H+2G)·D]`; values pass through.
    pub(crate) fn norm(x: &[f32], norms: (&[f32], &[f32]), heads: Heads, eps: f32, y: &mut [f32]) {
        let (width, dim) = (heads.width(), heads.dim);
        let split = (heads.query + heads.kv) * dim;
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            y[split..].copy_from_slice(&x[split..]);
            let rows = x[..split].chunks_exact(dim).zip(y[..split].chunks_exact_mut(dim));
            for (head, (x, y)) in rows.enumerate() {
                row_forward(x, if head < heads.query { norms.0 } else { norms.1 }, eps, y);
            }
        }
    }
}

multiversion! {
    /// Rotates query and key heads in place; backwards by the opposite angle, which is the transpose.
    pub(crate) fn rotate(rows: &mut [f32], heads: Heads, angles: &Angles, is_backward: bool) {
        let (width, dim, half) = (heads.width(), heads.dim, heads.dim / 2);
        let angles = angles.cos.chunks_exact(half).zip(angles.sin.chunks_exact(half));
        let sign = if is_backward { -1f32 } else { 1.0 };
        for (row, (cos, sin)) in rows.chunks_exact_mut(width).zip(angles) {
            for head in row[..(heads.query + heads.kv) * dim].chunks_exact_mut(dim) {
                let (low, high) = head.split_at_mut(half);
                for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    let (a, b, sin) = (*low, *high, sign * sin);
                    *low = a * cos - b * sin;
                    *high = b * cos + a * sin;
                }
            }
        }
    }
}

multiversion! {
    /// The gradient through QK-norm, in place: `gradient` comes in as that of the normalized heads; values are left as they are.
    pub(crate) fn norm_back(
        x: &[f32],
        norms: (&[f32], &[f32]),
        heads: Heads,
        eps: f32,
        gradient: &mut [f32],
        dnorms: (&mut [f32], &mut [f32]),
    ) {
        let (width, dim) = (heads.width(), heads.dim);
        let split = (heads.query + heads.kv) * dim;
        let mut dy = vec![0f32; dim];
        for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact_mut(width)) {
            let rows = x[..split].chunks_exact(dim).zip(gradient[..split].chunks_exact_mut(dim));
            for (head, (x, gradient)) in rows.enumerate() {
                dy.copy_from_slice(gradient);
                if head < heads.query {
                    row_backward::<false>(x, norms.0, &dy, eps, gradient, dnorms.0);
                } else {
                    row_backward::<false>(x, norms.1, &dy, eps, gradient, dnorms.1);
                }
            }
        }
    }
}

/// The same out of candle's elementary, differentiable operations.
#[cfg(test)]
pub(crate) fn plain(
    qkv: &Tensor,
    norms: Option<(&Tensor, &Tensor)>,
    heads: Heads,
    angles: &Angles,
    eps: f64,
) -> Result<Tensor> {
    let (tokens, half) = (qkv.dims2()?.0, heads.dim / 2);
    let table = |values: &[f32]| Tensor::from_vec(values.to_vec(), (tokens, 1, half), qkv.device());
    let (cos, sin) = (table(&angles.cos)?, table(&angles.sin)?);
    let part = |start: usize, count: usize, norm: Option<&Tensor>| -> Result<Tensor> {
        let x = qkv
            .narrow(1, start * heads.dim, count * heads.dim)?
            .contiguous()?;
        let x = match norm {
            Some(w) => super::rms_norm::plain(&x, w, eps)?,
            None => x,
        };
        let x = x.reshape((tokens, count, heads.dim))?;
        let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let turned_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let turned_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        Tensor::cat(&[turned_low, turned_high], 2)?.reshape((tokens, count * heads.dim))
    };
    let q = part(0, heads.query, norms.map(|n| n.0))?;
    let k = part(heads.query, heads.kv, norms.map(|n| n.1))?;
    let v = qkv.narrow(
        1,
        (heads.query + heads.kv) * heads.dim,
        heads.kv * heads.dim,
    )?;
    Tensor::cat(&[q, k, v], 1)
}

#[cfg(test)]
mod tests {
    use super::super::check::{gradients_agree, wave};
    use super::*;

    const HEADS: Heads = Heads {
        query: 4,
        kv: 2,
        dim: 6,
    };

    #[test]
    fn agrees_with_the_plain_form() -> Result<()> {
        let angles = Angles::new(&[0, 1, 2, 5, 3], &[1.0, 0.3, 0.01]);
        let qkv = wave(&[5, HEADS.width()], 0.3)?;
        gradients_agree(
            std::slice::from_ref(&qkv),
            |t| rope(&t[0], None, HEADS, &angles, 1e-6),
            |t| plain(&t[0], None, HEADS, &angles, 1e-6),
            1e-5,
        )?;
        let inputs = [qkv, wave(&[6], 0.8)?, wave(&[6], 1.1)?];
        gradients_agree(
            &inputs,
            |t| rope(&t[0], Some((&t[1], &t[2])), HEADS, &angles, 1e-6),
            |t| plain(&t[0], Some((&t[1], &t[2])), HEADS, &angles, 1e-6),
            1e-5,
        )
    }
}
