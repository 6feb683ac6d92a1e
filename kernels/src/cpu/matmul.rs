//! Matrix products of float weights over [`Isa`]: 6 rows of weights against a few tokens at a time.
//!
//! Every cell `y[t, r]` is one chain of fused multiply-adds into one vector that walks along the columns, then one sum
//! over the lanes. How many cells share a tile changes only what is reused from registers, never the order within a
//! cell, so the result does not depend on the number of tokens or threads.
//!
//! There is no product of bf16 pairs, which some CPUs have: rounding both sides to its 8 bits would cost the precision that float weights
//! are kept for, and cut into exact parts a half and a float make more instructions than here. Prompts run faster with
//! [`Format::Q8`](crate::Format::Q8).

use half::f16;

use super::isa::Isa;
use crate::pool::Band;
use crate::{Activations, Matrix};

/// Rows of weights per tile: independent chains hide the latency of a multiply-add when there is one token, and 6 × 4 sums fill 32
/// registers, 6 × 2 fill 16, beside what is loaded.
const ROWS: usize = 6;

/// Tokens that meet a tile's rows before the next rows are read.
///
/// The rows of a tile stay in the first-level cache over these tokens, and 32 tokens × 4096 columns × 4 bytes = 512 KiB
/// of activations stay in a second-level cache over all rows.
const TOKEN_BLOCK: usize = 32;

/// `y = x · wᵀ` for float weights.
#[inline(always)]
pub(crate) fn matmul_float<I: Isa, W: FloatFormat>(
    isa: I,
    w: &Matrix<'_>,
    x: &Activations,
    y: &mut Band<'_>,
) {
    let rows = y.columns();
    for start in (0..x.tokens()).step_by(TOKEN_BLOCK) {
        let tokens = start..x.tokens().min(start + TOKEN_BLOCK);
        let mut row = rows.start;
        while row + ROWS <= rows.end {
            strip::<I, W, ROWS>(isa, w, x, y, row, tokens.clone());
            row += ROWS;
        }
        while row < rows.end {
            strip::<I, W, 1>(isa, w, x, y, row, tokens.clone());
            row += 1;
        }
    }
}

/// `R` rows against some tokens.
#[inline(always)]
fn strip<I: Isa, W: FloatFormat, const R: usize>(
    isa: I,
    w: &Matrix<'_>,
    x: &Activations,
    y: &mut Band<'_>,
    row: usize,
    tokens: std::ops::Range<usize>,
) {
    let mut t = tokens.start;
    if I::TOKENS == 4 {
        while t + 4 <= tokens.end {
            tile::<I, W, R, 4>(isa, w, x, y, row, t);
            t += 4;
        }
    } else {
        while t + 2 <= tokens.end {
            tile::<I, W, R, 2>(isa, w, x, y, row, t);
            t += 2;
        }
    }
    while t < tokens.end {
        tile::<I, W, R, 1>(isa, w, x, y, row, t);
        t += 1;
    }
}

#[inline(always)]
fn tile<I: Isa, W: FloatFormat, const R: usize, const T: usize>(
    isa: I,
    w: &Matrix<'_>,
    x: &Activations,
    y: &mut Band<'_>,
    row: usize,
    token: usize,
) {
    let mut rows: [&[u8]; R] = [&[]; R];
    for (i, r) in rows.iter_mut().enumerate() {
        *r = w.panel(row + i);
    }
    let mut xs: [&[f32]; T] = [&[]; T];
    for (i, x_row) in xs.iter_mut().enumerate() {
        *x_row = x.row(token + i);
    }
    let sums = products::<I, W, R, T>(isa, rows, xs);
    let at = row - y.columns().start;
    for t in 0..T {
        let y = &mut y.row_mut(token + t)[at..at + R];
        for (y, sums) in y.iter_mut().zip(&sums) {
            *y = sums[t];
        }
    }
}

/// A float weight format.
pub(crate) trait FloatFormat {
    /// Bytes of one value.
    const BYTES: usize;
    /// Whether to ask for the rows of the next tile when one token meets them. Rows of halves end before the hardware has seen where they
    /// lead: a third faster to twice as fast. For f32 it costs some percent.
    const PREFETCH: bool = false;
    /// The bytes of one vector.
    type Chunk<I: Isa>;
    /// Cuts a row into vectors and a rest.
    fn chunks<I: Isa>(row: &[u8]) -> (&[Self::Chunk<I>], &[u8]);
    /// Reads a vector.
    fn load<I: Isa>(isa: I, x: &Self::Chunk<I>) -> I::F32;
    /// Reads a rest into the front of `out`.
    fn unpack(rest: &[u8], out: &mut [f32]);
}

/// [`Format::F32`](crate::Format::F32)
pub(crate) enum F32 {}

impl FloatFormat for F32 {
    const BYTES: usize = 4;
    type Chunk<I: Isa> = I::F32Bytes;

    #[inline(always)]
    fn chunks<I: Isa>(row: &[u8]) -> (&[I::F32Bytes], &[u8]) {
        I::chunks_f32(row)
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &I::F32Bytes) -> I::F32 {
        isa.load_f32(x)
    }

    #[inline(always)]
    fn unpack(rest: &[u8], out: &mut [f32]) {
        for (o, b) in out.iter_mut().zip(rest.as_chunks().0) {
            *o = f32::from_le_bytes(*b);
        }
    }
}

/// [`Format::F16`](crate::Format::F16)
pub(crate) enum F16 {}

impl FloatFormat for F16 {
    const BYTES: usize = 2;
    const PREFETCH: bool = true;
    type Chunk<I: Isa> = I::F16Bytes;

    #[inline(always)]
    fn chunks<I: Isa>(row: &[u8]) -> (&[I::F16Bytes], &[u8]) {
        I::chunks_f16(row)
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &I::F16Bytes) -> I::F32 {
        isa.load_f16(x)
    }

    #[inline(always)]
    fn unpack(rest: &[u8], out: &mut [f32]) {
        for (o, b) in out.iter_mut().zip(rest.as_chunks().0) {
            *o = f16::from_le_bytes(*b).to_f32_const();
        }
    }
}

/// All products of `R` rows with `T` tokens.
#[inline(always)]
fn products<I: Isa, W: FloatFormat, const R: usize, const T: usize>(
    isa: I,
    w: [&[u8]; R],
    x: [&[f32]; T],
) -> [[f32; T]; R] {
    // All slices are cut to one length first, so that the loop needs no bounds checks.
    let mut xs: [&[I::Chunk]; T] = [&[]; T];
    let n = x[0].len() / I::LANES;
    for (chunks, x) in xs.iter_mut().zip(x) {
        *chunks = &I::chunks(x).0[..n];
    }
    let mut ws: [&[W::Chunk<I>]; R] = [&[]; R];
    for (chunks, w) in ws.iter_mut().zip(w) {
        *chunks = &W::chunks::<I>(w).0[..n];
    }
    let mut sums = [[isa.splat(0.0); T]; R];
    for i in 0..n {
        let mut x = [isa.splat(0.0); T];
        for t in 0..T {
            x[t] = isa.load(&xs[t][i]);
        }
        for r in 0..R {
            if T == 1 && W::PREFETCH {
                isa.prefetch(w[r], R * w[r].len() + i * I::LANES * W::BYTES);
            }
            let w = W::load(isa, &ws[r][i]);
            for t in 0..T {
                sums[r][t] = isa.fma(w, x[t], sums[r][t]);
            }
        }
    }
    if !x[0].len().is_multiple_of(I::LANES) {
        for r in 0..R {
            let mut rest = I::ZEROS;
            W::unpack(W::chunks::<I>(w[r]).1, rest.as_mut());
            let w = isa.load(&rest);
            for t in 0..T {
                sums[r][t] = isa.fma(w, isa.load_partial(I::chunks(x[t]).1), sums[r][t]);
            }
        }
    }
    let mut out = [[0.0; T]; R];
    for r in 0..R {
        for t in 0..T {
            out[r][t] = isa.sum(sums[r][t]);
        }
    }
    out
}
