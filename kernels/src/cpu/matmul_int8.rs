//! Matrix products of quantized weights with int8 activations over [`Isa`], and the rounding of activations.
//!
//! A few panels of 16 rows meet a few tokens at a time. Per block of 32 columns: an exact integer dot product for each row and token, scaled
//! and added to a float per row and token. Lanes are rows, so nothing crosses lanes and the sum of a cell is one chain over the blocks,
//! whatever the number of tokens or threads and whatever the width of the vectors.

use std::ops::Range;

use super::isa::Isa;
use crate::pool::Band;
use crate::quant::{Int8Block, MIN_MAGNITUDE, Q4_BYTES, Q8_BYTES, SCALE_BYTES};
use crate::{Activations, BLOCK, Matrix, PANEL};

/// Bytes of activations that meet a panel before the next panel is read: what a second-level cache holds beside it.
const TOKEN_BLOCK_BYTES: usize = 512 << 10;

/// How far ahead of its use the stream of weights is asked for. The hardware follows the stream by itself, but stops at every page: asking
/// half a page ahead has the next page's address at hand in time. A whole page ahead costs a third of the bandwidth of one Zen 4 core (q4
/// from a mapped file: 21 instead of 31 GB/s, read ceiling 32); nothing at all is as good there.
const AHEAD: usize = 2048;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Tokens per register tile.
const TOKENS: usize = 4;

/// `y = x · wᵀ` for quantized weights and int8 activations. The band begins at a whole panel.
#[inline(always)]
pub(crate) fn matmul_int8<I: Isa, W: PanelFormat>(
    isa: I,
    w: &Matrix<'_>,
    x: &Activations,
    y: &mut Band<'_>,
) {
    let rows = y.columns();
    let (first, end) = (rows.start / PANEL, rows.end.div_ceil(PANEL));
    let per_block = (TOKEN_BLOCK_BYTES / w.cols().max(1)).next_multiple_of(TOKENS);
    for start in (0..x.tokens()).step_by(per_block) {
        let tokens = start..x.tokens().min(start + per_block);
        let mut panel = first;
        while panel < end {
            let at = panel * PANEL - rows.start;
            let tokens = tokens.clone();
            // One token waits for memory, and one stream of it is read fastest.
            let most = if tokens.len() < TOKENS { 1 } else { I::PANELS };
            panel += match (end - panel).min(most) {
                3.. => strip::<I, W, 3>(isa, w, panel, x, y, at, tokens),
                2 => strip::<I, W, 2>(isa, w, panel, x, y, at, tokens),
                _ => strip::<I, W, 1>(isa, w, panel, x, y, at, tokens),
            };
        }
    }
}

/// `P` panels against some tokens; the results go to the band's columns from `at` on. Returns `P`.
#[inline(always)]
fn strip<I: Isa, W: PanelFormat, const P: usize>(
    isa: I,
    w: &Matrix<'_>,
    panel: usize,
    x: &Activations,
    y: &mut Band<'_>,
    at: usize,
    tokens: Range<usize>,
) -> usize {
    let mut panels: [&[W::Block]; P] = [&[]; P];
    for (p, blocks) in panels.iter_mut().enumerate() {
        *blocks = W::blocks(w.panel(panel + p));
    }
    let mut t = tokens.start;
    while t + TOKENS <= tokens.end {
        tile::<I, W, P, TOKENS>(isa, panels, x, y, at, t);
        t += TOKENS;
    }
    while t < tokens.end {
        for (p, panel) in panels.into_iter().enumerate() {
            tile::<I, W, 1, 1>(isa, [panel], x, y, at + p * PANEL, t);
        }
        t += 1;
    }
    P
}

/// `P` panels against `T` tokens.
#[inline(always)]
fn tile<I: Isa, W: PanelFormat, const P: usize, const T: usize>(
    isa: I,
    mut panels: [&[W::Block]; P],
    x: &Activations,
    y: &mut Band<'_>,
    at: usize,
    token: usize,
) {
    // All slices are cut to one length first, so that the loop needs no bounds checks.
    let n = panels[0].len();
    for panel in &mut panels {
        *panel = &panel[..n];
    }
    let mut rows: [&[Int8Block]; T] = [&[]; T];
    for (t, row) in rows.iter_mut().enumerate() {
        *row = &x.int8_row(token + t)[..n];
    }
    let mut totals = [[isa.panel_zero(); T]; P];
    for b in 0..n {
        if T == 1 {
            // With one token the product waits for memory.
            for line in 0..size_of::<W::Block>().div_ceil(LINE) {
                isa.prefetch(panels[0][b].as_ref(), AHEAD + line * LINE);
            }
        }
        let (mut x, mut codes) = ([&rows[0][b]; T], [W::split(&panels[0][b]).1; P]);
        for t in 0..T {
            x[t] = &rows[t][b];
        }
        for p in 0..P {
            codes[p] = W::split(&panels[p][b]).1;
        }
        let dots = W::dots(isa, codes, x);
        for p in 0..P {
            let scales = isa.panel_scales(W::split(&panels[p][b]).0);
            for t in 0..T {
                totals[p][t] = isa.panel_add(totals[p][t], dots[p][t], scales, x[t].scale);
            }
        }
    }
    for (p, totals) in totals.into_iter().enumerate() {
        for (t, total) in totals.into_iter().enumerate() {
            let y = &mut y.row_mut(token + t)[at + p * PANEL..];
            if let Some(y) = y.first_chunk_mut() {
                isa.panel_store(total, y);
            } else {
                let mut whole = [0.0; PANEL];
                isa.panel_store(total, &mut whole);
                y.copy_from_slice(&whole[..y.len()]);
            }
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
    /// The exact dot products of a block of `P` panels with `T` tokens.
    fn dots<I: Isa, const P: usize, const T: usize>(
        isa: I,
        codes: [&Self::Codes; P],
        x: [&Int8Block; T],
    ) -> [[I::Integers; T]; P];
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
    fn dots<I: Isa, const P: usize, const T: usize>(
        isa: I,
        codes: [&Self::Codes; P],
        x: [&Int8Block; T],
    ) -> [[I::Integers; T]; P] {
        isa.dots_q8(codes, x)
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
    fn dots<I: Isa, const P: usize, const T: usize>(
        isa: I,
        codes: [&Self::Codes; P],
        x: [&Int8Block; T],
    ) -> [[I::Integers; T]; P] {
        isa.dots_q4(codes, x)
    }
}

/// Rounds one row of activations to int8 blocks; see [`crate::quant`].
#[inline(always)]
pub(crate) fn quantize<I: Isa>(isa: I, x: &[f32], out: &mut [Int8Block]) {
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    for (x, out) in blocks.iter().zip(&mut *out) {
        quantize_block(isa, x, out);
    }
    if !rest.is_empty() {
        let mut x = [0.0; BLOCK];
        x[..rest.len()].copy_from_slice(rest);
        quantize_block(isa, &x, &mut out[blocks.len()]);
    }
}

#[inline(always)]
fn quantize_block<I: Isa>(isa: I, x: &[f32; BLOCK], out: &mut Int8Block) {
    let (x, _) = I::chunks(x);
    let zero = isa.splat(0.0);
    let mut max = zero;
    for x in x {
        max = isa.max(isa.abs(isa.load(x)), max);
    }
    let max = isa.largest(max);
    let is_zero = max < MIN_MAGNITUDE;
    // What is too small rounds to zero at any factor near one.
    let inverse = isa.splat(if is_zero { 1.0 } else { 127.0 / max });
    let mut sum = zero;
    for (x, out) in x.iter().zip(out.bytes.chunks_exact_mut(I::LANES)) {
        let rounded = isa.round(isa.mul(isa.load(x), inverse));
        sum = isa.add(sum, rounded);
        isa.store_i8(rounded, out);
    }
    let sum = isa.sum(sum);
    if sum.is_nan() {
        // NaN comes through as it is, and infinity as ∞ · (127 / ∞).
        *out = Int8Block {
            scale: f32::NAN,
            ..Int8Block::ZERO
        };
        return;
    }
    out.scale = if is_zero { 0.0 } else { max / 127.0 };
    // Exact: integers far below 2²⁴.
    out.sum = sum as i32;
}
