//! What attention reads: blocks of keys and values, each entry with its absolute position and a visibility bit.

use half::f16;

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
}

impl KvFormat {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// The name used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::F16 => 2,
        }
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
        if slot >= stride {
            return Err(KernelError::Limit {
                op: OP,
                what: "slot",
                limit: stride.saturating_sub(1),
                actual: slot,
            });
        }
        let expected = k.len().saturating_mul(stride).saturating_mul(self.bytes());
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
        }
        Ok(())
    }
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

/// The keys and values of up to [`MAX_KV_BLOCK`] positions in one layer, in the format of their [`KvSource`].
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
