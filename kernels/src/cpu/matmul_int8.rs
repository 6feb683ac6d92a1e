//! Matrix products of quantized weights with int8 activations over [`Isa`], and the rounding of activations.
//!
//! Per block of 32: an exact integer dot product, scaled and added to a vector of f32 sums. The integer parts stay spread
//! over the lanes as the instruction leaves them, so only the last sum of a cell crosses lanes.

use std::marker::PhantomData;

use super::isa::Isa;
use super::matmul::{Product, matmul};
use crate::pool::Band;
use crate::quant::{Int8Block, MIN_MAGNITUDE, Q4_BYTES, Q8_BYTES};
use crate::{Activations, BLOCK, Matrix};

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

/// The products of `R` rows with `T` tokens, all of one length: block by block, one [`BlockFormat::dot`] per cell.
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
