//! Matrix products of quantized weights with int8 activations over [`Isa`], and the rounding of activations.
//!
//! A panel of 16 rows meets a few tokens at a time. Per block of 32 columns: an exact integer dot product for each row and token, scaled
//! and added to a float per row and token. Lanes are rows, so nothing crosses lanes and the sum of a cell is one chain over the blocks,
//! whatever the number of tokens or threads and whatever the width of the vectors.

use super::isa::Isa;
use crate::activations::Int8Row;
use crate::pool::Band;
use crate::quant::{Int8Block, MIN_MAGNITUDE, Q4_BYTES, Q8_BYTES, SCALE_BYTES};
use crate::{Activations, BLOCK, Matrix, PANEL};

/// Bytes of activations that meet a panel before the next panel is read: what a second-level cache holds beside it.
const TOKEN_BLOCK_BYTES: usize = 512 << 10;

/// How far ahead of its use the stream of weights is asked for: some 100 ns at the bandwidth of one core. The hardware follows the
/// stream by itself, but stops at every page.
const AHEAD: usize = 4096;

/// Bytes of a cache line.
const LINE: usize = 64;

/// `y = x · wᵀ` for quantized weights and int8 activations. The band begins at a whole panel.
#[inline(always)]
pub(crate) fn matmul_int8<I: Isa, W: PanelFormat>(
    isa: I,
    w: &Matrix<'_>,
    x: &Activations,
    y: &mut Band<'_>,
) {
    let rows = y.columns();
    let per_block = (TOKEN_BLOCK_BYTES / w.cols().max(1)).max(I::PANEL_TOKENS);
    let per_block = per_block / I::PANEL_TOKENS * I::PANEL_TOKENS;
    for start in (0..x.tokens()).step_by(per_block) {
        let end = x.tokens().min(start + per_block);
        for panel in rows.start / PANEL..rows.end.div_ceil(PANEL) {
            let at = panel * PANEL - rows.start;
            let blocks = W::blocks(w.panel(panel));
            let mut t = start;
            if I::PANEL_TOKENS >= 8 {
                while t + 8 <= end {
                    tile::<I, W, 8>(isa, blocks, x, y, at, t);
                    t += 8;
                }
            }
            while t + 4 <= end {
                tile::<I, W, 4>(isa, blocks, x, y, at, t);
                t += 4;
            }
            while t < end {
                tile::<I, W, 1>(isa, blocks, x, y, at, t);
                t += 1;
            }
        }
    }
}

/// One panel against `T` tokens; the results go to the band's columns from `at` on.
#[inline(always)]
fn tile<I: Isa, W: PanelFormat, const T: usize>(
    isa: I,
    w: &[W::Block],
    x: &Activations,
    y: &mut Band<'_>,
    at: usize,
    token: usize,
) {
    // All slices are cut to one length first, so that the loop needs no bounds checks.
    let n = w.len();
    let mut rows = [Int8Row {
        blocks: &[],
        scales: &[],
        sums: &[],
    }; T];
    for (t, row) in rows.iter_mut().enumerate() {
        let whole = x.int8_row(token + t);
        (row.blocks, row.scales, row.sums) =
            (&whole.blocks[..n], &whole.scales[..n], &whole.sums[..n]);
    }
    let mut totals = [isa.panel_zero(); T];
    for (b, block) in w.iter().enumerate() {
        if T == 1 {
            // With one token the product waits for memory.
            for line in 0..size_of::<W::Block>().div_ceil(LINE) {
                isa.prefetch(block.as_ref(), AHEAD + line * LINE);
            }
        }
        let (scales, codes) = W::split(block);
        let mut bytes = [&rows[0].blocks[b]; T];
        let mut sums = [0; T];
        for t in 0..T {
            (bytes[t], sums[t]) = (&rows[t].blocks[b], rows[t].sums[b]);
        }
        let dots = W::dot(isa, codes, bytes, sums);
        let scales = isa.panel_scales(scales);
        for t in 0..T {
            totals[t] = isa.panel_add(totals[t], dots[t], scales, rows[t].scales[b]);
        }
    }
    for (t, total) in totals.into_iter().enumerate() {
        let y = &mut y.row_mut(token + t)[at..];
        if let Some(y) = y.first_chunk_mut() {
            isa.panel_store(total, y);
        } else {
            let mut whole = [0.0; PANEL];
            isa.panel_store(total, &mut whole);
            y.copy_from_slice(&whole[..y.len()]);
        }
    }
}

/// A quantized weight format.
pub(crate) trait PanelFormat {
    /// The bytes of one block of a panel.
    type Block: AsRef<[u8]> + 'static;
    /// The codes among them.
    type Codes: 'static;
    /// Cuts a panel into its blocks.
    fn blocks(panel: &[u8]) -> &[Self::Block];
    /// The scales and the codes of a block.
    fn split(block: &Self::Block) -> (&[u8; SCALE_BYTES], &Self::Codes);
    /// The exact dot products of a block with `T` tokens.
    fn dot<I: Isa, const T: usize>(
        isa: I,
        codes: &Self::Codes,
        x: [&Int8Block; T],
        sums: [i32; T],
    ) -> [I::Integers; T];
}

/// The scales of a block and the `CODES` bytes after them.
#[inline(always)]
fn split<const CODES: usize>(block: &[u8]) -> (&[u8; SCALE_BYTES], &[u8; CODES]) {
    let (scales, codes) = block
        .split_first_chunk()
        .expect("a block starts with its scales");
    (scales, codes.first_chunk().expect("its codes follow"))
}

/// [`Format::Q8`](crate::Format::Q8)
pub(crate) enum Q8 {}

impl PanelFormat for Q8 {
    type Block = [u8; Q8_BYTES];
    type Codes = [u8; PANEL * BLOCK];

    #[inline(always)]
    fn blocks(panel: &[u8]) -> &[Self::Block] {
        panel.as_chunks().0
    }

    #[inline(always)]
    fn split(block: &Self::Block) -> (&[u8; SCALE_BYTES], &Self::Codes) {
        split(block)
    }

    #[inline(always)]
    fn dot<I: Isa, const T: usize>(
        isa: I,
        codes: &Self::Codes,
        x: [&Int8Block; T],
        sums: [i32; T],
    ) -> [I::Integers; T] {
        isa.dot_q8(codes, x, sums)
    }
}

/// [`Format::Q4`](crate::Format::Q4)
pub(crate) enum Q4 {}

impl PanelFormat for Q4 {
    type Block = [u8; Q4_BYTES];
    type Codes = [u8; PANEL * BLOCK / 2];

    #[inline(always)]
    fn blocks(panel: &[u8]) -> &[Self::Block] {
        panel.as_chunks().0
    }

    #[inline(always)]
    fn split(block: &Self::Block) -> (&[u8; SCALE_BYTES], &Self::Codes) {
        split(block)
    }

    #[inline(always)]
    fn dot<I: Isa, const T: usize>(
        isa: I,
        codes: &Self::Codes,
        x: [&Int8Block; T],
        sums: [i32; T],
    ) -> [I::Integers; T] {
        isa.dot_q4(codes, x, sums)
    }
}

/// Rounds one row of activations to int8 blocks; see [`crate::quant`].
#[inline(always)]
pub(crate) fn quantize<I: Isa>(
    isa: I,
    x: &[f32],
    out: &mut [Int8Block],
    scales: &mut [f32],
    sums: &mut [i32],
) {
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    for (((x, out), scale), sum) in blocks
        .iter()
        .zip(out.iter_mut())
        .zip(scales.iter_mut())
        .zip(sums.iter_mut())
    {
        (*scale, *sum) = quantize_block(isa, x, out);
    }
    if !rest.is_empty() {
        let (mut x, last) = ([0.0; BLOCK], blocks.len());
        x[..rest.len()].copy_from_slice(rest);
        (scales[last], sums[last]) = quantize_block(isa, &x, &mut out[last]);
    }
}

/// The scale of the block and the sum of its bytes.
#[inline(always)]
fn quantize_block<I: Isa>(isa: I, x: &[f32; BLOCK], out: &mut Int8Block) -> (f32, i32) {
    let (x, _) = I::chunks(x);
    let zero = isa.splat(0.0);
    let (mut max, mut finite) = (zero, zero);
    for x in x {
        let x = isa.load(x);
        max = isa.max(max, isa.abs(x));
        // 0 · x is NaN for what is not finite.
        finite = isa.fma(x, zero, finite);
    }
    let mut lanes = I::ZEROS;
    isa.store(max, &mut lanes);
    let mut max = 0.0f32;
    for lane in lanes.as_ref() {
        max = max.max(*lane);
    }
    if isa.sum(finite).is_nan() || max < MIN_MAGNITUDE {
        out.0 = [0; BLOCK];
        let scale = if isa.sum(finite).is_nan() {
            f32::NAN
        } else {
            0.0
        };
        return (scale, 0);
    }
    let inverse = isa.splat(127.0 / max);
    let mut sum = zero;
    for (x, out) in x.iter().zip(out.0.chunks_exact_mut(I::LANES)) {
        let rounded = isa.round(isa.mul(isa.load(x), inverse));
        sum = isa.add(sum, rounded);
        isa.store_i8(rounded, out);
    }
    // Exact: integers far below 2²⁴.
    (max / 127.0, isa.sum(sum) as i32)
}
