//! x86-64 with AVX2, FMA and F16C, and a variant with the byte dot product of AVX-VNNI.
#![allow(
    unsafe_code,
    reason = "vendor intrinsics; a value of `Avx2` proves that the CPU has them"
)]

use std::arch::x86_64::*;

use super::{Isa, lanes, table};
use crate::BLOCK;
use crate::cpu::table::Table;
use crate::quant::Int8Block;

/// AVX2, FMA and F16C; with `VNNI` also AVX-VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2<const VNNI: bool>(());

static AVX2: Table = table!("x86_64-avx2", Avx2<false>, ["avx2,fma,f16c"]);
static AVX_VNNI: Table = table!("x86_64-avxvnni", Avx2<true>, ["avx2,fma,f16c,avxvnni"]);

impl<const VNNI: bool> Avx2<VNNI> {
    /// The proof, if this CPU has the features.
    pub(crate) fn new() -> Option<Self> {
        let base = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        (base && (!VNNI || is_x86_feature_detected!("avxvnni"))).then_some(Self(()))
    }

    /// The table, if this CPU has the features.
    pub(crate) fn table() -> Option<&'static Table> {
        Self::new().map(|_| if VNNI { &AVX_VNNI } else { &AVX2 })
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
        // SAFETY: `$isa` exists, so the CPU has AVX2, FMA and F16C (and AVX-VNNI if the type says so). Loads and stores
        // go through references to arrays of the vector's size, and the unaligned forms are used.
        unsafe { $code }
    }};
}

impl<const VNNI: bool> Isa for Avx2<VNNI> {
    type F32 = __m256;
    type Int8 = __m256i;
    type Nibbles = __m256i;
    /// The bytes, and in lane `j` minus 8 times the sum of elements `4j..4j+4`.
    type Int8X = (__m256i, __m256i);
    type Scale = __m256;
    /// Lane `j` holds the part of elements `4j..4j+4` of every block.
    type Dot = __m256;
    lanes!(8);
    const TOKENS: usize = 2;

    #[inline(always)]
    fn splat(self, v: f32) -> __m256 {
        proven!(self, _mm256_set1_ps(v))
    }

    #[inline(always)]
    fn load(self, x: &[f32; 8]) -> __m256 {
        proven!(self, _mm256_loadu_ps(x.as_ptr()))
    }

    #[inline(always)]
    fn store(self, v: __m256, x: &mut [f32; 8]) {
        proven!(self, _mm256_storeu_ps(x.as_mut_ptr(), v));
    }

    #[inline(always)]
    fn load_f32(self, x: &[u8; 32]) -> __m256 {
        proven!(self, _mm256_loadu_ps(x.as_ptr().cast()))
    }

    #[inline(always)]
    fn load_f16(self, x: &[u8; 16]) -> __m256 {
        proven!(self, _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        proven!(self, _mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        proven!(self, _mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        proven!(self, _mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        proven!(self, _mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        proven!(self, _mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        proven!(self, _mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        proven!(self, _mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        proven!(self, _mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        proven!(
            self,
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        )
    }

    #[inline(always)]
    fn pow2(self, n: __m256) -> __m256 {
        proven!(self, {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        })
    }

    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, t: __m256, f: __m256) -> __m256 {
        proven!(
            self,
            _mm256_blendv_ps(f, t, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
        )
    }

    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        proven!(self, sum_256(a))
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
            let eight = if VNNI {
                _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(8), x)
            } else {
                let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(8), x);
                _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
            };
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
            // The instructions take one unsigned side: |w|, with the sign of w moved to x. |-128| is 128 as an unsigned
            // byte, and x is within ±127, so nothing is lost and pairs stay within 2 · 128 · 127 < 2¹⁵.
            let (unsigned, signed) = (_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            let dot = if VNNI {
                _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), unsigned, signed)
            } else {
                _mm256_madd_epi16(_mm256_maddubs_epi16(unsigned, signed), _mm256_set1_epi16(1))
            };
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sum)
        })
    }

    #[inline(always)]
    fn dot_u4(self, sum: __m256, w: __m256i, (x, minus_8): Self::Int8X, scale: __m256) -> __m256 {
        proven!(self, {
            let dot = if VNNI {
                _mm256_dpbusd_avx_epi32(minus_8, w, x)
            } else {
                // Pairs stay within 2 · 15 · 127.
                let pairs = _mm256_maddubs_epi16(w, x);
                _mm256_add_epi32(minus_8, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            };
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
        self.sum(sum)
    }

    #[inline(always)]
    fn store_i8(self, v: __m256, out: &mut [i8]) {
        let out: &mut [i8; 8] = out.try_into().expect("a vector holds eight values");
        proven!(self, {
            let v = _mm256_cvtps_epi32(v);
            let v = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            _mm_storel_epi64(out.as_mut_ptr().cast(), _mm_packs_epi16(v, v));
        });
    }
}

/// Sum of the lanes: halves, quarters, neighbours.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn sum_256(a: __m256) -> f32 {
    // SAFETY: by the caller's word the CPU has AVX2, which includes all of these.
    unsafe {
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
    }
}

/// The 32 values of a Q4 block, 0..=15: low halves of the bytes, then high halves.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn unpack_u4(q: __m128i) -> __m256i {
    // SAFETY: by the caller's word the CPU has AVX2.
    unsafe {
        let q = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(q), _mm_srli_epi16::<4>(q));
        _mm256_and_si256(q, _mm256_set1_epi8(15))
    }
}
