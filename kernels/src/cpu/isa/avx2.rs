//! x86-64 with AVX2, FMA and F16C, and a variant with the byte dot product of AVX-VNNI.
#![allow(
    unsafe_code,
    reason = "vendor intrinsics; a value of `Avx2` proves that the CPU has them"
)]

use std::arch::x86_64::*;

use super::{Isa, lanes, table};
use crate::cpu::table::Table;
use crate::quant::{Int8Block, SCALE_BYTES};
use crate::{BLOCK, PANEL};

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
    /// Rows 0 to 7, and 8 to 15.
    type Integers = [__m256i; 2];
    type PanelF32 = [__m256; 2];
    lanes!(8);
    const TOKENS: usize = 2;
    const HEADS: usize = 4;

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
    fn load_i8(self, x: &[u8; 8]) -> __m256 {
        proven!(self, {
            let bytes = _mm_loadl_epi64(x.as_ptr().cast());
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
        })
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
    fn dot_q8<const T: usize>(
        self,
        codes: &[u8; PANEL * BLOCK],
        x: [&Int8Block; T],
    ) -> [[__m256i; 2]; T] {
        // The dot-product instruction takes codes that are 128 too large, which adds 128 times the sum of the activations.
        let mut dots = [[proven!(self, _mm256_setzero_si256()); 2]; T];
        for t in 0..T {
            let start = if VNNI { -128 * x[t].sum } else { 0 };
            dots[t] = [proven!(self, _mm256_set1_epi32(start)); 2];
        }
        let halves = codes.as_chunks::<32>().0;
        for half in 0..2 {
            for quad in 0..BLOCK / 4 {
                let codes = &halves[2 * quad + half];
                let codes = proven!(self, _mm256_loadu_si256(codes.as_ptr().cast()));
                for t in 0..T {
                    dots[t][half] = proven!(self, {
                        let x = _mm256_set1_epi32(x[t].quad(quad));
                        if VNNI {
                            _mm256_dpbusd_avx_epi32(dots[t][half], codes, x)
                        } else {
                            // Codes up to 255 would overflow 16 bits. So the unsigned side is |w|, with the sign of w moved to x:
                            // |-128| is 128 as an unsigned byte, x is within ±127, and pairs stay within 2 · 128 · 127 < 2¹⁵.
                            let w = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
                            let (unsigned, signed) = (_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                            let pairs = _mm256_maddubs_epi16(unsigned, signed);
                            let quads = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                            _mm256_add_epi32(dots[t][half], quads)
                        }
                    });
                }
            }
        }
        dots
    }

    #[inline(always)]
    fn dot_q4<const T: usize>(
        self,
        codes: &[u8; PANEL * BLOCK / 2],
        x: [&Int8Block; T],
    ) -> [[__m256i; 2]; T] {
        let mut dots = [[proven!(self, _mm256_setzero_si256()); 2]; T];
        for t in 0..T {
            dots[t] = [proven!(self, _mm256_set1_epi32(-8 * x[t].sum)); 2];
        }
        let halves = codes.as_chunks::<32>().0;
        for half in 0..2 {
            let mut pairs = [proven!(self, _mm256_setzero_si256()); T];
            for pair in 0..BLOCK / 8 {
                let codes = &halves[2 * pair + half];
                let (low, high) = proven!(self, {
                    let (both, mask) = (
                        _mm256_loadu_si256(codes.as_ptr().cast()),
                        _mm256_set1_epi8(15),
                    );
                    (
                        _mm256_and_si256(both, mask),
                        _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask),
                    )
                });
                for t in 0..T {
                    proven!(self, {
                        let a = _mm256_set1_epi32(x[t].quad(2 * pair));
                        let b = _mm256_set1_epi32(x[t].quad(2 * pair + 1));
                        if VNNI {
                            let low = _mm256_dpbusd_avx_epi32(dots[t][half], low, a);
                            dots[t][half] = _mm256_dpbusd_avx_epi32(low, high, b);
                        } else {
                            // A block adds eight pairs of at most 2 · 15 · 127 into 16 bits: 30 480 < 2¹⁵.
                            let low = _mm256_add_epi16(pairs[t], _mm256_maddubs_epi16(low, a));
                            pairs[t] = _mm256_add_epi16(low, _mm256_maddubs_epi16(high, b));
                        }
                    });
                }
            }
            if !VNNI {
                for t in 0..T {
                    dots[t][half] = proven!(self, {
                        let quads = _mm256_madd_epi16(pairs[t], _mm256_set1_epi16(1));
                        _mm256_add_epi32(dots[t][half], quads)
                    });
                }
            }
        }
        dots
    }

    #[inline(always)]
    fn panel_scales(self, bits: &[u8; SCALE_BYTES]) -> [__m256; 2] {
        let halves = bits.as_chunks().0;
        [self.load_f16(&halves[0]), self.load_f16(&halves[1])]
    }

    #[inline(always)]
    fn panel_zero(self) -> [__m256; 2] {
        [self.splat(0.0); 2]
    }

    #[inline(always)]
    fn panel_add(
        self,
        sum: [__m256; 2],
        dots: [__m256i; 2],
        w: [__m256; 2],
        x: f32,
    ) -> [__m256; 2] {
        let (x, mut out) = (self.splat(x), sum);
        for half in 0..2 {
            let dots = proven!(self, _mm256_cvtepi32_ps(dots[half]));
            out[half] = self.fma(dots, self.mul(w[half], x), sum[half]);
        }
        out
    }

    #[inline(always)]
    fn panel_store(self, sum: [__m256; 2], out: &mut [f32; PANEL]) {
        for (sum, out) in sum.into_iter().zip(out.as_chunks_mut().0) {
            self.store(sum, out);
        }
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
