//! Matrix products over [`Isa`]: 4 rows of weights against a few tokens at a time.
//!
//! Every cell `y[t, r]` is one chain of fused multiply-adds into one vector that walks along the columns, then one sum
//! over the lanes. How many cells share a tile changes only what is reused from registers, never the order within a
//! cell, so the result does not depend on the number of tokens or threads.

use std::marker::PhantomData;

use half::f16;

use super::isa::Isa;
use crate::pool::Band;
use crate::quant::{Int8Block, MIN_MAGNITUDE, Q4_BYTES, Q8_BYTES};
use crate::{Activations, BLOCK, Matrix};

/// Rows of weights per tile: four independent chains hide the latency of a multiply-add when there is one token.
const ROWS: usize = 4;

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
    matmul::<I, Float<W>>(isa, w, x, y);
}

/// `y = x · wᵀ` for quantized weights and int8 activations.
#[inline(always)]
pub(crate) fn matmul_int8<I: Isa, W: BlockFormat>(
    isa: I,
    w: &Matrix<'_>,
    x: &Activations,
    y: &mut Band<'_>,
) {
    matmul::<I, Int8<W>>(isa, w, x, y);
}

/// Rounds one row of activations to int8 blocks; see [`crate::quant`].
#[inline(always)]
pub(crate) fn quantize<I: Isa>(isa: I, x: &[f32], out: &mut [Int8Block], scales: &mut [f32]) {
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    for ((x, out), scale) in blocks.iter().zip(out.iter_mut()).zip(scales.iter_mut()) {
        *scale = quantize_block(isa, x, out);
    }
    if !rest.is_empty() {
        let mut x = [0.0; BLOCK];
        x[..rest.len()].copy_from_slice(rest);
        scales[blocks.len()] = quantize_block(isa, &x, &mut out[blocks.len()]);
    }
}

#[inline(always)]
fn quantize_block<I: Isa>(isa: I, x: &[f32; BLOCK], out: &mut Int8Block) -> f32 {
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
        return if isa.sum(finite).is_nan() {
            f32::NAN
        } else {
            0.0
        };
    }
    let inverse = isa.splat(127.0 / max);
    for (x, out) in x.iter().zip(out.0.chunks_exact_mut(I::LANES)) {
        isa.store_i8(isa.round(isa.mul(isa.load(x), inverse)), out);
    }
    max / 127.0
}

/// One kind of weights against one kind of activations.
trait Product<I: Isa> {
    /// A row of weights.
    type Row<'a>: Copy;
    /// A row of activations.
    type Token<'a>: Copy;
    fn row<'a>(w: &Matrix<'a>, row: usize) -> Self::Row<'a>;
    fn token(x: &Activations, token: usize) -> Self::Token<'_>;
    /// All products of `R` rows with `T` tokens.
    fn tile<const R: usize, const T: usize>(
        isa: I,
        w: [Self::Row<'_>; R],
        x: [Self::Token<'_>; T],
    ) -> [[f32; T]; R];
}

#[inline(always)]
fn matmul<I: Isa, P: Product<I>>(isa: I, w: &Matrix<'_>, x: &Activations, y: &mut Band<'_>) {
    let rows = y.columns();
    for start in (0..x.tokens()).step_by(TOKEN_BLOCK) {
        let tokens = start..x.tokens().min(start + TOKEN_BLOCK);
        let mut row = rows.start;
        while row + ROWS <= rows.end {
            strip::<I, P, ROWS>(isa, w, x, y, row, tokens.clone());
            row += ROWS;
        }
        while row < rows.end {
            strip::<I, P, 1>(isa, w, x, y, row, tokens.clone());
            row += 1;
        }
    }
}

/// `R` rows against some tokens.
#[inline(always)]
fn strip<I: Isa, P: Product<I>, const R: usize>(
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
            tile::<I, P, R, 4>(isa, w, x, y, row, t);
            t += 4;
        }
    } else {
        while t + 2 <= tokens.end {
            tile::<I, P, R, 2>(isa, w, x, y, row, t);
            t += 2;
        }
    }
    while t < tokens.end {
        tile::<I, P, R, 1>(isa, w, x, y, row, t);
        t += 1;
    }
}

#[inline(always)]
fn tile<I: Isa, P: Product<I>, const R: usize, const T: usize>(
    isa: I,
    w: &Matrix<'_>,
    x: &Activations,
    y: &mut Band<'_>,
    row: usize,
    token: usize,
) {
    let mut rows = [P::row(w, row); R];
    for (i, r) in rows.iter_mut().enumerate().skip(1) {
        *r = P::row(w, row + i);
    }
    let mut xs = [P::token(x, token); T];
    for (i, x_row) in xs.iter_mut().enumerate().skip(1) {
        *x_row = P::token(x, token + i);
    }
    let sums = P::tile(isa, rows, xs);
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

/// Float weights against f32 activations.
struct Float<W>(PhantomData<W>);

impl<I: Isa, W: FloatFormat> Product<I> for Float<W> {
    type Row<'a> = &'a [u8];
    type Token<'a> = &'a [f32];

    #[inline(always)]
    fn row<'a>(w: &Matrix<'a>, row: usize) -> &'a [u8] {
        w.row(row)
    }

    #[inline(always)]
    fn token(x: &Activations, token: usize) -> &[f32] {
        x.row(token)
    }

    #[inline(always)]
    fn tile<const R: usize, const T: usize>(
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
}

/// A quantized weight format.
pub(crate) trait BlockFormat {
    /// The bytes of one block.
    type Block: AsRef<[u8]> + 'static;
    /// The 32 values of one block in registers.
    type Values<I: Isa>: Copy;
    /// Cuts a row into its blocks.
    fn blocks(row: &[u8]) -> &[Self::Block];
    /// The scale and the values of a block.
    fn load<I: Isa>(isa: I, block: &Self::Block) -> (I::Scale, Self::Values<I>);
    /// The values as signed bytes.
    #[cfg_attr(
        not(target_arch = "aarch64"),
        expect(
            dead_code,
            reason = "wanted by the matrix instruction of aarch64 alone"
        )
    )]
    fn to_i8<I: Isa>(isa: I, w: Self::Values<I>) -> I::Int8;
    /// Adds `scale · (w · x)`.
    fn dot<I: Isa>(isa: I, sum: I::Dot, w: Self::Values<I>, x: I::Int8X, scale: I::Scale)
    -> I::Dot;
}

/// [`Format::Q8`](crate::Format::Q8)
pub(crate) enum Q8 {}

impl BlockFormat for Q8 {
    type Block = [u8; Q8_BYTES];
    type Values<I: Isa> = I::Int8;

    #[inline(always)]
    fn blocks(row: &[u8]) -> &[Self::Block] {
        row.as_chunks().0
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, block: &Self::Block) -> (I::Scale, I::Int8) {
        let (scale, q) = block
            .split_first_chunk()
            .expect("a Q8 block starts with its scale");
        (
            isa.scale(scale),
            isa.load_i8(q.first_chunk().expect("a Q8 block holds 32 bytes")),
        )
    }

    #[inline(always)]
    fn to_i8<I: Isa>(_: I, w: I::Int8) -> I::Int8 {
        w
    }

    #[inline(always)]
    fn dot<I: Isa>(isa: I, sum: I::Dot, w: I::Int8, x: I::Int8X, scale: I::Scale) -> I::Dot {
        isa.dot_i8(sum, w, x, scale)
    }
}

/// [`Format::Q4`](crate::Format::Q4)
pub(crate) enum Q4 {}

impl BlockFormat for Q4 {
    type Block = [u8; Q4_BYTES];
    type Values<I: Isa> = I::Nibbles;

    #[inline(always)]
    fn blocks(row: &[u8]) -> &[Self::Block] {
        row.as_chunks().0
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, block: &Self::Block) -> (I::Scale, I::Nibbles) {
        let (scale, q) = block
            .split_first_chunk()
            .expect("a Q4 block starts with its scale");
        (
            isa.scale(scale),
            isa.load_u4(q.first_chunk().expect("a Q4 block holds 16 bytes")),
        )
    }

    #[inline(always)]
    fn to_i8<I: Isa>(isa: I, w: I::Nibbles) -> I::Int8 {
        isa.u4_to_i8(w)
    }

    #[inline(always)]
    fn dot<I: Isa>(isa: I, sum: I::Dot, w: I::Nibbles, x: I::Int8X, scale: I::Scale) -> I::Dot {
        isa.dot_u4(sum, w, x, scale)
    }
}

/// One token's blocks and their scales, both `[blocks]`.
pub(crate) type Int8Row<'a> = (&'a [Int8Block], &'a [f32]);

/// Quantized weights against int8 activations.
struct Int8<W>(PhantomData<W>);

impl<I: Isa, W: BlockFormat> Product<I> for Int8<W> {
    type Row<'a> = &'a [W::Block];
    type Token<'a> = Int8Row<'a>;

    #[inline(always)]
    fn row<'a>(w: &Matrix<'a>, row: usize) -> &'a [W::Block] {
        W::blocks(w.row(row))
    }

    #[inline(always)]
    fn token(x: &Activations, token: usize) -> Int8Row<'_> {
        x.int8_row(token)
    }

    #[inline(always)]
    fn tile<const R: usize, const T: usize>(
        isa: I,
        w: [&[W::Block]; R],
        x: [Int8Row<'_>; T],
    ) -> [[f32; T]; R] {
        let n = x[0].1.len();
        let mut ws: [&[W::Block]; R] = [&[]; R];
        for (cut, w) in ws.iter_mut().zip(w) {
            *cut = &w[..n];
        }
        let mut xs: [Int8Row<'_>; T] = [(&[], &[]); T];
        for (cut, x) in xs.iter_mut().zip(x) {
            *cut = (&x.0[..n], &x.1[..n]);
        }
        isa.int8_tile::<W, R, T>(ws, xs)
    }
}

/// The products of `R` rows with `T` tokens, all of one length: block by block, one [`Isa::dot`] per cell.
#[inline(always)]
pub(crate) fn int8_tile<I: Isa, W: BlockFormat, const R: usize, const T: usize>(
    isa: I,
    w: [&[W::Block]; R],
    x: [Int8Row<'_>; T],
) -> [[f32; T]; R] {
    let mut sums = [[isa.dot_zero(); T]; R];
    let n = x[0].1.len();
    // Where the same columns of the next rows lie.
    let next = R * n * size_of::<W::Block>();
    for i in 0..n {
        let mut xs = [(0.0, isa.load_x(&x[0].0[i])); T];
        for t in 0..T {
            xs[t] = (x[t].1[i], isa.load_x(&x[t].0[i]));
        }
        for r in 0..R {
            let block = &w[r][i];
            if T == 1 {
                // With one token the product waits for memory. A core sees some 30 blocks ahead, and rows are too short
                // for the hardware to learn the stride.
                isa.prefetch(block.as_ref(), next);
            }
            let (w_scale, w) = W::load(isa, block);
            for t in 0..T {
                let (x_scale, x) = xs[t];
                sums[r][t] = W::dot(isa, sums[r][t], w, x, isa.scale_by(w_scale, x_scale));
            }
        }
    }
    let mut out = [[0.0; T]; R];
    for r in 0..R {
        for t in 0..T {
            out[r][t] = isa.dot_sum(sums[r][t]);
        }
    }
    out
}
