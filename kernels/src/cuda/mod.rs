//! CUDA kernels: what they are called with, and where their source is.
//!
//! The kernels stand in the `.cu` and `.cuh` files beside this one; the comments there say how each works. They read quantized weights
//! in the layout of [`Format`](crate::Format) as a bundle holds it, so nothing is repacked, and on a device that shares the memory of the
//! CPU the mapped file itself serves. Quantized data must begin at a multiple of 16 bytes, which a bundle's tensors do.
//!
//! ```text
//! skim_gemv…       products with one token                    skim_gemm, skim_gemm_mma   with many: dot-product units, tensor cores
//! skim_rms_norm, skim_quantize, skim_silu_mul, skim_gelu      activations to int8 blocks, fused with what comes before
//! skim_rope_append, skim_attention_…, skim_attention_merge    one layer's attention over blocks of positions
//! skim_embed, skim_argmax, skim_top_k…, skim_gate             the ends of a step
//! skim_decode_…    a chain of steps, latent or with tokens, through all layers, in one launch
//! ```
//!
//! [`Launch`] is a kernel with its grid and arguments, [`Device`] runs it. The tests run launches on an emulator of a GPU (`tests/gpu`) and compare with the
//! scalar specification. What only ran there has not run on a device.

mod abi;
mod device;
mod launch;

pub use abi::{
    AttentionShape, DecodeBuffers, DecodeModel, KvBlock, KvLayer, KvSlot, LatentMap, LayerWeights,
    Matrix, Product, Products, Ptr,
};
pub use device::{Buffer, Device, DeviceError, compile, source};
pub use launch::*;

/// Rows of a tile of [`skim_gemm`] and [`skim_gemm_mma`]: the first size of their grids is the rows over this, rounded up.
pub const TILE_ROWS: usize = 64;

/// Tokens of a tile of [`skim_gemm`]: the second size of its grid is the tokens over this, rounded up.
pub const GEMM_TOKENS: usize = 32;

/// As [`GEMM_TOKENS`], of [`skim_gemm_mma`].
pub const MMA_TOKENS: usize = 64;

/// Logits that one block of [`skim_top_k_pieces`] looks through.
pub const TOP_K_PIECE: usize = 2048;

/// Query heads of one key and value head that attention serves at a time.
pub const ATTENTION_HEADS: usize = 8;

/// As [`ATTENTION_HEADS`], of the kernels whose names end in `_few`.
pub const ATTENTION_FEW_HEADS: usize = 4;

/// Dynamic shared memory of an attention kernel, in bytes, for `heads` query heads at a time: their queries and sums, and for each of up
/// to eight warps the weights of 32 positions and what they are relative to.
pub const fn attention_shared_bytes(heads: usize) -> usize {
    4 * heads * (2 * crate::MAX_HEAD_DIM + 8 * (32 + 2))
}

/// Dynamic shared memory of the persistent kernel, in bytes, whose widest product has `cols` columns other than that of `down_proj`.
pub const fn decode_shared_bytes(cols: usize) -> usize {
    let blocks = cols.div_ceil(crate::BLOCK);
    let (row, attention) = (
        blocks * (crate::BLOCK + 8),
        attention_shared_bytes(ATTENTION_HEADS),
    );
    if row > attention { row } else { attention }
}
