//! What attention reads: blocks of keys and values, each entry with its absolute position and a visibility bit.

/// The most positions one block may hold: the visibility of its entries is one `u64`.
pub const MAX_KV_BLOCK: usize = 64;

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

/// The keys and values of up to [`MAX_KV_BLOCK`] positions in one layer.
#[derive(Clone, Copy, Debug)]
pub struct KvBlock<'a> {
    /// Keys `[G, stride, D]`.
    pub k: &'a [f32],
    /// Values `[G, stride, D]`.
    pub v: &'a [f32],
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
    /// Number of blocks.
    fn blocks(&self) -> usize;
    /// Block `i`, for `i < blocks()`.
    fn block(&self, i: usize) -> KvBlock<'_>;
}
