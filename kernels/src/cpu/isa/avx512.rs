//! x86-64 with AVX-512 F, BW, VL and VNNI: sixteen floats per vector, and masks for what is shorter.
//!
//! Int8 blocks stay 32 bytes wide, so their dot product uses the 256-bit form of the VNNI instruction.
#![allow(
    unsafe_code,
    reason = "vendor intrinsics; a value of `Avx512` proves that the CPU has them"
)]

use std::arch::x86_64::*;

use super::avx2::{sum_256, unpack_u4};
use super::{Isa, lanes, table};
use crate::BLOCK;
use crate::cpu::table::Table;
use crate::quant::Int8Block;

/// AVX-512 F, BW, VL and VNNI, beside AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

static TABLE: Table = table!(
    "x86_64-avx512vnni",
    Avx512,
    ["avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c"]
);

impl Avx512 {
    /// The proof, if this CPU has the features.
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }

    /// The table, if this CPU has the features.
    pub(crate) fn table() -> Option<&'static Table> {
        Self::new().map(|_| &TABLE)
    }

    /// The proof without asking.
    ///
    /// # Safety
    /// [`new`](Self::new) gave a value earlier in this process.
    unsafe fn assume() -> Self {
        Self(())
    }
}

/// Runs intrinsics of the features that `$isa` proves.
macro_rules! proven {
    ($isa:ident, $code:expr) => {{
        let Self(()) = $isa;
        // SAFETY: `$isa` exists, so the CPU has every feature of the table. Loads and stores go through references to
        // arrays of the vector's size or under a mask cut to the slice, and the unaligned forms are used.
        unsafe { $code }
    }};
}

/// A mask of the first `n` of 16 lanes.
#[inline(always)]
fn first_lanes(n: usize) -> __mmask16 {
    debug_assert!(n <= 16, "a mask covers one vector");
    ((1u32 << n.min(16)) - 1) as __mmask16
}

impl Isa for Avx512 {
    type F32 = __m512;
    type Int8 = __m256i;
    type Nibbles = __m256i;
    /// The bytes, and in lane `j` minus 8 times the sum of elements `4j..4j+4`.
    type Int8X = (__m256i, __m256i);
    type Scale = __m256;
    /// Lane `j` holds the part of elements `4j..4j+4` of every block.
    type Dot = __m256;
    lanes!(16);
    const TOKENS: usize = 4;

    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        proven!(self, _mm512_set1_ps(v))
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> __m512 {
        proven!(self, _mm512_loadu_ps(x.as_ptr()))
    }

    #[inline(always)]
    fn store(self, v: __m512, x: &mut [f32; 16]) {
        proven!(self, _mm512_storeu_ps(x.as_mut_ptr(), v));
    }

    #[inline(always)]
    fn load_partial(self, x: &[f32]) -> __m512 {
        proven!(
            self,
            _mm512_maskz_loadu_ps(first_lanes(x.len()), x.as_ptr())
        )
    }

    #[inline(always)]
    fn store_partial(self, v: __m512, x: &mut [f32]) {
        proven!(
            self,
            _mm512_mask_storeu_ps(x.as_mut_ptr(), first_lanes(x.len()), v)
        );
    }

    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> __m512 {
        proven!(self, _mm512_loadu_ps(x.as_ptr().cast()))
    }

    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> __m512 {
        proven!(self, _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(self, _mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        proven!(self, _mm512_abs_ps(a))
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        proven!(
            self,
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        )
    }

    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        proven!(self, {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }

    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, t: __m512, f: __m512) -> __m512 {
        proven!(
            self,
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), f, t)
        )
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        proven!(self, {
            let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a));
            sum_256(_mm256_add_ps(
                _mm512_castps512_ps256(a),
                _mm256_castpd_ps(high),
            ))
        })
    }

    #[inline(always)]
    fn load_i8(self, q: &[u8; BLOCK]) -> __m256i {
        proven!(self, _mm256_loadu_si256(q.as_ptr().cast()))
    }

    #[inline(always)]
    fn load_u4(self, q: &[u8; BLOCK / 2]) -> __m256i {
        proven!(self, unpack_u4(_mm_loadu_si128(q.as_ptr().cast())))
    }

    #[inline(always)]
    fn u4_to_i8(self, w: __m256i) -> __m256i {
        proven!(self, _mm256_sub_epi8(w, _mm256_set1_epi8(8)))
    }

    #[inline(always)]
    fn load_x(self, x: &Int8Block) -> Self::Int8X {
        proven!(self, {
            let x = _mm256_load_si256(x.0.as_ptr().cast());
            let eight = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(8), x);
            (x, _mm256_sub_epi32(_mm256_setzero_si256(), eight))
        })
    }

    #[inline(always)]
    fn scale(self, bits: &[u8; 2]) -> __m256 {
        proven!(
            self,
            _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(*bits)))
        )
    }

    #[inline(always)]
    fn scale_by(self, w: __m256, x: f32) -> __m256 {
        proven!(self, _mm256_mul_ps(w, _mm256_set1_ps(x)))
    }

    #[inline(always)]
    fn dot_zero(self) -> __m256 {
        proven!(self, _mm256_setzero_ps())
    }

    #[inline(always)]
    fn dot_i8(self, sum: __m256, w: __m256i, (x, _): Self::Int8X, scale: __m256) -> __m256 {
        proven!(self, {
            // The unsigned side is |w|, the sign of w moves to x; exact because x is within ±127 (see `avx2`).
            let (unsigned, signed) = (_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            let dot = _mm256_dpbusd_epi32(_mm256_setzero_si256(), unsigned, signed);
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sum)
        })
    }

    #[inline(always)]
    fn dot_u4(self, sum: __m256, w: __m256i, (x, minus_8): Self::Int8X, scale: __m256) -> __m256 {
        proven!(self, {
            let dot = _mm256_dpbusd_epi32(minus_8, w, x);
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sum)
        })
    }

    #[inline(always)]
    fn prefetch(self, x: &[u8], ahead: usize) {
        // Into the second level: the first may be smaller than the distance.
        proven!(
            self,
            _mm_prefetch::<_MM_HINT_T1>(x.as_ptr().wrapping_add(ahead).cast())
        );
    }

    #[inline(always)]
    fn dot_sum(self, sum: __m256) -> f32 {
        proven!(self, sum_256(sum))
    }

    #[inline(always)]
    fn store_i8(self, v: __m512, out: &mut [i8]) {
        let out: &mut [i8; 16] = out.try_into().expect("a vector holds sixteen values");
        proven!(self, {
            let v = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v));
            _mm_storeu_si128(out.as_mut_ptr().cast(), v);
        });
    }
}
