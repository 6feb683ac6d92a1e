//! The left side of a matrix product, loaded once for the several matrices that read it.

use crate::quant::Int8Block;
use crate::{BLOCK, KernelError, Result};

/// Rounds one row `[cols]` to int8 blocks, their scales and the sums of their bytes, all `[blocks]`.
pub(crate) type Quantize =
    fn(x: &[f32], out: &mut [Int8Block], scales: &mut [f32], sums: &mut [i32]);

/// One token's int8 blocks, all `[blocks]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8Row<'a> {
    /// The bytes.
    pub(crate) blocks: &'a [Int8Block],
    /// What a byte is worth.
    pub(crate) scales: &'a [f32],
    /// Sum of the bytes: what an offset in the codes of the weights adds to a dot product.
    pub(crate) sums: &'a [i32],
}

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
    /// `[T, blocks]`
    scales: Vec<f32>,
    /// `[T, blocks]`
    sums: Vec<i32>,
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
            int8: vec![Int8Block([0; BLOCK]); blocks],
            scales: vec![0.0; blocks],
            sums: vec![0; blocks],
        }
    }

    /// Bytes of memory that `Activations::new` with these limits takes.
    pub const fn bytes_for(max_tokens: usize, max_cols: usize) -> usize {
        let per_token =
            max_cols * size_of::<f32>() + max_cols.div_ceil(BLOCK) * (BLOCK + 2 * size_of::<f32>());
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

    /// Copies `x` in and hands each row with its int8 blocks to `quantize`, if there is one.
    pub(crate) fn fill(
        &mut self,
        x: &[f32],
        cols: usize,
        quantize: Option<Quantize>,
    ) -> Result<()> {
        if cols == 0 || !x.len().is_multiple_of(cols) {
            return Err(KernelError::Multiple {
                op: "load",
                what: "x",
                of: cols,
                actual: x.len(),
            });
        }
        let tokens = x.len() / cols;
        if cols > self.max_cols {
            return Err(KernelError::Limit {
                op: "load",
                what: "cols",
                limit: self.max_cols,
                actual: cols,
            });
        }
        if tokens > self.max_tokens {
            return Err(KernelError::Limit {
                op: "load",
                what: "tokens",
                limit: self.max_tokens,
                actual: tokens,
            });
        }
        (self.tokens, self.cols, self.quantized) = (tokens, cols, quantize.is_some());
        self.values[..x.len()].copy_from_slice(x);
        if let Some(quantize) = quantize {
            let blocks = cols.div_ceil(BLOCK);
            let rows = x.chunks_exact(cols);
            let int8 = self.int8.chunks_exact_mut(blocks);
            let scales = self.scales.chunks_exact_mut(blocks);
            let sums = self.sums.chunks_exact_mut(blocks);
            for (((x, int8), scales), sums) in rows.zip(int8).zip(scales).zip(sums) {
                quantize(x, int8, scales, sums);
            }
        }
        Ok(())
    }

    /// Row `token` as f32 `[cols]`.
    #[inline(always)]
    pub(crate) fn row(&self, token: usize) -> &[f32] {
        &self.values[token * self.cols..(token + 1) * self.cols]
    }

    /// Row `token` as int8 blocks.
    #[inline(always)]
    pub(crate) fn int8_row(&self, token: usize) -> Int8Row<'_> {
        let blocks = self.cols.div_ceil(BLOCK);
        let range = token * blocks..(token + 1) * blocks;
        Int8Row {
            blocks: &self.int8[range.clone()],
            scales: &self.scales[range.clone()],
            sums: &self.sums[range],
        }
    }
}
