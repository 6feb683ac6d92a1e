//! The vector operations that the ops are written over, one file per instruction set.
//!
//! An op in `cpu/*.rs` is a generic function over [`Isa`]. Each instruction set stamps its table with [`entry!`]: a
//! `#[target_feature]` function that calls the op with its own `Isa`. Rust compiles the op for those features only if
//! everything between is inlined, so **every function and closure on the way is `#[inline(always)]`**.

mod generic;

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(test)]
pub(crate) use generic::Generic;
#[cfg(all(test, target_arch = "aarch64", target_endian = "little"))]
pub(crate) use neon::Base;
#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) use {avx2::Avx2, avx512::Avx512};

use crate::cpu::table::Table;
use crate::quant::{Int8Block, SCALE_BYTES};
use crate::{BLOCK, PANEL};

/// The SIMD tables that this CPU can run, best first.
pub(crate) fn tables() -> impl Iterator<Item = &'static Table> {
    #[cfg(target_arch = "x86_64")]
    let detected = [
        avx512::Avx512::table(),
        avx2::Avx2::<true>::table(),
        avx2::Avx2::<false>::table(),
    ];
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    let detected = [
        neon::I8mm::table(),
        neon::Dotprod::table(),
        neon::Base::table(),
    ];
    #[cfg(not(any(
        target_arch = "x86_64",
        all(target_arch = "aarch64", target_endian = "little")
    )))]
    let detected = [None; 0];
    detected.into_iter().flatten().chain([generic::table()])
}

/// An instruction set that this CPU is known to have.
///
/// A value can only be made where the CPU was asked first, so the methods are safe.
pub(crate) trait Isa: Copy {
    /// `LANES` floats.
    type F32: Copy;
    /// The exact integer sums of a block, one per row of a panel.
    type Integers: Copy;
    /// A float per row of a panel: scales, or sums over blocks.
    type PanelF32: Copy;

    /// `[f32; LANES]`
    type Chunk: Copy + AsRef<[f32]> + AsMut<[f32]>;
    /// `[u8; 4 * LANES]`
    type F32Bytes;
    /// `[u8; 2 * LANES]`
    type F16Bytes;
    /// `[u8; LANES]`
    type I8Bytes;

    /// Floats per vector.
    const LANES: usize;
    /// Tokens per register tile of a matrix product of float weights, beside 6 rows: 6 × 4 sums need 32 registers, 6 × 2 fit 16.
    const TOKENS: usize;
    /// Heads that share the registers in attention, a power of two: two sums each, beside what is loaded.
    const HEADS: usize;
    /// Panels per register tile of a product of quantized weights with 4 tokens: 3 where 32 registers hold a panel's row each.
    const PANELS: usize = 1;
    /// Zeros in memory.
    const ZEROS: Self::Chunk;

    /// Cuts `x` into whole vectors and a rest shorter than one.
    fn chunks(x: &[f32]) -> (&[Self::Chunk], &[f32]);
    /// Cuts `x` into whole vectors and a rest shorter than one.
    fn chunks_mut(x: &mut [f32]) -> (&mut [Self::Chunk], &mut [f32]);
    /// Cuts little-endian f32 bytes into whole vectors and a rest.
    fn chunks_f32(row: &[u8]) -> (&[Self::F32Bytes], &[u8]);
    /// Cuts little-endian f16 bytes into whole vectors and a rest.
    fn chunks_f16(row: &[u8]) -> (&[Self::F16Bytes], &[u8]);
    /// Cuts signed bytes into whole vectors and a rest.
    fn chunks_i8(row: &[u8]) -> (&[Self::I8Bytes], &[u8]);

    /// All lanes `v`.
    fn splat(self, v: f32) -> Self::F32;
    /// Reads a vector.
    fn load(self, x: &Self::Chunk) -> Self::F32;
    /// Writes a vector.
    fn store(self, v: Self::F32, x: &mut Self::Chunk);
    /// Reads little-endian floats.
    fn load_f32(self, x: &Self::F32Bytes) -> Self::F32;
    /// Reads little-endian half floats and widens them.
    fn load_f16(self, x: &Self::F16Bytes) -> Self::F32;
    /// Reads signed bytes and widens them.
    fn load_i8(self, x: &Self::I8Bytes) -> Self::F32;
    /// `a + b`
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a · b`
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a · b + c`; rounded once where the CPU can, twice in the generic table.
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger; if one is NaN, either NaN or `b`.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller; if one is NaN, either NaN or `b`.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `|a|`
    fn abs(self, a: Self::F32) -> Self::F32;
    /// The nearest integer, ties to even, for magnitudes under 2²².
    fn round(self, a: Self::F32) -> Self::F32;
    /// `2^n` for integral `n` in -126..=127.
    fn pow2(self, n: Self::F32) -> Self::F32;
    /// Per lane `t` where `a < b`, else `f`.
    fn select_lt(self, a: Self::F32, b: Self::F32, t: Self::F32, f: Self::F32) -> Self::F32;
    /// Sum of the lanes.
    fn sum(self, a: Self::F32) -> f32;
    /// The largest lane, none of them NaN.
    #[inline(always)]
    fn largest(self, a: Self::F32) -> f32 {
        let mut lanes = Self::ZEROS;
        self.store(a, &mut lanes);
        lanes
            .as_ref()
            .iter()
            .fold(f32::NEG_INFINITY, |max, lane| max.max(*lane))
    }

    /// The dot products of a block of a [`Format::Q8`](crate::Format::Q8) panel with the same block of `T` tokens, without
    /// their scales.
    fn dot_q8<const T: usize>(
        self,
        codes: &[u8; PANEL * BLOCK],
        x: [&Int8Block; T],
    ) -> [Self::Integers; T];
    /// As [`dot_q8`](Self::dot_q8), for [`Format::Q4`](crate::Format::Q4).
    fn dot_q4<const T: usize>(
        self,
        codes: &[u8; PANEL * BLOCK / 2],
        x: [&Int8Block; T],
    ) -> [Self::Integers; T];
    /// [`dot_q8`](Self::dot_q8) with the same block of `P` panels.
    #[inline(always)]
    fn dots_q8<const P: usize, const T: usize>(
        self,
        codes: [&[u8; PANEL * BLOCK]; P],
        x: [&Int8Block; T],
    ) -> [[Self::Integers; T]; P] {
        // No `map`: it is not inlined always, and what it calls would be compiled without the CPU's features.
        let mut dots = [self.dot_q8(codes[0], x); P];
        for (dots, codes) in dots.iter_mut().zip(codes).skip(1) {
            *dots = self.dot_q8(codes, x);
        }
        dots
    }
    /// [`dot_q4`](Self::dot_q4) with the same block of `P` panels.
    #[inline(always)]
    fn dots_q4<const P: usize, const T: usize>(
        self,
        codes: [&[u8; PANEL * BLOCK / 2]; P],
        x: [&Int8Block; T],
    ) -> [[Self::Integers; T]; P] {
        // No `map`: it is not inlined always, and what it calls would be compiled without the CPU's features.
        let mut dots = [self.dot_q4(codes[0], x); P];
        for (dots, codes) in dots.iter_mut().zip(codes).skip(1) {
            *dots = self.dot_q4(codes, x);
        }
        dots
    }
    /// Widens the f16 scales of a block.
    fn panel_scales(self, bits: &[u8; SCALE_BYTES]) -> Self::PanelF32;
    /// Zeros.
    fn panel_zero(self) -> Self::PanelF32;
    /// Per row: `dots · (w · x) + sum`.
    fn panel_add(
        self,
        sum: Self::PanelF32,
        dots: Self::Integers,
        w: Self::PanelF32,
        x: f32,
    ) -> Self::PanelF32;
    /// Writes one float per row.
    fn panel_store(self, sum: Self::PanelF32, out: &mut [f32; PANEL]);
    /// Writes `v`, integral and within ±127, as `LANES` bytes.
    fn store_i8(self, v: Self::F32, out: &mut [i8]);

    /// Asks for the memory `ahead` bytes after `x` begins. Does nothing where there is no such instruction, and no harm
    /// where there is no such memory.
    #[inline(always)]
    fn prefetch(self, x: &[u8], ahead: usize) {
        let _ = (x, ahead);
    }

    /// Reads fewer than `LANES` floats; the other lanes are zero.
    #[inline(always)]
    fn load_partial(self, x: &[f32]) -> Self::F32 {
        let mut chunk = Self::ZEROS;
        chunk.as_mut()[..x.len()].copy_from_slice(x);
        self.load(&chunk)
    }

    /// Writes the first `x.len()` lanes.
    #[inline(always)]
    fn store_partial(self, v: Self::F32, x: &mut [f32]) {
        let mut chunk = Self::ZEROS;
        self.store(v, &mut chunk);
        x.copy_from_slice(&chunk.as_ref()[..x.len()]);
    }

    /// The first lane.
    #[inline(always)]
    fn first(self, v: Self::F32) -> f32 {
        let mut chunk = Self::ZEROS;
        self.store(v, &mut chunk);
        chunk.as_ref()[0]
    }
}

/// The array types of [`Isa`] for a number of lanes.
macro_rules! lanes {
    ($lanes:literal) => {
        type Chunk = [f32; $lanes];
        type F32Bytes = [u8; 4 * $lanes];
        type F16Bytes = [u8; 2 * $lanes];
        type I8Bytes = [u8; $lanes];

        const LANES: usize = $lanes;
        const ZEROS: [f32; $lanes] = [0.0; $lanes];

        #[inline(always)]
        fn chunks(x: &[f32]) -> (&[Self::Chunk], &[f32]) {
            x.as_chunks()
        }

        #[inline(always)]
        fn chunks_mut(x: &mut [f32]) -> (&mut [Self::Chunk], &mut [f32]) {
            x.as_chunks_mut()
        }

        #[inline(always)]
        fn chunks_f32(row: &[u8]) -> (&[Self::F32Bytes], &[u8]) {
            row.as_chunks()
        }

        #[inline(always)]
        fn chunks_f16(row: &[u8]) -> (&[Self::F16Bytes], &[u8]) {
            row.as_chunks()
        }

        #[inline(always)]
        fn chunks_i8(row: &[u8]) -> (&[Self::I8Bytes], &[u8]) {
            row.as_chunks()
        }
    };
}
pub(crate) use lanes;

/// A plain function that enters an op with an instruction set's features enabled.
macro_rules! entry {
    ($isa:ty, [$($feature:literal)?], $op:expr, ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {{
        fn entry($($arg: $ty),*) $(-> $ret)? {
            $(#[target_feature(enable = $feature)])?
            fn inner(isa: $isa, $($arg: $ty),*) $(-> $ret)? {
                $op(isa, $($arg),*)
            }
            // SAFETY: this function can only be reached through the table, and the table is only handed out after the
            // CPU was found to have the features.
            unsafe { inner(<$isa>::assume(), $($arg),*) }
        }
        entry
    }};
}
pub(crate) use entry;

/// The table of an instruction set.
macro_rules! table {
    ($name:literal, $isa:ty, $features:tt) => {{
        use crate::cpu::attention::Part;
        use crate::cpu::matmul::{F16, F32};
        use crate::cpu::matmul_int8::{Q4, Q8};
        use crate::cpu::{attention, elementwise, isa::entry, matmul, matmul_int8, table::Table};
        use crate::pool::Band;
        use crate::quant::Int8Block;
        use crate::{Activations, AttentionShape, KvSource, Matrix};
        Table {
            name: $name,
            matmul_f32: entry!($isa, $features, matmul::matmul_float::<$isa, F32>,
                (w: &Matrix<'_>, x: &Activations, y: &mut Band<'_>)),
            matmul_f16: entry!($isa, $features, matmul::matmul_float::<$isa, F16>,
                (w: &Matrix<'_>, x: &Activations, y: &mut Band<'_>)),
            matmul_q8: entry!($isa, $features, matmul_int8::matmul_int8::<$isa, Q8>,
                (w: &Matrix<'_>, x: &Activations, y: &mut Band<'_>)),
            matmul_q4: entry!($isa, $features, matmul_int8::matmul_int8::<$isa, Q4>,
                (w: &Matrix<'_>, x: &Activations, y: &mut Band<'_>)),
            quantize: entry!($isa, $features, matmul_int8::quantize,
                (x: &[f32], out: &mut [Int8Block])),
            attention: entry!($isa, $features, attention::attention,
                (q: &[f32], q_positions: &[u32], shape: AttentionShape, kv: &dyn KvSource, part: Part, out: &mut Band<'_>)),
            merge: Some(entry!($isa, $features, attention::merge,
                (shape: AttentionShape, spans: &[f32], out: &mut [f32]))),
            rms_norm: entry!($isa, $features, elementwise::rms_norm,
                (x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])),
            rms_norm_in_place: entry!($isa, $features, elementwise::rms_norm_in_place,
                (x: &mut [f32], weight: &[f32], eps: f32)),
            add: entry!($isa, $features, elementwise::add, (x: &mut [f32], y: &[f32])),
            silu_mul: entry!($isa, $features, elementwise::silu_mul, (gate: &mut [f32], up: &[f32])),
            rope: entry!($isa, $features, elementwise::rope, (x: &mut [f32], cos: &[f32], sin: &[f32])),
            log_sum_exp: entry!($isa, $features, elementwise::log_sum_exp, (x: &[f32]) -> f64),
            argmax: entry!($isa, $features, elementwise::argmax, (x: &[f32]) -> usize),
        }
    }};
}
pub(crate) use table;
