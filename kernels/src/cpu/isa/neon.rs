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
use crate::cpu::table::Table;
use crate::quant::{Int8Block, SCALE_BYTES};
use crate::{BLOCK, PANEL};

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

impl<const LEVEL: u8> Isa for Neon<LEVEL> {
    type F32 = float32x4_t;
    /// Rows 0 to 3, 4 to 7, 8 to 11, 12 to 15.
    type Integers = [int32x4_t; 4];
    type PanelF32 = [float32x4_t; 4];
    lanes!(4);
    const TOKENS: usize = 4;
    const HEADS: usize = 8;

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
    fn load_i8(self, x: &[u8; 4]) -> float32x4_t {
        proven!(self, {
            let bytes = vreinterpret_s8_u32(vdup_n_u32(u32::from_le_bytes(*x)));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
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
    fn dot_q8<const T: usize>(
        self,
        codes: &[u8; PANEL * BLOCK],
        x: [&Int8Block; T],
    ) -> [[int32x4_t; 4]; T] {
        let quads = codes.as_chunks::<16>().0;
        let mut dots = [[proven!(self, vdupq_n_s32(0)); 4]; T];
        for rows in 0..4 {
            let mut w = [proven!(self, vdupq_n_s8(0)); 8];
            for quad in 0..8 {
                w[quad] = proven!(self, {
                    let codes = vld1q_u8(quads[4 * quad + rows].as_ptr());
                    vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(0x80)))
                });
            }
            let of_rows = self.dot_rows(w, x);
            for t in 0..T {
                dots[t][rows] = of_rows[t];
            }
        }
        dots
    }

    #[inline(always)]
    fn dot_q4<const T: usize>(
        self,
        codes: &[u8; PANEL * BLOCK / 2],
        x: [&Int8Block; T],
    ) -> [[int32x4_t; 4]; T] {
        let quads = codes.as_chunks::<16>().0;
        let mut dots = [[proven!(self, vdupq_n_s32(0)); 4]; T];
        for rows in 0..4 {
            let mut w = [proven!(self, vdupq_n_s8(0)); 8];
            for pair in 0..4 {
                proven!(self, {
                    let (codes, eight) = (vld1q_u8(quads[4 * pair + rows].as_ptr()), vdupq_n_s8(8));
                    let low = vandq_u8(codes, vdupq_n_u8(15));
                    let high = vshrq_n_u8::<4>(codes);
                    w[2 * pair] = vsubq_s8(vreinterpretq_s8_u8(low), eight);
                    w[2 * pair + 1] = vsubq_s8(vreinterpretq_s8_u8(high), eight);
                });
            }
            let of_rows = self.dot_rows(w, x);
            for t in 0..T {
                dots[t][rows] = of_rows[t];
            }
        }
        dots
    }

    #[inline(always)]
    fn panel_scales(self, bits: &[u8; SCALE_BYTES]) -> [float32x4_t; 4] {
        let mut out = [self.splat(0.0); 4];
        for (out, bits) in out.iter_mut().zip(bits.as_chunks().0) {
            *out = self.load_f16(bits);
        }
        out
    }

    #[inline(always)]
    fn panel_zero(self) -> [float32x4_t; 4] {
        [self.splat(0.0); 4]
    }

    #[inline(always)]
    fn panel_add(
        self,
        sum: [float32x4_t; 4],
        dots: [int32x4_t; 4],
        w: [float32x4_t; 4],
        x: f32,
    ) -> [float32x4_t; 4] {
        let (x, mut out) = (self.splat(x), sum);
        for rows in 0..4 {
            let dots = proven!(self, vcvtq_f32_s32(dots[rows]));
            out[rows] = self.fma(dots, self.mul(w[rows], x), sum[rows]);
        }
        out
    }

    #[inline(always)]
    fn panel_store(self, sum: [float32x4_t; 4], out: &mut [f32; PANEL]) {
        for (sum, out) in sum.into_iter().zip(out.as_chunks_mut().0) {
            self.store(sum, out);
        }
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
}

impl<const LEVEL: u8> Neon<LEVEL> {
    /// The products of four rows, four bytes of each in a register, with a block of `T` tokens: a row per lane.
    #[inline(always)]
    fn dot_rows<const T: usize>(self, w: [int8x16_t; 8], x: [&Int8Block; T]) -> [int32x4_t; T] {
        if LEVEL >= I8MM && T >= 2 {
            return self.dot_rows_smmla(w, x);
        }
        let mut dots = [proven!(self, vdupq_n_s32(0)); T];
        for t in 0..T {
            dots[t] = if LEVEL >= DOTPROD {
                self.dot_rows_sdot(w, x[t])
            } else {
                self.dot_rows_mull(w, x[t])
            };
        }
        dots
    }

    #[inline(always)]
    fn dot_rows_sdot(self, w: [int8x16_t; 8], x: &Int8Block) -> int32x4_t {
        let halves = x.bytes.as_chunks::<16>().0;
        proven!(self, {
            let (a, b) = (vld1q_s8(halves[0].as_ptr()), vld1q_s8(halves[1].as_ptr()));
            // Two chains, as the instruction takes three cycles or more.
            let zero = vdupq_n_s32(0);
            let even = sdot::<2>(sdot::<0>(zero, w[0], a), w[2], a);
            let odd = sdot::<3>(sdot::<1>(zero, w[1], a), w[3], a);
            let even = sdot::<2>(sdot::<0>(even, w[4], b), w[6], b);
            let odd = sdot::<3>(sdot::<1>(odd, w[5], b), w[7], b);
            vaddq_s32(even, odd)
        })
    }

    #[inline(always)]
    fn dot_rows_mull(self, w: [int8x16_t; 8], x: &Int8Block) -> int32x4_t {
        // Lanes 0 and 1 of `low` are halves of the first row's sum, and so on.
        let (mut low, mut high) = (proven!(self, vdupq_n_s32(0)), proven!(self, vdupq_n_s32(0)));
        for pair in 0..4 {
            proven!(self, {
                let a = vreinterpret_s8_s32(vdup_n_s32(x.quad(2 * pair)));
                let b = vreinterpret_s8_s32(vdup_n_s32(x.quad(2 * pair + 1)));
                let (wa, wb) = (w[2 * pair], w[2 * pair + 1]);
                // Two products of at most 128 · 127 fit into 16 bits.
                let products = vmull_s8(vget_low_s8(wa), a);
                low = vpadalq_s16(low, vmlal_s8(products, vget_low_s8(wb), b));
                let products = vmull_s8(vget_high_s8(wa), a);
                high = vpadalq_s16(high, vmlal_s8(products, vget_high_s8(wb), b));
            });
        }
        proven!(self, vpaddq_s32(low, high))
    }

    /// Two rows with two tokens at a time, eight bytes of each. An odd token is paired with itself.
    #[inline(always)]
    fn dot_rows_smmla<const T: usize>(
        self,
        w: [int8x16_t; 8],
        x: [&Int8Block; T],
    ) -> [int32x4_t; T] {
        let mut dots = [proven!(self, vdupq_n_s32(0)); T];
        for t in (0..T).step_by(2) {
            let (a, b) = (x[t], x[(t + 1).min(T - 1)]);
            let (a, b) = (a.bytes.as_chunks::<8>().0, b.bytes.as_chunks::<8>().0);
            proven!(self, {
                let (mut first, mut last) = (vdupq_n_s32(0), vdupq_n_s32(0));
                for pair in 0..4 {
                    let x = vcombine_s8(vld1_s8(a[pair].as_ptr()), vld1_s8(b[pair].as_ptr()));
                    let low = vreinterpretq_s32_s8(w[2 * pair]);
                    let high = vreinterpretq_s32_s8(w[2 * pair + 1]);
                    first = smmla(first, vreinterpretq_s8_s32(vzip1q_s32(low, high)), x);
                    last = smmla(last, vreinterpretq_s8_s32(vzip2q_s32(low, high)), x);
                }
                // `first` is `[w0 a, w0 b, w1 a, w1 b]`, `last` the same of rows 2 and 3.
                dots[t] = vuzp1q_s32(first, last);
                if t + 1 < T {
                    dots[t + 1] = vuzp2q_s32(first, last);
                }
            });
        }
        dots
    }
}

/// Lane `j`: `sum[j]` plus the products of bytes `4j..4j+4` of `a` with bytes `4 · LANE ..` of `b`.
///
/// # Safety
/// The CPU has the dotprod feature.
#[inline(always)]
unsafe fn sdot<const LANE: u8>(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: by the caller's word; registers only.
    unsafe {
        asm!("sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]", sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
            lane = const LANE, options(pure, nomem, nostack, preserves_flags));
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
