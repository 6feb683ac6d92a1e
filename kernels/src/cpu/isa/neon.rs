//! aarch64: NEON alone, with the byte dot product (`sdot`), and with the byte matrix product (`smmla`).
//!
//! `sdot`, `smmla` and the f16 conversions are written as `asm!`: their intrinsics are not stable in Rust 1.95.
#![allow(
    unsafe_code,
    reason = "vendor intrinsics; a value of `Neon` proves that the CPU has them"
)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::{Isa, lanes, table};
use crate::BLOCK;
use crate::cpu::matmul_int8::{self, BlockFormat, Int8Row};
use crate::cpu::table::Table;
use crate::quant::Int8Block;

/// NEON, and what `LEVEL` adds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon<const LEVEL: u8>(());

/// Only NEON, which every aarch64 CPU has.
const BASE: u8 = 0;
/// And `sdot`: Cortex-A76 and Apple A11 onwards.
const DOTPROD: u8 = 1;
/// And `smmla`: Cortex-A710, Neoverse V1 and Apple M2 onwards.
const I8MM: u8 = 2;

/// NEON alone.
pub(crate) type Base = Neon<BASE>;
/// NEON with `sdot`.
pub(crate) type Dotprod = Neon<DOTPROD>;
/// NEON with `sdot` and `smmla`.
pub(crate) type I8mm = Neon<I8MM>;

static BASE_TABLE: Table = table!("aarch64-neon", Base, ["neon"]);
static DOTPROD_TABLE: Table = table!("aarch64-dotprod", Dotprod, ["neon,dotprod"]);
static I8MM_TABLE: Table = table!("aarch64-i8mm", I8mm, ["neon,dotprod,i8mm"]);

impl<const LEVEL: u8> Neon<LEVEL> {
    /// The proof, if this CPU has the features.
    pub(crate) fn new() -> Option<Self> {
        (is_aarch64_feature_detected!("neon")
            && (LEVEL < DOTPROD || is_aarch64_feature_detected!("dotprod"))
            && (LEVEL < I8MM || is_aarch64_feature_detected!("i8mm")))
        .then_some(Self(()))
    }

    /// The table, if this CPU has the features.
    pub(crate) fn table() -> Option<&'static Table> {
        Self::new().map(|_| match LEVEL {
            BASE => &BASE_TABLE,
            DOTPROD => &DOTPROD_TABLE,
            _ => &I8MM_TABLE,
        })
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
        // SAFETY: `$isa` exists, so the CPU has NEON and what its level adds. Loads and stores go through references to
        // arrays of the size that they touch.
        unsafe { $code }
    }};
}

/// 32 bytes in two registers.
type Int8 = [int8x16_t; 2];

impl<const LEVEL: u8> Isa for Neon<LEVEL> {
    type F32 = float32x4_t;
    type Int8 = Int8;
    type Nibbles = Int8;
    /// The bytes, and minus 8 times their sum, spread over the lanes as `dot_u4` spreads it.
    type Int8X = (Int8, int32x4_t);
    type Scale = float32x4_t;
    type Dot = float32x4_t;
    lanes!(4);
    const TOKENS: usize = 4;

    #[inline(always)]
    fn splat(self, v: f32) -> float32x4_t {
        proven!(self, vdupq_n_f32(v))
    }

    #[inline(always)]
    fn load(self, x: &[f32; 4]) -> float32x4_t {
        proven!(self, vld1q_f32(x.as_ptr()))
    }

    #[inline(always)]
    fn store(self, v: float32x4_t, x: &mut [f32; 4]) {
        proven!(self, vst1q_f32(x.as_mut_ptr(), v));
    }

    #[inline(always)]
    fn load_f32(self, x: &[u8; 16]) -> float32x4_t {
        proven!(self, vreinterpretq_f32_u8(vld1q_u8(x.as_ptr())))
    }

    #[inline(always)]
    fn load_f16(self, x: &[u8; 8]) -> float32x4_t {
        proven!(self, {
            let half = vld1_u8(x.as_ptr());
            let wide: float32x4_t;
            asm!("fcvtl {wide:v}.4s, {half:v}.4h", wide = lateout(vreg) wide, half = in(vreg) half,
                options(pure, nomem, nostack, preserves_flags));
            wide
        })
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(self, vaddq_f32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(self, vsubq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(self, vmulq_f32(a, b))
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(self, vdivq_f32(a, b))
    }

    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        proven!(self, vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(self, vmaxq_f32(a, b))
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        proven!(self, vminq_f32(a, b))
    }

    #[inline(always)]
    fn abs(self, a: float32x4_t) -> float32x4_t {
        proven!(self, vabsq_f32(a))
    }

    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        proven!(self, vrndnq_f32(a))
    }

    #[inline(always)]
    fn pow2(self, n: float32x4_t) -> float32x4_t {
        proven!(self, {
            let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        })
    }

    #[inline(always)]
    fn select_lt(
        self,
        a: float32x4_t,
        b: float32x4_t,
        t: float32x4_t,
        f: float32x4_t,
    ) -> float32x4_t {
        proven!(self, vbslq_f32(vcltq_f32(a, b), t, f))
    }

    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        proven!(self, vaddvq_f32(a))
    }

    #[inline(always)]
    fn load_i8(self, q: &[u8; BLOCK]) -> Int8 {
        proven!(self, {
            let q = q.as_ptr().cast();
            [vld1q_s8(q), vld1q_s8(q.add(16))]
        })
    }

    #[inline(always)]
    fn load_u4(self, q: &[u8; BLOCK / 2]) -> Int8 {
        proven!(self, {
            let q = vld1q_u8(q.as_ptr());
            let (low, high) = (vandq_u8(q, vdupq_n_u8(15)), vshrq_n_u8::<4>(q));
            [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)]
        })
    }

    #[inline(always)]
    fn u4_to_i8(self, w: Int8) -> Int8 {
        proven!(
            self,
            [vsubq_s8(w[0], vdupq_n_s8(8)), vsubq_s8(w[1], vdupq_n_s8(8))]
        )
    }

    #[inline(always)]
    fn load_x(self, x: &Int8Block) -> Self::Int8X {
        proven!(self, {
            let x = [vld1q_s8(x.0.as_ptr()), vld1q_s8(x.0.as_ptr().add(16))];
            let minus_8 = vdupq_n_s8(-8);
            (x, self.dot_int(vdupq_n_s32(0), [minus_8, minus_8], x))
        })
    }

    #[inline(always)]
    fn scale(self, bits: &[u8; 2]) -> float32x4_t {
        proven!(self, {
            let half = vdup_n_u16(u16::from_le_bytes(*bits));
            let wide: float32x4_t;
            asm!("fcvtl {wide:v}.4s, {half:v}.4h", wide = lateout(vreg) wide, half = in(vreg) half,
                options(pure, nomem, nostack, preserves_flags));
            wide
        })
    }

    #[inline(always)]
    fn scale_by(self, w: float32x4_t, x: f32) -> float32x4_t {
        proven!(self, vmulq_n_f32(w, x))
    }

    #[inline(always)]
    fn dot_zero(self) -> float32x4_t {
        self.splat(0.0)
    }

    #[inline(always)]
    fn dot_i8(
        self,
        sum: float32x4_t,
        w: Int8,
        (x, _): Self::Int8X,
        scale: float32x4_t,
    ) -> float32x4_t {
        proven!(
            self,
            vfmaq_f32(
                sum,
                vcvtq_f32_s32(self.dot_int(vdupq_n_s32(0), w, x)),
                scale
            )
        )
    }

    #[inline(always)]
    fn dot_u4(
        self,
        sum: float32x4_t,
        w: Int8,
        (x, minus_8): Self::Int8X,
        scale: float32x4_t,
    ) -> float32x4_t {
        proven!(
            self,
            vfmaq_f32(sum, vcvtq_f32_s32(self.dot_int(minus_8, w, x)), scale)
        )
    }

    #[inline(always)]
    fn prefetch(self, x: &[u8], ahead: usize) {
        let at = x.as_ptr().wrapping_add(ahead);
        // Into the second level: the first may be smaller than the distance.
        proven!(
            self,
            asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags))
        );
    }

    #[inline(always)]
    fn dot_sum(self, sum: float32x4_t) -> f32 {
        self.sum(sum)
    }

    #[inline(always)]
    fn store_i8(self, v: float32x4_t, out: &mut [i8]) {
        let out: &mut [i8; 4] = out.try_into().expect("a vector holds four values");
        proven!(self, {
            let v = vqmovn_s32(vcvtq_s32_f32(v));
            let v = vqmovn_s16(vcombine_s16(v, v));
            *out = vget_lane_s32::<0>(vreinterpret_s32_s8(v))
                .to_le_bytes()
                .map(|b| b as i8);
        });
    }

    #[inline(always)]
    fn int8_tile<W: BlockFormat, const R: usize, const T: usize>(
        self,
        w: [&[W::Block]; R],
        x: [Int8Row<'_>; T],
    ) -> [[f32; T]; R] {
        if LEVEL < I8MM {
            return matmul_int8::int8_tile::<Self, W, R, T>(self, w, x);
        }
        // `smmla` multiplies two rows with two tokens. An odd row or token is paired with itself: each of the four sums
        // is a chain of its own, so the result is the same as in a full pair.
        let mut out = [[0.0; T]; R];
        let mut sums = [[self.splat(0.0); T]; R];
        let n = x[0].1.len();
        // Where the same columns of the next rows lie; see `matmul_int8`.
        let next = R * n * size_of::<W::Block>();
        for i in 0..n {
            let ((first, _), zero) = (self.load_x(&x[0].0[i]), self.splat(0.0));
            let mut xs = [(zero, self.pairs(first, first)); T];
            for t in (0..T).step_by(2) {
                let (a, b) = (x[t], x[(t + 1).min(T - 1)]);
                let ((a_bytes, _), (b_bytes, _)) = (self.load_x(&a.0[i]), self.load_x(&b.0[i]));
                let scales = [a.1[i], b.1[i], a.1[i], b.1[i]];
                xs[t] = (self.load(&scales), self.pairs(a_bytes, b_bytes));
            }
            if T == 1 {
                for w in w {
                    self.prefetch(w[i].as_ref(), next);
                }
            }
            for r in (0..R).step_by(2) {
                let (a_scale, a) = W::load(self, &w[r][i]);
                let (b_scale, b) = W::load(self, &w[(r + 1).min(R - 1)][i]);
                let bytes = self.pairs(W::to_i8(self, a), W::to_i8(self, b));
                let scales = proven!(
                    self,
                    vcombine_f32(vget_low_f32(a_scale), vget_low_f32(b_scale))
                );
                for t in (0..T).step_by(2) {
                    let (x_scales, x) = xs[t];
                    sums[r][t] = self.dot_2x2(sums[r][t], bytes, x, self.mul(scales, x_scales));
                }
            }
        }
        for r in (0..R).step_by(2) {
            for t in (0..T).step_by(2) {
                let mut cells = [0.0; 4];
                self.store(sums[r][t], &mut cells);
                for (i, cell) in cells.into_iter().enumerate() {
                    let (r, t) = (r + i / 2, t + i % 2);
                    if r < R && t < T {
                        out[r][t] = cell;
                    }
                }
            }
        }
        out
    }
}

impl<const LEVEL: u8> Neon<LEVEL> {
    /// `sum` plus the products of 32 bytes, spread over the lanes: the same way for all `w` and `x`.
    #[inline(always)]
    fn dot_int(self, sum: int32x4_t, w: Int8, x: Int8) -> int32x4_t {
        proven!(self, {
            if LEVEL >= DOTPROD {
                return sdot(sdot(sum, w[0], x[0]), w[1], x[1]);
            }
            // Two products of at most 128 · 127 fit into 16 bits.
            let low = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0]));
            let low = vmlal_s8(low, vget_low_s8(w[1]), vget_low_s8(x[1]));
            let high = vmull_high_s8(w[0], x[0]);
            let high = vmlal_high_s8(high, w[1], x[1]);
            vpadalq_s16(vpadalq_s16(sum, low), high)
        })
    }

    /// Eight bytes of `a` and of `b` side by side, four times: the operands of `smmla`.
    #[inline(always)]
    fn pairs(self, a: Int8, b: Int8) -> [int8x16_t; 4] {
        proven!(self, {
            let a = [vreinterpretq_s64_s8(a[0]), vreinterpretq_s64_s8(a[1])];
            let b = [vreinterpretq_s64_s8(b[0]), vreinterpretq_s64_s8(b[1])];
            [
                vreinterpretq_s8_s64(vzip1q_s64(a[0], b[0])),
                vreinterpretq_s8_s64(vzip2q_s64(a[0], b[0])),
                vreinterpretq_s8_s64(vzip1q_s64(a[1], b[1])),
                vreinterpretq_s8_s64(vzip2q_s64(a[1], b[1])),
            ]
        })
    }

    /// Adds the scaled products of two rows with two tokens; the cells are `[[w0 x0, w0 x1], [w1 x0, w1 x1]]`.
    #[inline(always)]
    fn dot_2x2(
        self,
        sum: float32x4_t,
        w: [int8x16_t; 4],
        x: [int8x16_t; 4],
        scales: float32x4_t,
    ) -> float32x4_t {
        proven!(self, {
            let mut dot = vdupq_n_s32(0);
            for (w, x) in w.into_iter().zip(x) {
                dot = smmla(dot, w, x);
            }
            vfmaq_f32(sum, vcvtq_f32_s32(dot), scales)
        })
    }
}

/// Lane `j`: `sum[j]` plus the products of bytes `4j..4j+4`.
///
/// # Safety
/// The CPU has the dotprod feature.
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: by the caller's word; registers only.
    unsafe {
        asm!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// `sum + a · bᵀ`, where `a` and `b` are 2 × 8 bytes and `sum` is 2 × 2.
///
/// # Safety
/// The CPU has the i8mm feature.
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: by the caller's word; registers only.
    unsafe {
        asm!("smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}
