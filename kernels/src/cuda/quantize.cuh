// Rounding of activations to int8 blocks, and the norm that comes before it. The rules are those of the crate's `quant`.
#pragma once
#include "device.cuh"

// 127 times the smallest normal f32: a block with nothing larger is all zeros.
constexpr float MIN_MAGNITUDE = 127.0f * 1.17549435e-38f;

// Rounds the 32 values of a warp, one per lane, to the block at `codes` and `scale`. Gives the very bits of the CPU.
__device__ __forceinline__ void quantize_warp(float x, int8_t* codes, Scale* scale) {
  const float max = warp_max(fabsf(x));
  const bool bad = __ballot_sync(ALL_LANES, !is_finite(x)) != 0;
  const bool zero = bad || max < MIN_MAGNITUDE;
  const int32_t code = zero ? 0 : int32_t(rintf(x * (127.0f / max)));
  const int32_t sum = warp_sum(code);
  codes[lane()] = int8_t(code);
  if (lane() == 0) {
    // What is not finite must show in the result.
    scale->scale = bad ? __uint_as_float(0x7fffffffu) : zero ? 0.0f : max / 127.0f;
    scale->sum = sum;
  }
}

// 1 / √(mean(x²) + eps) of a row, in every thread of the block.
__device__ __forceinline__ float norm_factor(const float* x, uint32_t cols, float eps) {
  float squares = 0.0f;
  for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) squares += x[c] * x[c];
  return 1.0f / sqrtf(block_sum(squares) / float(cols) + eps);
}

// Rounds x · factor · weight, or x where `weight` is null; each warp takes some blocks. The caller waits before others read.
__device__ __forceinline__ void quantize_row(const float* x, const float* weight, float factor, uint32_t cols, int8_t* codes,
                                             Scale* scales) {
  for (uint32_t b = warp(); b < ceil_div(cols, BLOCK_COLS); b += warps()) {
    const uint32_t c = b * BLOCK_COLS + lane();
    float v = c < cols ? x[c] : 0.0f;
    if (weight && c < cols) v = v * factor * weight[c];
    quantize_warp(v, codes + b * BLOCK_COLS, scales + b);
  }
}

// bias + weight · x / √(mean(x²) + eps): how sure a gate is that no further layer is needed, in every thread of the block. All blocks of a
// launch get the same bits, so each can decide for itself.
__device__ __forceinline__ float gate_value(const float* x, const float* weight, float bias, float eps, uint32_t cols) {
  const float factor = norm_factor(x, cols, eps);
  float dot = 0.0f;
  for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) dot += x[c] * factor * weight[c];
  return block_sum(dot) + bias;
}

__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

// The tanh form of GELU, as x · σ(2√(2/π)(x + 0.044715 x³)).
__device__ __forceinline__ float gelu(float x) { return x / (1.0f + __expf(-1.595769f * (x + 0.044715f * x * x * x))); }

// (x − mean(x)) / √(variance(x) + ε) · weight + bias of one row, by a block.
__device__ __forceinline__ void layer_norm_row(const float* x, const float* weight, const float* bias, uint32_t cols, float* out) {
  float sum = 0.0f;
  for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) sum += x[c];
  const float mean = block_sum(sum) / float(cols);
  float squares = 0.0f;
  for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) squares += (x[c] - mean) * (x[c] - mean);
  const float inverse = 1.0f / sqrtf(block_sum(squares) / float(cols) + 1e-5f);
  for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) out[c] = (x[c] - mean) * inverse * weight[c] + bias[c];
}
