//! The safe layer of the matrix products, and of what comes before and after each: one job for the threads per call.

use super::{Cpu, check, rows_of};
use crate::activations::ActivationBand;
use crate::pool::{Band, Columns};
use crate::{Activations, BLOCK, KernelError, Linear, PANEL, Result};

/// What rounding one value costs in multiply-adds, with the norm before it. Like the costs below a guess that only has to be right
/// within a factor of two, for it decides when to share work.
const LOAD_COST: usize = 16;

/// What the activation function costs per value: an exponential, a division and memory traffic.
const SILU_COST: usize = 16;

/// A root-mean-square norm: `x / √(mean(x²) + eps) · weight`.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// `[cols]`
    pub weight: &'a [f32],
    /// Keeps the root away from zero.
    pub eps: f32,
}

impl Cpu {
    /// Loads `x` `[T, cols]` into `acts`, and rounds it to int8 blocks if `quantize`.
    ///
    /// # Errors
    /// [`KernelError::Multiple`] or [`KernelError::Limit`] if `x` is not whole rows or does not fit.
    pub fn load(
        &self,
        acts: &mut Activations,
        x: &[f32],
        cols: usize,
        quantize: bool,
    ) -> Result<()> {
        self.load_rows(acts, x, cols, quantize, |x, out| out.copy_from_slice(x))
    }

    /// [`load`](Self::load) of the norm of each row of `x`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_norm(
        &self,
        acts: &mut Activations,
        x: &[f32],
        norm: RmsNorm<'_>,
        quantize: bool,
    ) -> Result<()> {
        self.load_rows(acts, x, norm.weight.len(), quantize, |x, out| {
            (self.table.rms_norm)(x, norm.weight, norm.eps, out);
        })
    }

    fn load_rows(
        &self,
        acts: &mut Activations,
        x: &[f32],
        cols: usize,
        quantize: bool,
        copy: impl Fn(&[f32], &mut [f32]) + Sync,
    ) -> Result<()> {
        let tokens = x.len() / rows_of("load", x.len(), cols)?;
        acts.reset(tokens, cols, quantize)?;
        let work = x.len().saturating_mul(LOAD_COST);
        self.pool.split(acts.split_tokens(), work, |mut part| {
            let x = &x[part.0.columns()];
            let rows = x.chunks_exact(cols);
            for (x, out) in rows.zip(part.0.row_mut(0).chunks_exact_mut(cols)) {
                copy(x, out);
            }
            if quantize {
                self.round(&mut part, 0, cols);
            }
        });
        Ok(())
    }

    /// Rounds the values in row `row` of a part, which are rows of `cols` one after the other.
    fn round(&self, (values, int8): &mut ActivationBand<'_>, row: usize, cols: usize) {
        let int8 = int8.row_mut(row).chunks_mut(cols.div_ceil(BLOCK));
        for (x, int8) in values.row_mut(row).chunks(cols).zip(int8) {
            (self.table.quantize)(x, int8);
        }
    }

    /// `y = x · weightᵀ + bias`.
    ///
    /// Shapes: the weight is `[rows, cols]`, `acts` hold `[T, cols]`, `y` is `[T, rows]`. Quantized weights use the int8 blocks of `acts`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if a size disagrees, [`KernelError::NotQuantized`] if `acts` lack the blocks.
    pub fn linear(&self, w: &Linear<'_>, acts: &Activations, y: &mut [f32]) -> Result<()> {
        self.linears([w], acts, [y])
    }

    /// [`linear`](Self::linear) of several matrices with the same activations.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    pub fn linears<const N: usize>(
        &self,
        ws: [&Linear<'_>; N],
        acts: &Activations,
        ys: [&mut [f32]; N],
    ) -> Result<()> {
        let mut work = 0usize;
        for (w, y) in ws.iter().zip(&ys) {
            work = work.saturating_add(check_linear(w, acts, y.len())?);
        }
        let (mut i, step) = (0, row_step(acts));
        let outputs = ys.map(|y| {
            i += 1;
            Columns::new(y, ws[i - 1].weight.rows(), step)
        });
        self.pool.split_each(outputs, work, |i, mut band| {
            self.product(ws[i], acts, &mut band);
        });
        Ok(())
    }

    /// `y += x · weightᵀ + bias`; `product` is overwritten.
    ///
    /// Shapes: as [`linear`](Self::linear); `product` is as large as `y`.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    pub fn linear_add(
        &self,
        w: &Linear<'_>,
        acts: &Activations,
        product: &mut [f32],
        y: &mut [f32],
    ) -> Result<()> {
        let work = check_linear(w, acts, y.len())?;
        check("linear_add", "product", y.len(), product.len())?;
        let (rows, step) = (w.weight.rows(), row_step(acts));
        let outputs = (
            Columns::new(product, rows, step),
            Columns::new(y, rows, step),
        );
        self.pool.split(outputs, work, |(mut product, mut y)| {
            self.product(w, acts, &mut product);
            for t in 0..acts.tokens() {
                (self.table.add)(y.row_mut(t), product.row_mut(t));
            }
        });
        Ok(())
    }

    /// Loads `silu(gate(x)) · up(x)` into `out`, where `silu(v) = v / (1 + e^-v)`, rounded to int8 blocks if `quantize`; `up_y` is
    /// overwritten.
    ///
    /// Shapes: both matrices are `[rows, cols]`, `acts` hold `[T, cols]`, `up_y` is `[T, rows]`, `out` then holds `[T, rows]`.
    ///
    /// # Errors
    /// As [`linear`](Self::linear), and [`KernelError::Limit`] if `out` has not the room.
    pub fn load_silu_mul(
        &self,
        [gate, up]: [&Linear<'_>; 2],
        acts: &Activations,
        up_y: &mut [f32],
        out: &mut Activations,
        quantize: bool,
    ) -> Result<()> {
        let rows = up.weight.rows();
        let values = up_y.len();
        check("load_silu_mul", "gate", rows, gate.weight.rows())?;
        let work = check_linear(gate, acts, values)?
            .saturating_add(check_linear(up, acts, values)?)
            .saturating_add(values.saturating_mul(SILU_COST));
        out.reset(acts.tokens(), rows, quantize)?;
        // Whole blocks of activations, and whole panels of weights.
        let blocks = row_step(acts)
            .div_ceil(BLOCK)
            .next_multiple_of(row_step(acts) / PANEL);
        let outputs = (
            out.split_columns(blocks),
            Columns::new(up_y, rows, blocks * BLOCK),
        );
        self.pool.split(outputs, work, |(mut out, mut up_y)| {
            self.product(gate, acts, &mut out.0);
            self.product(up, acts, &mut up_y);
            for t in 0..acts.tokens() {
                let width = up_y.columns().len();
                (self.table.silu_mul)(out.0.row_mut(t), up_y.row_mut(t));
                if quantize {
                    self.round(&mut out, t, width);
                }
            }
        });
        Ok(())
    }

    /// The band's columns of `x · weightᵀ + bias`.
    fn product(&self, w: &Linear<'_>, acts: &Activations, y: &mut Band<'_>) {
        (self.table.matmul(w.weight.format()))(&w.weight, acts, y);
        if let Some(bias) = w.bias {
            let bias = &bias[y.columns()];
            for t in 0..acts.tokens() {
                (self.table.add)(y.row_mut(t), bias);
            }
        }
    }
}

/// Bands of a product start at multiples of this many rows. 16 floats of `y` are a cache line, so no two threads write one; and 16 rows
/// are a panel, of which several make a register tile where there are several tokens.
fn row_step(acts: &Activations) -> usize {
    if acts.tokens() > 1 { 3 * PANEL } else { PANEL }
}

/// The multiply-adds of a product, if the sizes agree.
fn check_linear(w: &Linear<'_>, acts: &Activations, y: usize) -> Result<usize> {
    let (rows, cols) = (w.weight.rows(), w.weight.cols());
    check("linear", "x", cols, acts.cols())?;
    check("linear", "y", rows.saturating_mul(acts.tokens()), y)?;
    if let Some(bias) = w.bias {
        check("linear", "bias", rows, bias.len())?;
    }
    if w.weight.format().is_quantized() && !acts.is_quantized() {
        return Err(KernelError::NotQuantized {
            format: w.weight.format().name(),
        });
    }
    Ok(y.saturating_mul(cols))
}
