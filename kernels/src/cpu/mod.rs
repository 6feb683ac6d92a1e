//! The safe layer: checks every length, splits the work, calls through the table.

mod attention;
mod elementwise;
mod isa;
mod matmul;
mod matmul_int8;
mod table;

pub use table::{Table, tables};

use crate::pool::Pool;
use crate::{Activations, AttentionShape, KernelError, KvSource, MAX_KV_BLOCK, Matrix, Result};

/// Bands of a matrix product start at multiples of this many rows: 16 floats of `y` are a cache line, so no two threads
/// write one.
const ROW_STEP: usize = 16;

/// Values of `silu_mul` per step: a page of floats, far more than a vector.
const SILU_STEP: usize = 1024;

/// What one value of `silu_mul` costs in multiply-adds: an exponential, a division and memory traffic. A guess that only
/// has to be right within a factor of two, for it decides when to share work.
const SILU_COST: usize = 8;

/// As [`SILU_COST`], for a norm.
const NORM_COST: usize = 2;

/// The CPU as a place to compute: a kernel table and a pool of worker threads.
///
/// May be shared: a call that finds the workers busy with another caller's work runs on its own thread alone, with the
/// same result.
#[derive(Debug)]
pub struct Cpu {
    table: &'static Table,
    pool: Pool,
}

impl Cpu {
    /// The best table of this CPU, or the one that the environment variable `SKIMSTONE_KERNELS` names, and `threads`
    /// threads counting the caller.
    ///
    /// # Errors
    /// [`KernelError::UnknownTable`] if the variable names a table that cannot run here; [`KernelError::Threads`] if
    /// `threads` is 0 or the system refuses them.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_table(Table::from_env()?, threads)
    }

    /// A given table, see [`tables`].
    ///
    /// # Errors
    /// [`KernelError::Threads`] if `threads` is 0 or the system refuses them.
    pub fn with_table(table: &'static Table, threads: usize) -> Result<Self> {
        Ok(Self {
            table,
            pool: Pool::new(threads)?,
        })
    }

    /// Name of the kernel table in use.
    pub fn name(&self) -> &'static str {
        self.table.name()
    }

    /// Threads in use, counting the caller.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

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
        acts.fill(x, cols, quantize.then_some(self.table.quantize))
    }

    /// `y = x · wᵀ`.
    ///
    /// Shapes: `w` is `[rows, cols]`, `acts` hold `[T, cols]`, `y` is `[T, rows]`. Quantized weights use the int8 blocks
    /// of `acts`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if a size disagrees, [`KernelError::NotQuantized`] if `acts` lack the blocks.
    pub fn matmul(&self, w: &Matrix<'_>, acts: &Activations, y: &mut [f32]) -> Result<()> {
        self.matmuls([w], acts, [y])
    }

    /// [`matmul`](Self::matmul) of several matrices with the same activations, in one job for the threads.
    ///
    /// # Errors
    /// As [`matmul`](Self::matmul).
    pub fn matmuls<const N: usize>(
        &self,
        ws: [&Matrix<'_>; N],
        acts: &Activations,
        ys: [&mut [f32]; N],
    ) -> Result<()> {
        let mut work = 0usize;
        for (w, y) in ws.iter().zip(&ys) {
            check_matmul(w, acts, y.len())?;
            work = work.saturating_add(y.len().saturating_mul(w.cols()));
        }
        let mut widths = ws.iter().map(|w| w.rows());
        let outputs = ys.map(|y| (y, widths.next().unwrap_or_default()));
        self.pool.bands_of(outputs, ROW_STEP, work, |i, band| {
            (self.table.matmul(ws[i].format()))(ws[i], acts, band);
        });
        Ok(())
    }

    /// `gate = silu(x · gateᵀ) · (x · upᵀ)`, in one job for the threads; `up_y` is overwritten.
    ///
    /// Shapes: both matrices are `[rows, cols]`, `acts` hold `[T, cols]`, `gate_y` and `up_y` are `[T, rows]`.
    ///
    /// # Errors
    /// As [`matmul`](Self::matmul).
    pub fn matmul_silu_mul(
        &self,
        [gate, up]: [&Matrix<'_>; 2],
        acts: &Activations,
        gate_y: &mut [f32],
        up_y: &mut [f32],
    ) -> Result<()> {
        check_matmul(gate, acts, gate_y.len())?;
        check_matmul(up, acts, up_y.len())?;
        check("matmul_silu_mul", "up", gate.rows(), up.rows())?;
        let (of_gate, of_up) = (
            self.table.matmul(gate.format()),
            self.table.matmul(up.format()),
        );
        let work = 2 * gate_y.len().saturating_mul(gate.cols());
        let outputs = [gate_y, up_y];
        self.pool
            .band_pairs(outputs, gate.rows(), ROW_STEP, work, |gate_y, up_y| {
                of_gate(gate, acts, gate_y);
                of_up(up, acts, up_y);
                for t in 0..acts.tokens() {
                    (self.table.silu_mul)(gate_y.row_mut(t), up_y.row_mut(t));
                }
            });
        Ok(())
    }

    /// `out = x / √(mean(x²) + eps) · weight`, for each row of `weight.len()` values.
    ///
    /// # Errors
    /// [`KernelError::Multiple`] or [`KernelError::Shape`] if a length disagrees.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<()> {
        let cols = rows_of("rms_norm", x.len(), weight.len())?;
        check("rms_norm", "out", x.len(), out.len())?;
        let (width, work) = (out.len(), out.len().saturating_mul(NORM_COST));
        self.pool.bands(out, width, cols, work, |band| {
            let x = &x[band.columns()];
            for (x, out) in x
                .chunks_exact(cols)
                .zip(band.row_mut(0).chunks_exact_mut(cols))
            {
                (self.table.rms_norm)(x, weight, eps, out);
            }
        });
        Ok(())
    }

    /// [`rms_norm`](Self::rms_norm) in place.
    ///
    /// # Errors
    /// [`KernelError::Multiple`] if `x` is not whole rows.
    pub fn rms_norm_in_place(&self, x: &mut [f32], weight: &[f32], eps: f32) -> Result<()> {
        let cols = rows_of("rms_norm", x.len(), weight.len())?;
        for x in x.chunks_exact_mut(cols) {
            (self.table.rms_norm_in_place)(x, weight, eps);
        }
        Ok(())
    }

    /// `x += y`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) -> Result<()> {
        check("add", "y", x.len(), y.len())?;
        (self.table.add)(x, y);
        Ok(())
    }

    /// `x += bias` for each row of `bias.len()` values.
    ///
    /// # Errors
    /// [`KernelError::Multiple`] if `x` is not whole rows.
    pub fn add_bias(&self, x: &mut [f32], bias: &[f32]) -> Result<()> {
        let cols = rows_of("add_bias", x.len(), bias.len())?;
        for x in x.chunks_exact_mut(cols) {
            (self.table.add)(x, bias);
        }
        Ok(())
    }

    /// `gate = silu(gate) · up`, where `silu(x) = x / (1 + e^-x)`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the lengths differ.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) -> Result<()> {
        check("silu_mul", "up", gate.len(), up.len())?;
        let (width, work) = (gate.len(), gate.len().saturating_mul(SILU_COST));
        self.pool.bands(gate, width, SILU_STEP, work, |band| {
            let up = &up[band.columns()];
            (self.table.silu_mul)(band.row_mut(0), up);
        });
        Ok(())
    }

    /// Rotary position embedding of the pairs `(x[i], x[i + D/2])`: the half-split layout of Hugging Face checkpoints.
    ///
    /// Shapes: `x` is `[T, heads, D]`, `cos` and `sin` are `[T, D/2]`.
    ///
    /// # Errors
    /// [`KernelError::Multiple`] if `head_dim` is odd or `cos` not whole rows, [`KernelError::Shape`] for other lengths.
    pub fn rope(
        &self,
        x: &mut [f32],
        heads: usize,
        head_dim: usize,
        cos: &[f32],
        sin: &[f32],
    ) -> Result<()> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(KernelError::Multiple {
                op: "rope",
                what: "head_dim",
                of: 2,
                actual: head_dim,
            });
        }
        let half = head_dim / 2;
        if !cos.len().is_multiple_of(half) {
            return Err(KernelError::Multiple {
                op: "rope",
                what: "cos",
                of: half,
                actual: cos.len(),
            });
        }
        check("rope", "sin", cos.len(), sin.len())?;
        check(
            "rope",
            "x",
            (cos.len() / half)
                .saturating_mul(heads)
                .saturating_mul(head_dim),
            x.len(),
        )?;
        if heads == 0 {
            return Ok(());
        }
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (x, (cos, sin)) in x.chunks_exact_mut(heads * head_dim).zip(angles) {
            for x in x.chunks_exact_mut(head_dim) {
                (self.table.rope)(x, cos, sin);
            }
        }
        Ok(())
    }

    /// Attention of the queries over the entries of `kv` that are visible and not later than the query.
    ///
    /// Shapes: `q` and `out` are `[T, H, D]`, `q_positions` is `[T]`. Query head `h` reads key and value head
    /// `h / (H / G)`. A query that sees nothing gives zeros.
    ///
    /// # Errors
    /// [`KernelError::Shape`], [`KernelError::Multiple`] or [`KernelError::Limit`] if a size disagrees.
    pub fn attention(
        &self,
        q: &[f32],
        q_positions: &[u32],
        shape: AttentionShape,
        kv: &dyn KvSource,
        out: &mut [f32],
    ) -> Result<()> {
        const OP: &str = "attention";
        let AttentionShape {
            heads,
            kv_heads,
            head_dim,
            ..
        } = shape;
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(KernelError::Multiple {
                op: OP,
                what: "heads",
                of: kv_heads,
                actual: heads,
            });
        }
        if head_dim == 0 {
            return Err(KernelError::Multiple {
                op: OP,
                what: "head_dim",
                of: 1,
                actual: 0,
            });
        }
        let expected = q_positions
            .len()
            .saturating_mul(heads)
            .saturating_mul(head_dim);
        check(OP, "q", expected, q.len())?;
        check(OP, "out", expected, out.len())?;
        let mut entries = 0usize;
        for b in 0..kv.blocks() {
            let block = kv.block(b);
            entries += block.len;
            if block.stride > MAX_KV_BLOCK {
                return Err(KernelError::Limit {
                    op: OP,
                    what: "stride",
                    limit: MAX_KV_BLOCK,
                    actual: block.stride,
                });
            }
            if block.len > block.stride {
                return Err(KernelError::Limit {
                    op: OP,
                    what: "len",
                    limit: block.stride,
                    actual: block.len,
                });
            }
            let bytes = kv_heads
                .saturating_mul(block.stride)
                .saturating_mul(head_dim)
                .saturating_mul(kv.format().bytes());
            check(OP, "k", bytes, block.k.len())?;
            check(OP, "v", bytes, block.v.len())?;
            if block.positions.len() < block.len {
                check(OP, "positions", block.len, block.positions.len())?;
            }
        }
        let (width, work) = (out.len(), out.len().saturating_mul(2 * entries));
        // Heads that share keys stay together, so that a key is read once for all of them, as long as there is a share for every thread.
        let shares = q_positions.len().saturating_mul(kv_heads);
        let step = if shares >= self.threads() {
            head_dim * (heads / kv_heads)
        } else {
            head_dim
        };
        let attention = self.table.attention(kv.format());
        self.pool.bands(out, width, step, work, |band| {
            attention(q, q_positions, shape, kv, band);
        });
        Ok(())
    }

    /// `x = e^x / Σ e^x` in place. Minus infinity gives 0.
    pub fn softmax(&self, x: &mut [f32]) {
        (self.table.softmax)(x);
    }

    /// Index of the largest value, the first of equals. NaN never wins; 0 if there is nothing to choose.
    pub fn argmax(&self, x: &[f32]) -> usize {
        (self.table.argmax)(x)
    }
}

fn check_matmul(w: &Matrix<'_>, acts: &Activations, y: usize) -> Result<()> {
    check("matmul", "x", w.cols(), acts.cols())?;
    check("matmul", "y", w.rows().saturating_mul(acts.tokens()), y)?;
    if w.format().is_quantized() && !acts.is_quantized() {
        return Err(KernelError::NotQuantized {
            format: w.format().name(),
        });
    }
    Ok(())
}

fn check(op: &'static str, what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual {
        Ok(())
    } else {
        Err(KernelError::Shape {
            op,
            what,
            expected,
            actual,
        })
    }
}

/// The row length, if `len` is a whole number of rows.
fn rows_of(op: &'static str, len: usize, cols: usize) -> Result<usize> {
    if cols == 0 || !len.is_multiple_of(cols) {
        return Err(KernelError::Multiple {
            op,
            what: "x",
            of: cols,
            actual: len,
        });
    }
    Ok(cols)
}
