//! x86-64 with AVX-512 F, BW, VL and VNNI: sixteen floats per vector, and masks for what is shorter.
//!
//! One vector holds four bytes of each row of a panel, one instruction multiplies them with four activations.
#![allow(
    unsafe_code,
    reason = "vendor intrinsics; a value of `Avx512` proves that the CPU has them"
)]

use std::arch::x86_64::*;

use super::avx2::sum_256;
use super::{Isa, lanes, table};
use crate::cpu::table::Table;
use crate::quant::{Int8Block, SCALE_BYTES};
use crate::{BLOCK, PANEL};

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

/// The parts of a dot product: a vector holds four bytes of each row of a panel.
impl Avx512 {
    #[inline(always)]
    fn zero(self) -> __m512i {
        proven!(self, _mm512_setzero_si512())
    }

    /// Vector `i` of the codes of a block.
    #[inline(always)]
    fn codes<const N: usize>(self, codes: &[u8; N], i: usize) -> __m512i {
        let codes = &codes.as_chunks::<64>().0[i];
        proven!(self, _mm512_loadu_si512(codes.as_ptr().cast()))
    }

    /// What codes that are stored without sign add to a dot product is taken away beforehand: `zero_point` times the sum of the
    /// activations.
    #[inline(always)]
    fn offsets<const P: usize, const T: usize>(
        self,
        zero_point: i32,
        x: [&Int8Block; T],
    ) -> [[__m512i; T]; P] {
        let mut offsets = [self.zero(); T];
        for t in 0..T {
            offsets[t] = proven!(self, _mm512_set1_epi32(zero_point * x[t].sum));
        }
        [offsets; P]
    }

    /// Adds four columns: `w` of every panel times quad `quad` of every token.
    #[inline(always)]
    fn add_dots<const P: usize, const T: usize>(
        self,
        dots: &mut [[__m512i; T]; P],
        w: [__m512i; P],
        x: [&Int8Block; T],
        quad: usize,
    ) {
        for t in 0..T {
            let x = proven!(self, _mm512_set1_epi32(x[t].quad(quad)));
            for p in 0..P {
                dots[p][t] = proven!(self, _mm512_dpbusd_epi32(dots[p][t], w[p], x));
            }
        }
    }
}

/// A mask of the first `n` of 16 lanes.
#[inline(always)]
fn first_lanes(n: usize) -> __mmask16 {
    debug_assert!(n <= 16, "a mask covers one vector");
    ((1u32 << n.min(16)) - 1) as __mmask16
}

impl Isa for Avx512 {
    type F32 = __m512;
    type Integers = __m512i;
    type PanelF32 = __m512;
    lanes!(16);
    const TOKENS: usize = 4;
    const HEADS: usize = 8;
    const PANELS: usize = 3;

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
    fn load_i8(self, x: &[u8; 16]) -> __m512 {
        proven!(self, {
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        })
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
    fn largest(self, a: __m512) -> f32 {
        proven!(self, _mm512_reduce_max_ps(a))
    }

    #[inline(always)]
    fn dot_q8<const T: usize>(
        self,
        codes: &[u8; PANEL * BLOCK],
        x: [&Int8Block; T],
    ) -> [__m512i; T] {
        let [dots] = self.dots_q8([codes], x);
        dots
    }

    #[inline(always)]
    fn dot_q4<const T: usize>(
        self,
        codes: &[u8; PANEL * BLOCK / 2],
        x: [&Int8Block; T],
    ) -> [__m512i; T] {
        let [dots] = self.dots_q4([codes], x);
        dots
    }

    #[inline(always)]
    fn dots_q8<const P: usize, const T: usize>(
        self,
        codes: [&[u8; PANEL * BLOCK]; P],
        x: [&Int8Block; T],
    ) -> [[__m512i; T]; P] {
        let mut dots = self.offsets::<P, T>(-128, x);
        for quad in 0..BLOCK / 4 {
            let mut w = [self.zero(); P];
            for p in 0..P {
                w[p] = self.codes(codes[p], quad);
            }
            self.add_dots(&mut dots, w, x, quad);
        }
        dots
    }

    #[inline(always)]
    fn dots_q4<const P: usize, const T: usize>(
        self,
        codes: [&[u8; PANEL * BLOCK / 2]; P],
        x: [&Int8Block; T],
    ) -> [[__m512i; T]; P] {
        let mut dots = self.offsets::<P, T>(-8, x);
        for pair in 0..BLOCK / 8 {
            let (mut both, mut w) = ([self.zero(); P], [self.zero(); P]);
            for p in 0..P {
                both[p] = self.codes(codes[p], pair);
                w[p] = proven!(self, _mm512_and_si512(both[p], _mm512_set1_epi8(15)));
            }
            self.add_dots(&mut dots, w, x, 2 * pair);
            for p in 0..P {
                w[p] = proven!(self, {
                    _mm512_and_si512(_mm512_srli_epi16::<4>(both[p]), _mm512_set1_epi8(15))
                });
            }
            self.add_dots(&mut dots, w, x, 2 * pair + 1);
        }
        dots
    }

    #[inline(always)]
    fn panel_scales(self, bits: &[u8; SCALE_BYTES]) -> __m512 {
        self.load_f16(bits)
    }

    #[inline(always)]
    fn panel_zero(self) -> __m512 {
        self.splat(0.0)
    }

    #[inline(always)]
    fn panel_add(self, sum: __m512, dots: __m512i, w: __m512, x: f32) -> __m512 {
        let dots = proven!(self, _mm512_cvtepi32_ps(dots));
        self.fma(dots, self.mul(w, self.splat(x)), sum)
    }

    #[inline(always)]
    fn panel_store(self, sum: __m512, out: &mut [f32; PANEL]) {
        self.store(sum, out);
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
    fn store_i8(self, v: __m512, out: &mut [i8]) {
        let out: &mut [i8; 16] = out.try_into().expect("a vector holds sixteen values");
        proven!(self, {
            let v = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v));
            _mm_storeu_si128(out.as_mut_ptr().cast(), v);
        });
    }
}
