//! The quantized formats: rounding weights into codes and back, and the int8 blocks of activations.
//!
//! **Weights.** A row of `cols` values is cut into blocks of 32; what the last block lacks is zeros. [`Format`] says where codes lie.
//! `Q8`: scale = max|x| / 127 rounded to f16, code = x / scale rounded to nearest (ties to even), within ±127.
//! `Q4`: codes -8..=7; with `m` the value of the largest magnitude, scale = m / −8 rounded to f16, or, where that leaves a smaller sum of
//! squared errors, one of a few scales around it; so rounding to nearest is the worst case.
//!
//! **Activations.** A block of 32 values has an f32 scale = max|x| / 127 and bytes x · (127 / max|x|) rounded to
//! nearest, ties to even. Two exceptions keep this total: a block whose largest magnitude is under [`MIN_MAGNITUDE`] is
//! all zeros, and a block that holds a NaN or an infinity has a NaN scale, so that the damage shows in the result.

use half::f16;

use crate::{BLOCK, Format, KernelError, PANEL, Result};

/// Bytes of the f16 scales at the start of a block of a panel.
pub(crate) const SCALE_BYTES: usize = 2 * PANEL;

/// Bytes of one block of a [`Format::Q8`] panel.
pub(crate) const Q8_BYTES: usize = SCALE_BYTES + PANEL * BLOCK;

/// Bytes of one block of a [`Format::Q4`] panel.
pub(crate) const Q4_BYTES: usize = SCALE_BYTES + PANEL * BLOCK / 2;

/// Activation blocks with nothing larger than this are rounded to zeros.
///
/// 127 times the smallest normal f32: below it the scale would be denormal and `127 / max|x|` could overflow.
pub const MIN_MAGNITUDE: f32 = 127.0 * f32::MIN_POSITIVE;

/// 32 activations as signed bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct Int8Block {
    /// Each within ±127.
    pub(crate) bytes: [i8; BLOCK],
    /// What one of them is worth.
    pub(crate) scale: f32,
    /// Their sum: what an offset in the codes of the weights adds to a dot product.
    pub(crate) sum: i32,
}

impl Int8Block {
    /// All zero.
    pub(crate) const ZERO: Self = Self {
        bytes: [0; BLOCK],
        scale: 0.0,
        sum: 0,
    };

    /// Bytes `4 · quad ..` as one word.
    #[inline(always)]
    pub(crate) fn quad(&self, quad: usize) -> i32 {
        let [a, b, c, d] = self.bytes.as_chunks::<4>().0[quad];
        i32::from_le_bytes([a as u8, b as u8, c as u8, d as u8])
    }
}

/// Rounds up to `format.panel_rows()` rows of `cols` weights into one panel.
///
/// # Errors
/// [`KernelError::Shape`] if `out` is not `format.panel_bytes(cols)` long or `x` not a number of rows that fits;
/// [`KernelError::Value`] for a value that is not finite or that overflows the f16 field of the format (its index is that in `x`).
pub fn pack_panel(format: Format, cols: usize, x: &[f32], out: &mut [u8]) -> Result<()> {
    check_panel("pack_panel", format, cols, out.len())?;
    let rows = x.len().checked_div(cols).unwrap_or(0);
    if rows * cols != x.len() || rows > format.panel_rows() {
        return Err(KernelError::Shape {
            op: "pack_panel",
            what: "x",
            expected: cols.saturating_mul(format.panel_rows()),
            actual: x.len(),
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
        Format::Q8 | Format::Q4 => {
            clear_panel(format, out);
            let round = if format == Format::Q8 {
                round_q8
            } else {
                round_q4
            };
            for (lane, row) in x.chunks_exact(cols).enumerate() {
                for (b, x) in row.chunks(BLOCK).enumerate() {
                    let (scale, codes) = round(x);
                    put(format, out, b, lane, scale, &codes);
                }
            }
        }
    }
    Ok(())
}

/// Writes one row of a quantized panel from scales `[blocks]` and codes `[blocks · 32]` that are given, as another file format
/// has them; the other rows stay. Start from a panel of zeros ([`clear_panel`]).
///
/// # Errors
/// [`KernelError::Shape`] if a length disagrees or there is no such row; [`KernelError::Value`] for a code outside the format:
/// -8..=7 for [`Format::Q4`]; a float format has no codes.
pub fn pack_codes(
    format: Format,
    cols: usize,
    lane: usize,
    scales: &[f16],
    codes: &[i8],
    panel: &mut [u8],
) -> Result<()> {
    const OP: &str = "pack_codes";
    check_panel(OP, format, cols, panel.len())?;
    let shape = |what, expected, actual| {
        if expected == actual {
            Ok(())
        } else {
            Err(KernelError::Shape {
                op: OP,
                what,
                expected,
                actual,
            })
        }
    };
    shape("scales", cols.div_ceil(BLOCK), scales.len())?;
    shape("codes", scales.len() * BLOCK, codes.len())?;
    if lane >= format.panel_rows() {
        return Err(KernelError::Limit {
            op: OP,
            what: "lane",
            limit: format.panel_rows() - 1,
            actual: lane,
        });
    }
    let fits = |code: &i8| match format {
        Format::Q8 => true,
        Format::Q4 => (-8..=7).contains(code),
        Format::F32 | Format::F16 => false,
    };
    if let Some(index) = codes.iter().position(|code| !fits(code)) {
        return Err(KernelError::Value {
            index,
            value: f32::from(codes[index]),
            format: format.name(),
        });
    }
    for (b, (scale, codes)) in scales.iter().zip(codes.as_chunks().0).enumerate() {
        put(format, panel, b, lane, *scale, codes);
    }
    Ok(())
}

/// Makes every row of a quantized panel zero: scales of zero and the codes that stand for it.
pub fn clear_panel(format: Format, panel: &mut [u8]) {
    let zero = match format {
        Format::Q8 => 0x80,
        Format::Q4 => 0x88,
        Format::F32 | Format::F16 => return panel.fill(0),
    };
    for block in panel.chunks_exact_mut(format.panel_bytes(BLOCK)) {
        let (scales, codes) = block.split_at_mut(SCALE_BYTES);
        scales.fill(0);
        codes.fill(zero);
    }
}

fn check_panel(op: &'static str, format: Format, cols: usize, actual: usize) -> Result<()> {
    let expected = format.panel_bytes(cols);
    if actual == expected {
        return Ok(());
    }
    Err(KernelError::Shape {
        op,
        what: "panel",
        expected,
        actual,
    })
}

/// Writes block `b` of row `lane`.
fn put(format: Format, panel: &mut [u8], b: usize, lane: usize, scale: f16, codes: &[i8; BLOCK]) {
    let bytes = format.panel_bytes(BLOCK);
    let (scales, out) = panel[b * bytes..(b + 1) * bytes].split_at_mut(SCALE_BYTES);
    scales[2 * lane..2 * lane + 2].copy_from_slice(&scale.to_le_bytes());
    for (column, code) in codes.iter().enumerate() {
        if format == Format::Q8 {
            out[q8_at(lane, column)] = (*code as u8) ^ 0x80;
        } else {
            let (at, shift) = q4_at(lane, column);
            out[at] = (out[at] & !(15 << shift)) | (((code + 8) as u8) << shift);
        }
    }
}

/// Where the code of a column stands among those of its block.
#[inline(always)]
fn q8_at(lane: usize, column: usize) -> usize {
    4 * PANEL * (column / 4) + 4 * lane + column % 4
}

/// As [`q8_at`], and by how many bits the code is shifted.
#[inline(always)]
fn q4_at(lane: usize, column: usize) -> (usize, u32) {
    let at = 4 * PANEL * (column / 8) + 4 * lane + column % 4;
    (at, if column % 8 < 4 { 0 } else { 4 })
}

/// Scale and codes of block `b` of row `lane` of a quantized panel.
pub(crate) fn block_of(format: Format, panel: &[u8], b: usize, lane: usize) -> (f16, [i8; BLOCK]) {
    let bytes = format.panel_bytes(BLOCK);
    let (scales, from) = panel[b * bytes..(b + 1) * bytes].split_at(SCALE_BYTES);
    let scale = f16::from_le_bytes([scales[2 * lane], scales[2 * lane + 1]]);
    let codes = std::array::from_fn(|column| {
        if format == Format::Q8 {
            (from[q8_at(lane, column)] ^ 0x80) as i8
        } else {
            let (at, shift) = q4_at(lane, column);
            (from[at] >> shift & 15) as i8 - 8
        }
    });
    (scale, codes)
}

fn round_q8(x: &[f32]) -> (f16, [i8; BLOCK]) {
    let max = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = f16::from_f32(max / 127.0);
    let inverse = invert(scale);
    let mut codes = [0; BLOCK];
    for (code, v) in codes.iter_mut().zip(x) {
        *code = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
    (scale, codes)
}

/// Shares of the plain scale that [`round_q4`] tries. A scale under the plain one cuts the extreme value off and resolves the others
/// better; one above it lets the far side reach further than 7.
const Q4_TRIALS: [f32; 9] = [1.0, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15, -1.0];

fn round_q4(x: &[f32]) -> (f16, [i8; BLOCK]) {
    let extreme = x
        .iter()
        .fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let mut best = (f32::INFINITY, f16::ZERO, [0; BLOCK]);
    for share in Q4_TRIALS {
        let scale = f16::from_f32((extreme * share / -8.0).clamp(-65504.0, 65504.0));
        let inverse = invert(scale);
        let (mut codes, mut error) = ([0; BLOCK], 0.0f32);
        for (code, v) in codes.iter_mut().zip(x) {
            let rounded = (v * inverse).round_ties_even().clamp(-8.0, 7.0);
            *code = rounded as i8;
            let off = v - scale.to_f32() * rounded;
            error += off * off;
        }
        if error < best.0 {
            best = (error, scale, codes);
        }
        if extreme == 0.0 {
            break;
        }
    }
    (best.1, best.2)
}

/// `1 / scale`, or 0 for a block of values so small that their scale rounded to zero.
fn invert(scale: f16) -> f32 {
    if scale.to_f32() == 0.0 {
        0.0
    } else {
        1.0 / scale.to_f32()
    }
}

/// Writes row `lane` of a panel of `cols` columns as f32.
///
/// # Errors
/// [`KernelError::Shape`] if `panel` is not `format.panel_bytes(cols)` or `out` not `cols` long; [`KernelError::Limit`] if there is
/// no such row.
pub fn unpack_row(
    format: Format,
    cols: usize,
    panel: &[u8],
    lane: usize,
    out: &mut [f32],
) -> Result<()> {
    const OP: &str = "unpack_row";
    check_panel(OP, format, cols, panel.len())?;
    if out.len() != cols {
        return Err(KernelError::Shape {
            op: OP,
            what: "out",
            expected: cols,
            actual: out.len(),
        });
    }
    if lane >= format.panel_rows() {
        return Err(KernelError::Limit {
            op: OP,
            what: "lane",
            limit: format.panel_rows() - 1,
            actual: lane,
        });
    }
    match format {
        Format::F32 => {
            for (o, b) in out.iter_mut().zip(panel.as_chunks().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Format::F16 => {
            for (o, b) in out.iter_mut().zip(panel.as_chunks().0) {
                *o = f16::from_le_bytes(*b).to_f32();
            }
        }
        Format::Q8 | Format::Q4 => {
            for (b, o) in out.chunks_mut(BLOCK).enumerate() {
                let (scale, codes) = block_of(format, panel, b, lane);
                for (o, code) in o.iter_mut().zip(codes) {
                    *o = scale.to_f32() * f32::from(code);
                }
            }
        }
    }
    Ok(())
}

/// The first scale of a quantized matrix that is NaN or infinite, as `(panel, block, lane)`.
pub fn first_bad_scale(
    format: Format,
    cols: usize,
    panels: &[u8],
) -> Option<(usize, usize, usize)> {
    if !format.is_quantized() {
        return None;
    }
    let per_panel = cols.div_ceil(BLOCK).max(1);
    panels
        .chunks_exact(format.panel_bytes(BLOCK))
        .enumerate()
        .find_map(|(index, block)| {
            let scales = block[..SCALE_BYTES].as_chunks::<2>().0;
            let lane = scales
                .iter()
                .position(|scale| !f16::from_le_bytes(*scale).is_finite())?;
            Some((index / per_panel, index % per_panel, lane))
        })
}

#[cfg(test)]
mod tests;
