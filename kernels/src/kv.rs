//! What attention reads: blocks of keys and values, each entry with its absolute position and a visibility bit.

use std::ops::Range;

use half::f16;

use crate::quant::MIN_MAGNITUDE;
use crate::{KernelError, Result};

/// The most positions one block may hold: the visibility of its entries is one `u64`.
pub const MAX_KV_BLOCK: usize = 64;

/// The widest head that attention serves.
pub const MAX_HEAD_DIM: usize = 256;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvFormat {
    /// 32-bit floats, little endian.
    F32,
    /// 16-bit floats, little endian; what is too large for them is cut to the largest.
    F16,
    /// 8-bit integers with an f32 scale per head and position: value = scale · code, codes within ±127.
    Q8,
}

impl KvFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8];

    /// The name used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Bytes of the keys, or of the values, of one head in a block of `stride` positions.
    ///
    /// Saturates instead of overflowing, so that an absurd size fails the length check that follows.
    pub const fn head_bytes(self, stride: usize, head_dim: usize) -> usize {
        let (value, scale) = match self {
            Self::F32 => (4, 0),
            Self::F16 => (2, 0),
            Self::Q8 => (1, 4),
        };
        stride.saturating_mul(head_dim.saturating_mul(value).saturating_add(scale))
    }

    /// Writes the keys and values of one position, both `[G, D]`, into slot `slot` of a block of `stride` positions.
    ///
    /// # Errors
    /// [`KernelError::Shape`] or [`KernelError::Limit`] if a length or the slot disagrees.
    pub fn write_entry(
        self,
        slot: usize,
        stride: usize,
        head_dim: usize,
        [k, v]: [&[f32]; 2],
        [keys, values]: [&mut [u8]; 2],
    ) -> Result<()> {
        const OP: &str = "write_entry";
        check_slot(OP, slot, stride)?;
        let heads = k.len().checked_div(head_dim).unwrap_or(0);
        let expected = heads.saturating_mul(self.head_bytes(stride, head_dim));
        for (what, expected, actual) in [
            ("v", k.len(), v.len()),
            ("keys", expected, keys.len()),
            ("values", expected, values.len()),
        ] {
            if expected != actual {
                return Err(KernelError::Shape {
                    op: OP,
                    what,
                    expected,
                    actual,
                });
            }
        }
        match self {
            KvFormat::F32 => scatter(
                slot,
                stride,
                head_dim,
                [k, v],
                [keys, values],
                f32::to_le_bytes,
            ),
            KvFormat::F16 => scatter(slot, stride, head_dim, [k, v], [keys, values], |x| {
                // NaN passes through.
                f16::from_f32(x.clamp(-65504.0, 65504.0)).to_le_bytes()
            }),
            KvFormat::Q8 => {
                let bytes = self.head_bytes(stride, head_dim);
                let heads = keys
                    .chunks_exact_mut(bytes)
                    .zip(values.chunks_exact_mut(bytes));
                let entries = k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim));
                for ((keys, values), (k, v)) in heads.zip(entries) {
                    write_rounded(keys, slot, stride, k, |d| d * stride + slot);
                    write_rounded(values, slot, stride, v, |d| slot * head_dim + d);
                }
            }
        }
        Ok(())
    }

    /// Copies what [`write_entry`](Self::write_entry) stored in slot `slot` to `entry`, as it is stored: nothing is rounded again.
    ///
    /// # Errors
    /// [`KernelError::Limit`] if the slot disagrees.
    pub fn take_entry(
        self,
        slot: usize,
        stride: usize,
        head_dim: usize,
        [keys, values]: [&[u8]; 2],
        entry: &mut Vec<u8>,
    ) -> Result<()> {
        check_slot("take_entry", slot, stride)?;
        entry.clear();
        self.each_part(
            slot,
            stride,
            head_dim,
            keys.len(),
            |keys_part, values_part| {
                entry.extend_from_slice(&keys[keys_part]);
                entry.extend_from_slice(&values[values_part]);
            },
        );
        Ok(())
    }

    /// Puts what [`take_entry`](Self::take_entry) copied into slot `slot` of a block of the same shape.
    ///
    /// # Errors
    /// [`KernelError::Limit`] if the slot disagrees, [`KernelError::Shape`] if the entry is of another shape.
    pub fn put_entry(
        self,
        slot: usize,
        stride: usize,
        head_dim: usize,
        entry: &[u8],
        [keys, values]: [&mut [u8]; 2],
    ) -> Result<()> {
        const OP: &str = "put_entry";
        check_slot(OP, slot, stride)?;
        let expected = (keys.len() + values.len()) / stride;
        if entry.len() != expected {
            return Err(KernelError::Shape {
                op: OP,
                what: "entry",
                expected,
                actual: entry.len(),
            });
        }
        let mut rest = entry;
        self.each_part(
            slot,
            stride,
            head_dim,
            keys.len(),
            |keys_part, values_part| {
                let (k, after) = rest.split_at(keys_part.len());
                let (v, after) = after.split_at(values_part.len());
                keys[keys_part].copy_from_slice(k);
                values[values_part].copy_from_slice(v);
                rest = after;
            },
        );
        Ok(())
    }

    /// Calls `part` with pairs of byte ranges, in keys and in values, that together are the entry in slot `slot`; `bytes` is the
    /// length of the keys.
    fn each_part(
        self,
        slot: usize,
        stride: usize,
        head_dim: usize,
        bytes: usize,
        mut part: impl FnMut(Range<usize>, Range<usize>),
    ) {
        let head_bytes = self.head_bytes(stride, head_dim);
        // Bytes of one value; a scale has four, behind the codes.
        let width = match self {
            KvFormat::F32 => 4,
            KvFormat::F16 => 2,
            KvFormat::Q8 => 1,
        };
        for head in (0..bytes.checked_div(head_bytes).unwrap_or(0)).map(|head| head * head_bytes) {
            for d in 0..head_dim {
                let k = head + (d * stride + slot) * width;
                let v = head + (slot * head_dim + d) * width;
                part(k..k + width, v..v + width);
            }
            if self == KvFormat::Q8 {
                let scale = head + stride * head_dim + 4 * slot;
                part(scale..scale + 4, scale..scale + 4);
            }
        }
    }
}

fn check_slot(op: &'static str, slot: usize, stride: usize) -> Result<()> {
    if slot >= stride {
        return Err(KernelError::Limit {
            op,
            what: "slot",
            limit: stride.saturating_sub(1),
            actual: slot,
        });
    }
    Ok(())
}

fn scatter<const N: usize>(
    slot: usize,
    stride: usize,
    head_dim: usize,
    [k, v]: [&[f32]; 2],
    [keys, values]: [&mut [u8]; 2],
    encode: impl Fn(f32) -> [u8; N],
) {
    // Keys `[G·D, stride]`: one position is a column.
    for (row, k) in keys.as_chunks_mut::<N>().0.chunks_exact_mut(stride).zip(k) {
        row[slot] = encode(*k);
    }
    // Values `[G, stride, D]`: one position is a row of each head.
    let heads = values.as_chunks_mut::<N>().0;
    for (head, v) in heads
        .chunks_exact_mut(stride * head_dim)
        .zip(v.chunks_exact(head_dim))
    {
        for (out, v) in head[slot * head_dim..].iter_mut().zip(v) {
            *out = encode(*v);
        }
    }
}

/// Rounds the entry of one head to 8 bits: its code `d` goes to `place(d)`, its scale behind all codes.
fn write_rounded(
    head: &mut [u8],
    slot: usize,
    stride: usize,
    x: &[f32],
    place: impl Fn(usize) -> usize,
) {
    let max = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let is_finite = x.iter().all(|x| x.is_finite());
    let scale = match max {
        _ if !is_finite => f32::NAN,
        max if max < MIN_MAGNITUDE => 0.0,
        max => max / 127.0,
    };
    let inverse = if scale > 0.0 { 127.0 / max } else { 0.0 };
    for (d, x) in x.iter().enumerate() {
        // A code of what is not finite is any number; its scale is not one.
        head[place(d)] = (x * inverse).round_ties_even() as i8 as u8;
    }
    let scales = &mut head[stride * x.len()..];
    scales.as_chunks_mut::<4>().0[slot] = scale.to_le_bytes();
}

/// The sizes of one attention call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads `H`.
    pub heads: usize,
    /// Key and value heads `G`; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head `D`.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / √D`.
    pub scale: f32,
}

/// Blocks of a span. Fixed, so that the order of the sums does not depend on how many threads share them.
const SPAN: usize = 16;

/// Floats of a span beside the sums of its values: the largest score and the sum of the weights.
pub(crate) const STATE: usize = 2;

impl AttentionShape {
    /// Floats in which threads can share the positions of `blocks` blocks: what [`Cpu::attention`](crate::Cpu::attention) calls `room`.
    /// 0 where they are too few to share. Saturates instead of overflowing.
    pub const fn room(&self, blocks: usize) -> usize {
        match self.spans(blocks) {
            1 => 0,
            spans => spans
                .saturating_mul(self.heads)
                .saturating_mul(self.head_dim.saturating_add(STATE)),
        }
    }

    /// Spans of `blocks` blocks, an empty one if there are none.
    pub(crate) const fn spans(&self, blocks: usize) -> usize {
        match blocks {
            0 => 1,
            blocks => blocks.div_ceil(SPAN),
        }
    }

    /// The blocks of span `i`.
    pub(crate) fn span(&self, i: usize, blocks: usize) -> Range<usize> {
        i * SPAN..blocks.min((i + 1) * SPAN)
    }
}

/// The keys and values of up to [`MAX_KV_BLOCK`] positions in one layer, in the format of their [`KvSource`].
///
/// `G` heads lie one after the other, [`KvFormat::head_bytes`] each; with [`KvFormat::Q8`] the scales `[stride]` of a head follow its
/// codes.
#[derive(Clone, Copy, Debug)]
pub struct KvBlock<'a> {
    /// Keys `[G, D, stride]`: the scores of neighbouring positions are neighbouring lanes.
    pub k: &'a [u8],
    /// Values `[G, stride, D]`.
    pub v: &'a [u8],
    /// Positions of capacity, at most [`MAX_KV_BLOCK`].
    pub stride: usize,
    /// Positions in use, at most `stride`.
    pub len: usize,
    /// Absolute position of each entry `[len]`; need not be sorted.
    pub positions: &'a [u32],
    /// Bit `i` tells whether entry `i` may be seen at all.
    pub visible: u64,
}

/// A list of blocks. Any number of threads reads it during one call, so it must not change meanwhile.
pub trait KvSource: Sync {
    /// How all blocks are stored.
    fn format(&self) -> KvFormat;
    /// Number of blocks.
    fn blocks(&self) -> usize;
    /// Block `i`, for `i < blocks()`.
    fn block(&self, i: usize) -> KvBlock<'_>;
}
