//! The block formats: rounding weights into bytes and back, and the int8 blocks of activations.
//!
//! **Weights.** A row of `cols` values is cut into blocks of 32; the tail of the last block is zeros.
//! `Q8`: scale = max|x| / 127 rounded to f16, byte = x / scale rounded to nearest (ties to even), within ±127.
//! `Q4`: with `m` the value of the largest magnitude, scale = m / −8 rounded to f16, bits = x / scale + 8 rounded and
//! cut to 0..=15; so the extreme value itself is exact up to the rounding of the scale.
//!
//! **Activations.** A block of 32 values has an f32 scale = max|x| / 127 and bytes x · (127 / max|x|) rounded to
//! nearest, ties to even. Two exceptions keep this total: a block whose largest magnitude is under [`MIN_MAGNITUDE`] is
//! all zeros, and a block that holds a NaN or an infinity has a NaN scale, so that the damage shows in the result.

use half::f16;

use crate::{BLOCK, Format, KernelError, Result};

/// Bytes of one [`Format::Q8`] block.
pub const Q8_BYTES: usize = 2 + BLOCK;

/// Bytes of one [`Format::Q4`] block.
pub const Q4_BYTES: usize = 2 + BLOCK / 2;

/// Activation blocks with nothing larger than this are rounded to zeros.
///
/// 127 times the smallest normal f32: below it the scale would be denormal and `127 / max|x|` could overflow.
pub const MIN_MAGNITUDE: f32 = 127.0 * f32::MIN_POSITIVE;

/// 32 activations as signed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(32))]
pub(crate) struct Int8Block(pub(crate) [i8; BLOCK]);

/// Rounds one row of weights into `out`.
///
/// # Errors
/// [`KernelError::Shape`] if `out` is not `format.row_bytes(x.len())` long; [`KernelError::Value`] for a value that is
/// not finite or that overflows the f16 field of the format.
pub fn pack_row(format: Format, x: &[f32], out: &mut [u8]) -> Result<()> {
    let expected = format.row_bytes(x.len());
    if out.len() != expected {
        return Err(KernelError::Shape {
            op: "pack_row",
            what: "out",
            expected,
            actual: out.len(),
        });
    }
    let limit = match format {
        Format::F32 => f32::MAX,
        // 65519.996 still rounds down to f16::MAX.
        Format::F16 => 65519.996,
        Format::Q8 => 127.0 * f16::MAX.to_f32(),
        Format::Q4 => 8.0 * f16::MAX.to_f32(),
    };
    if let Some((index, &value)) = x
        .iter()
        .enumerate()
        .find(|(_, v)| v.is_nan() || v.abs() > limit)
    {
        return Err(KernelError::Value {
            index,
            value,
            format: format.name(),
        });
    }
    match format {
        Format::F32 => {
            for (o, v) in out.chunks_exact_mut(4).zip(x) {
                o.copy_from_slice(&v.to_le_bytes());
            }
        }
        Format::F16 => {
            for (o, v) in out.chunks_exact_mut(2).zip(x) {
                o.copy_from_slice(&f16::from_f32(*v).to_le_bytes());
            }
        }
        Format::Q8 => {
            for (o, v) in out.chunks_exact_mut(Q8_BYTES).zip(x.chunks(BLOCK)) {
                pack_q8(v, o);
            }
        }
        Format::Q4 => {
            for (o, v) in out.chunks_exact_mut(Q4_BYTES).zip(x.chunks(BLOCK)) {
                pack_q4(v, o);
            }
        }
    }
    Ok(())
}

fn pack_q8(x: &[f32], out: &mut [u8]) {
    let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = f16::from_f32(max / 127.0);
    let inverse = invert(scale);
    out.fill(0);
    out[..2].copy_from_slice(&scale.to_le_bytes());
    for (o, v) in out[2..].iter_mut().zip(x) {
        *o = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
    }
}

fn pack_q4(x: &[f32], out: &mut [u8]) {
    let extreme = x
        .iter()
        .fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let scale = f16::from_f32(extreme / -8.0);
    let inverse = invert(scale);
    // 8 stands for zero, also in the padding.
    out.fill(0x88);
    out[..2].copy_from_slice(&scale.to_le_bytes());
    for (i, v) in x.iter().enumerate() {
        let bits = (v * inverse + 8.0).round_ties_even().clamp(0.0, 15.0) as u8;
        let o = &mut out[2 + i % 16];
        *o = if i < 16 {
            (*o & 0xf0) | bits
        } else {
            (*o & 0x0f) | (bits << 4)
        };
    }
}

/// `1 / scale`, or 0 for a block of values so small that their scale rounded to zero.
fn invert(scale: f16) -> f32 {
    if scale.to_f32() == 0.0 {
        0.0
    } else {
        1.0 / scale.to_f32()
    }
}

/// Writes one packed row of `cols` values as f32.
///
/// # Errors
/// [`KernelError::Shape`] if `row` is not `format.row_bytes(cols)` or `out` not `cols` long.
pub fn unpack_row(format: Format, cols: usize, row: &[u8], out: &mut [f32]) -> Result<()> {
    let expected = format.row_bytes(cols);
    if row.len() != expected {
        return Err(KernelError::Shape {
            op: "unpack_row",
            what: "row",
            expected,
            actual: row.len(),
        });
    }
    if out.len() != cols {
        return Err(KernelError::Shape {
            op: "unpack_row",
            what: "out",
            expected: cols,
            actual: out.len(),
        });
    }
    match format {
        Format::F32 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Format::F16 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks().0) {
                *o = f16::from_le_bytes(*b).to_f32();
            }
        }
        Format::Q8 => {
            for (o, b) in out.chunks_mut(BLOCK).zip(row.as_chunks::<Q8_BYTES>().0) {
                let (scale, q) = split_q8(b);
                for (o, q) in o.iter_mut().zip(q) {
                    *o = scale * f32::from(*q as i8);
                }
            }
        }
        Format::Q4 => {
            for (o, b) in out.chunks_mut(BLOCK).zip(row.as_chunks::<Q4_BYTES>().0) {
                let (scale, q) = split_q4(b);
                for (i, o) in o.iter_mut().enumerate() {
                    *o = scale * f32::from(q4_value(q, i));
                }
            }
        }
    }
    Ok(())
}

/// Scale and bytes of a Q8 block; the bytes hold `i8` bits.
#[inline(always)]
pub(crate) fn split_q8(block: &[u8; Q8_BYTES]) -> (f32, &[u8; BLOCK]) {
    let (scale, q) = block
        .split_first_chunk::<2>()
        .expect("a Q8 block starts with two bytes");
    (
        f16::from_le_bytes(*scale).to_f32(),
        q.first_chunk().expect("a Q8 block holds 32 bytes"),
    )
}

/// Scale and packed bits of a Q4 block.
#[inline(always)]
pub(crate) fn split_q4(block: &[u8; Q4_BYTES]) -> (f32, &[u8; BLOCK / 2]) {
    let (scale, q) = block
        .split_first_chunk::<2>()
        .expect("a Q4 block starts with two bytes");
    (
        f16::from_le_bytes(*scale).to_f32(),
        q.first_chunk().expect("a Q4 block holds 16 bytes"),
    )
}

/// Value `i` of a Q4 block without its scale, -8..=7.
#[inline(always)]
pub(crate) fn q4_value(q: &[u8; BLOCK / 2], i: usize) -> i8 {
    let byte = q[i % 16];
    (if i < 16 { byte & 0x0f } else { byte >> 4 }) as i8 - 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(format: Format, x: &[f32]) -> Vec<f32> {
        let mut row = vec![0xaa; format.row_bytes(x.len())];
        pack_row(format, x, &mut row).unwrap();
        let mut out = vec![f32::NAN; x.len()];
        unpack_row(format, x.len(), &row, &mut out).unwrap();
        out
    }

    #[test]
    fn round_trips_stay_within_half_a_step() {
        for cols in [1, 31, 32, 33, 64, 100] {
            let x: Vec<f32> = (0..cols)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013)
                .collect();
            assert_eq!(round_trip(Format::F32, &x), x);
            for (a, b) in x.iter().zip(round_trip(Format::F16, &x)) {
                assert!((a - b).abs() <= a.abs() * 0.5f32.powi(11), "f16 {a} {b}");
            }
            for (x, y) in x
                .chunks(BLOCK)
                .zip(round_trip(Format::Q8, &x).chunks(BLOCK))
            {
                let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (a, b) in x.iter().zip(y) {
                    // Half a step of max/127, and 2^-11 relative from the f16 scale.
                    assert!(
                        (a - b).abs() <= max * (0.5 / 127.0 + 0.5f32.powi(11)),
                        "q8 {a} {b}"
                    );
                }
            }
            for (x, y) in x
                .chunks(BLOCK)
                .zip(round_trip(Format::Q4, &x).chunks(BLOCK))
            {
                let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (a, b) in x.iter().zip(y) {
                    // A whole step of max/8: the side opposite to the extreme ends at 7.
                    assert!(
                        (a - b).abs() <= max * (1.0 / 8.0 + 0.5f32.powi(11)),
                        "q4 {a} {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn zeros_and_tiny_values_become_zeros() {
        for format in [Format::Q8, Format::Q4] {
            assert_eq!(round_trip(format, &[0.0, -0.0, 0.0]), [0.0; 3]);
            assert_eq!(round_trip(format, &[1e-30, -1e-40, 0.0]), [0.0; 3]);
        }
    }

    #[test]
    fn the_extreme_value_survives_q4() {
        assert_eq!(
            round_trip(Format::Q4, &[0.0, -8.0, 1.0, 7.0]),
            [0.0, -8.0, 1.0, 7.0]
        );
        assert_eq!(
            round_trip(Format::Q4, &[0.0, 8.0, 1.0, -7.0]),
            [0.0, 8.0, 1.0, -7.0]
        );
    }

    #[test]
    fn values_without_a_place_are_refused() {
        for (format, bad) in [
            (Format::F32, f32::NAN),
            (Format::F32, f32::INFINITY),
            (Format::F16, 65520.0),
            (Format::Q8, 127.1 * 65504.0),
            (Format::Q4, -8.1 * 65504.0),
        ] {
            let mut out = vec![0; format.row_bytes(3)];
            let result = pack_row(format, &[0.0, bad, 1.0], &mut out);
            assert!(
                matches!(result, Err(KernelError::Value { index: 1, .. })),
                "{format} {bad}"
            );
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for format in Format::ALL {
            assert!(pack_row(format, &[0.0; 3], &mut []).is_err());
            assert!(unpack_row(format, 3, &[], &mut [0.0; 3]).is_err());
            let row = vec![0; format.row_bytes(3)];
            assert!(unpack_row(format, 3, &row, &mut [0.0; 4]).is_err());
        }
    }
}
