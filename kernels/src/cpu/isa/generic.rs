//! Arrays of eight floats in plain Rust: runs anywhere, and gives the compiler loops it can vectorize.
#![allow(unsafe_code, reason = "only what the shared table macro expands to")]

use super::{Isa, lanes, table};
use crate::cpu::table::Table;
use crate::quant::{Int8Block, SCALE_BYTES};
use crate::{BLOCK, PANEL};

/// No instruction set in particular.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Generic;

static TABLE: Table = table!("generic", Generic, []);

/// The table, which any CPU can run.
pub(crate) fn table() -> &'static Table {
    &TABLE
}

impl Generic {
    /// The value.
    ///
    /// # Safety
    /// Nothing is asked of the CPU; unsafe only because the shared macro calls it so.
    unsafe fn assume() -> Self {
        Self
    }
}

/// Adding and subtracting this leaves the nearest integer: 1.5 · 2²³ has no bits after the point.
const ROUND: f32 = 12_582_912.0;

/// `out[i] = f(a[i], b[i])`
macro_rules! lanewise {
    ($a:expr, $b:expr, |$x:ident, $y:ident| $f:expr) => {{
        let (a, b) = ($a, $b);
        let mut out = [0.0f32; 8];
        for i in 0..8 {
            let ($x, $y) = (a[i], b[i]);
            out[i] = $f;
        }
        out
    }};
}

/// An f16 as f32, without branches so that it can be vectorized.
#[inline(always)]
fn widen(half: u16) -> f32 {
    // Exponent and fraction moved into place read as 2^-112 of the value, also for denormals; the product is exact.
    let magnitude =
        f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let not_finite = if half & 0x7c00 == 0x7c00 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(magnitude.to_bits() | not_finite | u32::from(half & 0x8000) << 16)
}

impl Isa for Generic {
    type F32 = [f32; 8];
    type Integers = [i32; PANEL];
    type PanelF32 = [f32; PANEL];
    lanes!(8);
    const TOKENS: usize = 2;
    const HEADS: usize = 4;

    #[inline(always)]
    fn splat(self, v: f32) -> [f32; 8] {
        [v; 8]
    }

    #[inline(always)]
    fn load(self, x: &[f32; 8]) -> [f32; 8] {
        *x
    }

    #[inline(always)]
    fn store(self, v: [f32; 8], x: &mut [f32; 8]) {
        *x = v;
    }

    #[inline(always)]
    fn load_f32(self, x: &[u8; 32]) -> [f32; 8] {
        let mut out = [0.0; 8];
        for (o, b) in out.iter_mut().zip(x.as_chunks().0) {
            *o = f32::from_le_bytes(*b);
        }
        out
    }

    #[inline(always)]
    fn load_f16(self, x: &[u8; 16]) -> [f32; 8] {
        let mut out = [0.0; 8];
        for (o, b) in out.iter_mut().zip(x.as_chunks().0) {
            *o = widen(u16::from_le_bytes(*b));
        }
        out
    }

    #[inline(always)]
    fn load_i8(self, x: &[u8; 8]) -> [f32; 8] {
        let mut out = [0.0; 8];
        for (o, x) in out.iter_mut().zip(x) {
            *o = f32::from(*x as i8);
        }
        out
    }

    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanewise!(a, b, |x, y| x + y)
    }

    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanewise!(a, b, |x, y| x - y)
    }

    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanewise!(a, b, |x, y| x * y)
    }

    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanewise!(a, b, |x, y| x / y)
    }

    #[inline(always)]
    fn fma(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // `f32::mul_add` would be a library call on a CPU without the instruction.
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn max(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanewise!(a, b, |x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    fn min(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanewise!(a, b, |x, y| if x < y { x } else { y })
    }

    #[inline(always)]
    fn abs(self, a: [f32; 8]) -> [f32; 8] {
        a.map(f32::abs)
    }

    #[inline(always)]
    fn round(self, a: [f32; 8]) -> [f32; 8] {
        a.map(|x| (x + ROUND) - ROUND)
    }

    #[inline(always)]
    fn pow2(self, n: [f32; 8]) -> [f32; 8] {
        // Adding 1.5 · 2²³ leaves n in the low bits; shifted by 23 they are the exponent, and 127 is its bias.
        n.map(|n| f32::from_bits((n + (ROUND + 127.0)).to_bits() << 23))
    }

    #[inline(always)]
    fn select_lt(self, a: [f32; 8], b: [f32; 8], t: [f32; 8], f: [f32; 8]) -> [f32; 8] {
        let mut out = f;
        for i in 0..8 {
            if a[i] < b[i] {
                out[i] = t[i];
            }
        }
        out
    }

    #[inline(always)]
    fn sum(self, a: [f32; 8]) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }

    #[inline(always)]
    fn dot_q8<const T: usize>(
        self,
        codes: &[u8; PANEL * BLOCK],
        x: [&Int8Block; T],
    ) -> [[i32; PANEL]; T] {
        let mut dots = [[0; PANEL]; T];
        for (quad, codes) in codes.as_chunks::<64>().0.iter().enumerate() {
            let mut w = [0; 64];
            for (w, code) in w.iter_mut().zip(codes) {
                *w = (code ^ 0x80) as i8;
            }
            for t in 0..T {
                add_quads(&mut dots[t], &w, &x[t].bytes.as_chunks().0[quad]);
            }
        }
        dots
    }

    #[inline(always)]
    fn dot_q4<const T: usize>(
        self,
        codes: &[u8; PANEL * BLOCK / 2],
        x: [&Int8Block; T],
    ) -> [[i32; PANEL]; T] {
        let mut dots = [[0; PANEL]; T];
        for (pair, codes) in codes.as_chunks::<64>().0.iter().enumerate() {
            let (mut low, mut high) = ([0; 64], [0; 64]);
            for (i, codes) in codes.iter().enumerate() {
                (low[i], high[i]) = ((codes & 15) as i8 - 8, (codes >> 4) as i8 - 8);
            }
            for t in 0..T {
                let x = x[t].bytes.as_chunks().0;
                add_quads(&mut dots[t], &low, &x[2 * pair]);
                add_quads(&mut dots[t], &high, &x[2 * pair + 1]);
            }
        }
        dots
    }

    #[inline(always)]
    fn panel_scales(self, bits: &[u8; SCALE_BYTES]) -> [f32; PANEL] {
        let mut out = [0.0; PANEL];
        for (out, bits) in out.iter_mut().zip(bits.as_chunks().0) {
            *out = widen(u16::from_le_bytes(*bits));
        }
        out
    }

    #[inline(always)]
    fn panel_zero(self) -> [f32; PANEL] {
        [0.0; PANEL]
    }

    #[inline(always)]
    fn panel_add(
        self,
        sum: [f32; PANEL],
        dots: [i32; PANEL],
        w: [f32; PANEL],
        x: f32,
    ) -> [f32; PANEL] {
        let mut out = sum;
        for i in 0..PANEL {
            out[i] += dots[i] as f32 * (w[i] * x);
        }
        out
    }

    #[inline(always)]
    fn panel_store(self, sum: [f32; PANEL], out: &mut [f32; PANEL]) {
        *out = sum;
    }

    #[inline(always)]
    fn store_i8(self, v: [f32; 8], out: &mut [i8]) {
        for (o, v) in out.iter_mut().zip(v) {
            *o = v as i8;
        }
    }
}

/// Adds the products of four bytes of every row with four activations.
#[inline(always)]
fn add_quads(dots: &mut [i32; PANEL], w: &[i8; 4 * PANEL], x: &[i8; 4]) {
    for (dot, w) in dots.iter_mut().zip(w.as_chunks::<4>().0) {
        // Two products of at most 128 · 127 fit into 16 bits.
        let product = |i: usize| i16::from(w[i]) * i16::from(x[i]);
        *dot += i32::from(product(0) + product(1)) + i32::from(product(2) + product(3));
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    #[test]
    fn every_half_float_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (super::widen(bits), f16::from_bits(bits).to_f32());
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{bits:#06x}: {got} {want}"
            );
        }
    }
}
