//! One block of each of ggml's quantized types as f32.
//!
//! The simple types hold 32 values: an f16 scale `d`, for the `_1` types an f16 minimum `m`, the values' low four bits in 16 bytes
//! (value `i` in the low half of byte `i`, value `i + 16` in the high half), for five bits a word with the fifth bit of value `i` in
//! bit `i`.
//!
//! | type | value |
//! |---|---|
//! | Q4_0, Q5_0, Q8_0 | d · (q − 8), d · (q − 16), d · q |
//! | Q4_1, Q5_1 | d · q + m |
//!
//! The K types hold 256 values in groups with scales (and minimums) of their own, which are integers times an f16 of the block.
//!
//! Each function takes exactly one block and fills exactly its values; `ggml.rs` cuts them.
//!
//! Source: ggml's block layouts (`ggml-common.h`), written anew.

use half::f16;

/// Values in a block of the K types.
pub(super) const SUPER_BLOCK: usize = 256;

/// The f16 at byte `at` of a block.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The four bits of value `i` of 32.
fn nibble(q: &[u8], i: usize) -> u8 {
    if i < 16 { q[i] & 15 } else { q[i - 16] >> 4 }
}

pub(super) fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * (f32::from(nibble(&block[2..], i)) - 8.0);
    }
}

pub(super) fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(nibble(&block[4..], i)) + m;
    }
}

/// The five bits of value `i`: `high` is the word of fifth bits, `low` the nibbles.
fn five_bits(high: &[u8], low: &[u8], i: usize) -> f32 {
    let fifth = (high[i / 8] >> (i % 8)) & 1;
    f32::from(nibble(low, i) | (fifth << 4))
}

pub(super) fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * (five_bits(&block[2..6], &block[6..], i) - 16.0);
    }
}

pub(super) fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * five_bits(&block[4..8], &block[8..], i) + m;
    }
}

pub(super) fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(*q as i8);
    }
}

/// Scale and minimum of group `g` of eight, six bits each, from 12 bytes.
///
/// Groups 0–3 have their scale in the low six bits of byte `g`, their minimum in those of byte `g + 4`. Groups 4–7 have four bits
/// of each in byte `g + 4`, and the two bits above them where groups 0–3 left room.
fn scale_and_min(packed: &[u8], g: usize) -> (f32, f32) {
    let (scale, min) = if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        (
            (packed[g + 4] & 15) | ((packed[g - 4] >> 6) << 4),
            (packed[g + 4] >> 4) | ((packed[g] >> 6) << 4),
        )
    };
    (f32::from(scale), f32::from(min))
}

/// Eight groups of 32: f16 scale and f16 minimum of the block, 12 bytes of group scales, 128 bytes of nibbles. Groups `2p` and
/// `2p + 1` share 32 bytes: low and high halves.
pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    let (scales, nibbles) = (&block[4..16], &block[16..]);
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(scales, g);
        for (byte, out) in nibbles[g / 2 * 32..].iter().zip(out) {
            let q = (byte >> (g % 2 * 4)) & 15;
            *out = d * scale * f32::from(q) - d_min * min;
        }
    }
}

/// As [`q4_k`], with 32 bytes before the nibbles: bit `g` of byte `i` is the fifth bit of value `i` of group `g`.
pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    let (scales, high, nibbles) = (&block[4..16], &block[16..48], &block[48..]);
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(scales, g);
        for ((byte, high), out) in nibbles[g / 2 * 32..].iter().zip(high).zip(out) {
            let q = ((byte >> (g % 2 * 4)) & 15) | (((high >> g) & 1) << 4);
            *out = d * scale * f32::from(q) - d_min * min;
        }
    }
}

/// Two halves of 128 values, each four runs of 32: run `r` has its low four bits in bytes `r % 2 · 32 ..` of the half's 64 (low
/// halves for runs 0 and 1, high for 2 and 3) and its two high bits in bits `2r` of the half's 32 bytes. 16 signed scales, one per
/// 16 values; the block's f16 scale stands at the end. Value: d · scale · (q − 32).
pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (run, out) in out.chunks_exact_mut(32).enumerate() {
        let (half, r) = (run / 4, run % 4);
        let low = &low[half * 64 + r % 2 * 32..];
        let high = &high[half * 32..];
        for (i, out) in out.iter_mut().enumerate() {
            let q = ((low[i] >> (r / 2 * 4)) & 15) | (((high[i] >> (2 * r)) & 3) << 4);
            let scale = f32::from(scales[run * 2 + i / 16] as i8);
            *out = d * scale * (f32::from(q) - 32.0);
        }
    }
}
