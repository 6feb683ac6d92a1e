//! Arrays of eight floats in plain Rust: runs anywhere, and gives the compiler loops it can vectorize.
#![allow(unsafe_code, reason = "only what the shared table macro expands to")]

use super::{Isa, lanes, table};
use crate::BLOCK;
use crate::cpu::table::Table;
use crate::quant::Int8Block;

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
    type Int8 = [i8; BLOCK];
    type Nibbles = [i8; BLOCK];
    type Int8X = [i8; BLOCK];
    type Scale = f32;
    /// Lane `j` holds the part of elements `j`, `j + 8`, `j + 16` and `j + 24` of every block.
    type Dot = [f32; 8];
    lanes!(8);
    const TOKENS: usize = 2;

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
    fn load_i8(self, q: &[u8; BLOCK]) -> [i8; BLOCK] {
        q.map(|q| q as i8)
    }

    #[inline(always)]
    fn load_u4(self, q: &[u8; BLOCK / 2]) -> [i8; BLOCK] {
        let mut out = [0; BLOCK];
        let (low, high) = out.split_at_mut(BLOCK / 2);
        for ((low, high), q) in low.iter_mut().zip(high).zip(q) {
            (*low, *high) = ((q & 15) as i8, (q >> 4) as i8);
        }
        out
    }

    #[inline(always)]
    fn u4_to_i8(self, w: [i8; BLOCK]) -> [i8; BLOCK] {
        w.map(|w| w - 8)
    }

    #[inline(always)]
    fn load_x(self, x: &Int8Block) -> [i8; BLOCK] {
        x.0
    }

    #[inline(always)]
    fn scale(self, bits: &[u8; 2]) -> f32 {
        widen(u16::from_le_bytes(*bits))
    }

    #[inline(always)]
    fn scale_by(self, w: f32, x: f32) -> f32 {
        w * x
    }

    #[inline(always)]
    fn dot_zero(self) -> [f32; 8] {
        [0.0; 8]
    }

    #[inline(always)]
    fn dot_i8(self, sum: [f32; 8], w: [i8; BLOCK], x: [i8; BLOCK], scale: f32) -> [f32; 8] {
        let mut out = sum;
        for (j, out) in out.iter_mut().enumerate() {
            // Two products of at most 128 · 127 fit into 16 bits.
            let product = |i: usize| i16::from(w[i]) * i16::from(x[i]);
            let dot = i32::from(product(j) + product(j + 8))
                + i32::from(product(j + 16) + product(j + 24));
            *out += dot as f32 * scale;
        }
        out
    }

    #[inline(always)]
    fn dot_u4(self, sum: [f32; 8], w: [i8; BLOCK], x: [i8; BLOCK], scale: f32) -> [f32; 8] {
        self.dot_i8(sum, self.u4_to_i8(w), x, scale)
    }

    #[inline(always)]
    fn dot_sum(self, sum: [f32; 8]) -> f32 {
        self.sum(sum)
    }

    #[inline(always)]
    fn store_i8(self, v: [f32; 8], out: &mut [i8]) {
        for (o, v) in out.iter_mut().zip(v) {
            *o = v as i8;
        }
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
