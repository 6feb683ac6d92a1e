//! Fused operations with hand-written gradients, as candle custom ops on `f32` CPU storage.
//!
//! candle's own fused forms (`softmax_last_dim`, `rms_norm`, `rope`) carry no gradient and say nothing about it, and its
//! differentiable forms walk memory once per elementary operation on one thread. The student is small, so memory traffic and
//! not arithmetic would set the pace. Every op here reads its input once, writes its output once, and is tested against the
//! plain differentiable form and against finite differences.
//!
//! Each op is a pair of functions over slices and a custom op around them. The trainer's [`Pass`](crate::pass::Pass) calls the
//! functions with buffers that it keeps; the custom ops are for the graph, on which any other objective can be built.
//!
//! All activations are flat: `N` tokens of a whole micro-batch, outermost first, `[N, E]`. Which tokens see which others is
//! told by [`Segment`](crate::pack::Segment)s, so no token is ever padding.

pub mod attention;
pub mod cross_entropy;
pub mod linear;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

pub(crate) mod latent_map;
pub(crate) mod matmul;
pub(crate) mod projection;
pub(crate) mod simd;

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};

/// The contiguous `f32` values behind a custom op's argument.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout, op: &str) -> Result<&'a [f32]> {
    let data = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!(
            "{op}: argument of shape {:?} is not contiguous",
            layout.shape()
        ),
    }
}

/// Runs `f` on the contiguous `f32` values of a CPU tensor; copies first if the tensor is strided.
pub(crate) fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(values(cpu, layout, "read")?)),
        _ => bail!(
            "training ops run on the CPU, tensor is on {:?}",
            tensor.device()
        ),
    }
}

/// A tensor of `shape` like `like`, from values that an op computed.
fn tensor_like(data: Vec<f32>, shape: &Shape, like: &Tensor) -> Result<Tensor> {
    debug_assert_eq!(like.dtype(), DType::F32);
    Tensor::from_vec(data, shape, like.device())
}

/// Rows and columns of a `[N, C]` layout.
fn dims2(layout: &Layout, op: &str) -> Result<(usize, usize)> {
    match layout.dims() {
        &[rows, cols] => Ok((rows, cols)),
        dims => bail!("{op}: expected [tokens, features], got {dims:?}"),
    }
}

#[cfg(test)]
pub(crate) mod check;
