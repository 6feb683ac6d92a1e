//! The safe layer: checks every length, splits the work, calls through the table.

mod attention;
mod elementwise;
mod isa;
mod linear;
mod matmul;
mod matmul_int8;
mod table;

pub(crate) use attention::Part;
pub use linear::RmsNorm;
pub use table::{Table, tables};

use crate::kv::STATE;
use crate::pool::{Columns, Pool};
use crate::{AttentionShape, KernelError, KvSource, MAX_HEAD_DIM, MAX_KV_BLOCK, Result};

/// What one value of a norm costs in multiply-adds, for its memory traffic. A guess that only has to be right within a factor of two,
/// for it decides when to share work.
const NORM_COST: usize = 2;

/// So many times as many shares of attention as threads keep all threads busy, whether or not they divide evenly.
const SHARES: usize = 4;

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

    /// The kernel table in use.
    pub fn table(&self) -> &'static Table {
        self.table
    }

    /// Name of the kernel table in use.
    pub fn name(&self) -> &'static str {
        self.table.name()
    }

    /// Threads in use, counting the caller.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// `out = x / √(mean(x²) + eps) · weight`, for each row of `weight.len()` values.
    ///
    /// # Errors
    /// [`KernelError::Multiple`] or [`KernelError::Shape`] if a length disagrees.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<()> {
        let cols = rows_of("rms_norm", x.len(), weight.len())?;
        check("rms_norm", "out", x.len(), out.len())?;
        let (width, work) = (out.len(), out.len().saturating_mul(NORM_COST));
        let out = Columns::new(out, width, cols);
        self.pool.split(out, work, |mut band| {
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
    /// `room` is working memory of at least [`AttentionShape::room`] floats, or empty: then threads share heads alone, not the spans of
    /// the positions, which takes longer where one token has more to read than heads to share. The result is the same.
    ///
    /// # Errors
    /// [`KernelError::Shape`], [`KernelError::Multiple`] or [`KernelError::Limit`] if a size disagrees.
    pub fn attention(
        &self,
        q: &[f32],
        q_positions: &[u32],
        shape: AttentionShape,
        kv: &dyn KvSource,
        room: &mut [f32],
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
        if head_dim > MAX_HEAD_DIM {
            return Err(KernelError::Limit {
                op: OP,
                what: "head_dim",
                limit: MAX_HEAD_DIM,
                actual: head_dim,
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
            let bytes = kv_heads.saturating_mul(kv.format().head_bytes(block.stride, head_dim));
            check(OP, "k", bytes, block.k.len())?;
            check(OP, "v", bytes, block.v.len())?;
            if block.positions.len() < block.len {
                check(OP, "positions", block.len, block.positions.len())?;
            }
        }
        let floats = shape.room(kv.blocks());
        if !room.is_empty() && room.len() < floats {
            check(OP, "room", floats, room.len())?;
        }
        let work = out.len().saturating_mul(2 * entries);
        // Heads that share keys stay together, so that a key is read once for all of them, as long as there is a share for every thread.
        let group = heads / kv_heads;
        let shares = q_positions.len().saturating_mul(kv_heads);
        // Few shares that the threads cannot share evenly: one token's spans are shared, too.
        let are_uneven = shares < SHARES * self.threads() && !shares.is_multiple_of(self.threads());
        let by_span = q_positions.len() == 1 && are_uneven && shape.spans(kv.blocks()) > 1;
        let (part, band, width) = match (self.table.merge, room.get_mut(..floats)) {
            (Some(_), Some(room)) if by_span => (Part::Spans, room, head_dim + STATE),
            _ => (Part::Heads, &mut *out, head_dim),
        };
        let step = match band.len() / (width * group) >= self.threads() {
            true => width * group,
            false => width,
        };
        let columns = band.len();
        self.pool
            .split(Columns::new(band, columns, step), work, |mut band| {
                (self.table.attention)(q, q_positions, shape, kv, part, &mut band);
            });
        if let (Part::Spans, Some(merge)) = (part, self.table.merge) {
            merge(shape, &room[..floats], out);
        }
        Ok(())
    }
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
