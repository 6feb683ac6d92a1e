// The ops between the products, one launch each.
#include "attention.cuh"
#include "product.cuh"

// Rounds x [T, cols] to int8 blocks: a warp per block. Grid: enough warps for all blocks.
extern "C" __global__ void __launch_bounds__(256)
skim_quantize(const float* x, int8_t* codes, Scale* scales, uint32_t cols, uint32_t tokens) {
  const uint32_t blocks = ceil_div(cols, BLOCK_COLS), all = blocks * tokens;
  const uint32_t i = blockIdx.x * warps() + warp();
  if (i >= all) return;
  const uint32_t t = i / blocks, c = i % blocks * BLOCK_COLS + lane();
  quantize_warp(c < cols ? x[uint64_t(t) * cols + c] : 0.0f, codes + uint64_t(i) * BLOCK_COLS, scales + i);
}

// RMS norm of x [T, cols], rounded to int8 blocks and, where `out` is not null, as floats. Grid: a block per token.
extern "C" __global__ void __launch_bounds__(512)
skim_rms_norm(const float* x, const float* weight, float eps, uint32_t cols, float* out, int8_t* codes, Scale* scales) {
  const uint32_t blocks = ceil_div(cols, BLOCK_COLS);
  x += uint64_t(blockIdx.x) * cols;
  const float factor = norm_factor(x, cols, eps);
  if (codes)
    quantize_row(x, weight, factor, cols, codes + uint64_t(blockIdx.x) * blocks * BLOCK_COLS, scales + uint64_t(blockIdx.x) * blocks);
  if (out)
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) out[uint64_t(blockIdx.x) * cols + c] = x[c] * factor * weight[c];
}

// silu(gate) · up of [T, cols], rounded to int8 blocks. Grid: enough warps for all blocks.
extern "C" __global__ void __launch_bounds__(256)
skim_silu_mul(const float* gate, const float* up, int8_t* codes, Scale* scales, uint32_t cols, uint32_t tokens) {
  const uint32_t blocks = ceil_div(cols, BLOCK_COLS), all = blocks * tokens;
  const uint32_t i = blockIdx.x * warps() + warp();
  if (i >= all) return;
  const uint32_t c = i % blocks * BLOCK_COLS + lane();
  const uint64_t at = uint64_t(i / blocks) * cols + c;
  quantize_warp(c < cols ? silu(gate[at]) * up[at] : 0.0f, codes + uint64_t(i) * BLOCK_COLS, scales + i);
}

// Norms and rotates the queries [T, H, D] in place and appends keys and values [T, G, D] to the cache. Row `positions[t]` of `angles`
// [positions, D/2] are cosine and sine. Grid: (enough warps for H + G heads, T).
extern "C" __global__ void __launch_bounds__(128)
skim_rope_append(float* q, const float* k, const float* v, const float* q_norm, const float* k_norm, const float2* angles,
                 const uint32_t* positions, const KvSlot* slots, AttentionShape shape) {
  const uint32_t h = blockIdx.x * warps() + warp(), t = blockIdx.y, dim = shape.head_dim;
  if (h >= shape.heads + shape.kv_heads) return;
  const float2* angle = angles + uint64_t(positions[t]) * (dim / 2);
  if (h >= shape.heads) {
    const uint32_t g = h - shape.heads;
    const uint64_t at = (uint64_t(t) * shape.kv_heads + g) * dim;
    append_head(shape, k + at, v + at, k_norm, angle, g, slots[t]);
    return;
  }
  float* x = q + (uint64_t(t) * shape.heads + h) * dim;
  float first[MAX_PAIRS], second[MAX_PAIRS];
  rotate_head(x, q_norm, shape.eps, angle, dim, first, second);
#pragma unroll
  for (uint32_t p = 0; p < MAX_PAIRS; p++) {
    const uint32_t i = p * LANES + lane();
    if (i >= dim / 2) continue;
    x[i] = first[p];
    x[i + dim / 2] = second[p];
  }
}

// Attention of q [T, H, D] over the cache: parts [T, splits, H, D + 2]. Grid: (G, splits, T), at most eight warps.
template <uint32_t DIMS, uint32_t HEADS>
__device__ __forceinline__ void attention(const float* q, const uint32_t* positions, const KvLayer* kv, float* parts,
                                          const AttentionShape& shape) {
  const uint64_t t = blockIdx.z;
  const KvLayer layer = *kv;
  const OwnEntry none = {NOWHERE, 0};
  attend_group<DIMS, HEADS>(shape, layer, layer.count, q + t * shape.heads * shape.head_dim, nullptr, nullptr, blockIdx.x, positions[t], none,
                            blockIdx.y, gridDim.y, parts + t * gridDim.y * shape.heads * split_width(shape));
}

#define ATTENTION_KERNEL(name, DIMS, HEADS)                                                                       \
  extern "C" __global__ void __launch_bounds__(256)                                                               \
  name(const float* q, const uint32_t* positions, const KvLayer* kv, float* parts, AttentionShape shape) {         \
    attention<DIMS, HEADS>(q, positions, kv, parts, shape);                                                       \
  }
ATTENTION_KERNEL(skim_attention_64, 2, 8)
ATTENTION_KERNEL(skim_attention_128, 4, 8)
ATTENTION_KERNEL(skim_attention_256, 8, 8)
// For models with few query heads per key head.
ATTENTION_KERNEL(skim_attention_64_few, 2, 4)
ATTENTION_KERNEL(skim_attention_128_few, 4, 4)

// Joins the splits: floats [T, H·D] where `out` is not null, int8 blocks where `codes` is not. Grid: (enough warps for all blocks of
// one token, T).
extern "C" __global__ void __launch_bounds__(256)
skim_attention_merge(const float* parts, uint32_t splits, AttentionShape shape, float* out, int8_t* codes, Scale* scales) {
  const uint32_t cols = shape.heads * shape.head_dim, blocks = ceil_div(cols, BLOCK_COLS);
  const uint32_t b = blockIdx.x * warps() + warp(), c = b * BLOCK_COLS + lane();
  const uint64_t t = blockIdx.y;
  if (b >= blocks) return;
  const float* own = parts + t * splits * shape.heads * split_width(shape);
  const float x = c < cols ? merged(shape, own, splits, c / shape.head_dim, c % shape.head_dim) : 0.0f;
  if (out && c < cols) out[t * cols + c] = x;
  if (codes) quantize_warp(x, codes + (t * blocks + b) * BLOCK_COLS, scales + t * blocks + b);
}

// Rows `tokens` [T] of the embedding: out [T, cols]. Grid: (enough threads for a row, T).
extern "C" __global__ void __launch_bounds__(256) skim_embed(Matrix w, const uint32_t* tokens, float* out) {
  const uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= w.cols) return;
  const uint32_t token = tokens[blockIdx.y];
  const uint64_t at = uint64_t(token) * w.cols + c;
  float x = 0.0f;
  if (token < w.rows) {
    if (w.format == FORMAT_F32) x = reinterpret_cast<const float*>(w.data)[at];
    else if (w.format == FORMAT_F16) x = half_to_float(reinterpret_cast<const uint16_t*>(w.data)[at]);
    else x = weight_at(w, token, c);
  }
  out[uint64_t(blockIdx.y) * w.cols + c] = x;
}

// The gate of a router for x [T, cols]: its value to `values` [T], whether it is at least the threshold to `taken` [T]. Grid: a block per token.
extern "C" __global__ void __launch_bounds__(512)
skim_gate(const float* x, const float* weight, float bias, float threshold, float eps, uint32_t cols, float* values, uint32_t* taken) {
  const float value = gate_value(x + uint64_t(blockIdx.x) * cols, weight, bias, eps, cols);
  if (threadIdx.x == 0) {
    values[blockIdx.x] = value;
    taken[blockIdx.x] = value >= threshold;
  }
}

// gelu(x [cols]) rounded to int8 blocks: between the products of a latent map. Grid: enough warps for all blocks.
extern "C" __global__ void __launch_bounds__(256) skim_gelu(const float* x, int8_t* codes, Scale* scales, uint32_t cols) {
  const uint32_t b = blockIdx.x * warps() + warp(), c = b * BLOCK_COLS + lane();
  if (b >= ceil_div(cols, BLOCK_COLS)) return;
  quantize_warp(c < cols ? gelu(x[c]) : 0.0f, codes + b * BLOCK_COLS, scales + b);
}

// Layer norm of x [T, cols]. Grid: a block per token.
extern "C" __global__ void __launch_bounds__(512)
skim_layer_norm(const float* x, const float* weight, const float* bias, uint32_t cols, float* out) {
  layer_norm_row(x + uint64_t(blockIdx.x) * cols, weight, bias, cols, out + uint64_t(blockIdx.x) * cols);
}
