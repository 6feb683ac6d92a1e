//! The left side of a matrix product, loaded once for the several matrices that read it.

use crate::pool::{Band, Columns};
use crate::quant::Int8Block;
use crate::{BLOCK, KernelError, Result};

/// Rounds one row `[cols]` to int8 blocks `[blocks]`.
pub(crate) type Quantize = fn(x: &[f32], out: &mut [Int8Block]);

/// [`Activations`] to be written by several threads: values and their int8 blocks.
pub(crate) type ActivationColumns<'a> = (Columns<'a>, Columns<'a, Int8Block>);

/// A part of [`ActivationColumns`].
pub(crate) type ActivationBand<'a> = (Band<'a>, Band<'a, Int8Block>);

/// Preallocated room for the activations `[T, cols]` of one or more products.
///
/// [`Cpu::load`](crate::Cpu::load) fills it without allocating.
#[derive(Debug)]
pub struct Activations {
    max_tokens: usize,
    max_cols: usize,
    tokens: usize,
    cols: usize,
    quantized: bool,
    /// `[T, cols]`
    values: Vec<f32>,
    /// `[T, blocks]`
    int8: Vec<Int8Block>,
}

impl Activations {
    /// Room for `max_tokens` rows of `max_cols` values, and for their int8 blocks.
    pub fn new(max_tokens: usize, max_cols: usize) -> Self {
        let blocks = max_tokens * max_cols.div_ceil(BLOCK);
        Self {
            max_tokens,
            max_cols,
            tokens: 0,
            cols: 0,
            quantized: false,
            values: vec![0.0; max_tokens * max_cols],
            int8: vec![Int8Block::ZERO; blocks],
        }
    }

    /// [`Activations::new`], or `None` if the system refuses the memory.
    pub fn try_new(max_tokens: usize, max_cols: usize) -> Option<Self> {
        let (mut values, mut int8) = (Vec::new(), Vec::new());
        let count = max_tokens.checked_mul(max_cols)?;
        let blocks = max_tokens * max_cols.div_ceil(BLOCK);
        values.try_reserve_exact(count).ok()?;
        int8.try_reserve_exact(blocks).ok()?;
        values.resize(count, 0.0);
        int8.resize(blocks, Int8Block::ZERO);
        Some(Self {
            max_tokens,
            max_cols,
            values,
            int8,
            ..Self::new(0, 0)
        })
    }

    /// Bytes of memory that `Activations::new` with these limits takes.
    pub const fn bytes_for(max_tokens: usize, max_cols: usize) -> usize {
        let per_token =
            max_cols * size_of::<f32>() + max_cols.div_ceil(BLOCK) * size_of::<Int8Block>();
        max_tokens * per_token
    }

    /// Bytes of memory held.
    pub const fn bytes(&self) -> usize {
        Self::bytes_for(self.max_tokens, self.max_cols)
    }

    /// Rows of the last load.
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of the last load.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Whether the last load made int8 blocks.
    pub const fn is_quantized(&self) -> bool {
        self.quantized
    }

    /// Makes room for `tokens` rows of `cols` values, whose content is then up to the caller.
    pub(crate) fn reset(&mut self, tokens: usize, cols: usize, quantized: bool) -> Result<()> {
        for (what, limit, actual) in [
            ("cols", self.max_cols, cols),
            ("tokens", self.max_tokens, tokens),
        ] {
            if actual > limit {
                return Err(KernelError::Limit {
                    op: "load",
                    what,
                    limit,
                    actual,
                });
            }
        }
        (self.tokens, self.cols, self.quantized) = (tokens, cols, quantized);
        Ok(())
    }

    /// Whole rows, to be written by several threads: a step is a token, a part some tokens one after the other.
    pub(crate) fn split_tokens(&mut self) -> ActivationColumns<'_> {
        let (tokens, cols, blocks) = (self.tokens, self.cols, self.cols.div_ceil(BLOCK));
        self.split(tokens * cols, tokens * blocks, cols, blocks)
    }

    /// Columns of all tokens, to be written by several threads: a step is so many blocks of [`BLOCK`] columns.
    pub(crate) fn split_columns(&mut self, blocks: usize) -> ActivationColumns<'_> {
        let (cols, all) = (self.cols, self.cols.div_ceil(BLOCK));
        self.split(cols, all, blocks * BLOCK, blocks)
    }

    fn split(
        &mut self,
        cols: usize,
        blocks: usize,
        step: usize,
        block_step: usize,
    ) -> ActivationColumns<'_> {
        let values = self.tokens * self.cols;
        let used = self.tokens * self.cols.div_ceil(BLOCK);
        (
            Columns::new(&mut self.values[..values], cols, step),
            Columns::new(&mut self.int8[..used], blocks, block_step),
        )
    }

    /// The values of the last load, `[T, cols]`.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.tokens * self.cols]
    }

    /// Row `token` as f32 `[cols]`.
    #[inline(always)]
    pub(crate) fn row(&self, token: usize) -> &[f32] {
        &self.values[token * self.cols..(token + 1) * self.cols]
    }

    /// Row `token` as int8 blocks.
    #[inline(always)]
    pub(crate) fn int8_row(&self, token: usize) -> &[Int8Block] {
        let blocks = self.cols.div_ceil(BLOCK);
        &self.int8[token * blocks..(token + 1) * blocks]
    }
}
