// Rotary embedding of one head by one warp, and the entry that its key and value leave in the cache.
#pragma once
#include "quantize.cuh"

// Pairs that one lane rotates: half of the widest head over a warp.
constexpr uint32_t MAX_PAIRS = 4;

// `KvFormat` of the crate.
enum : uint32_t { KV_F32 = 0, KV_F16 = 1, KV_Q8 = 2 };

// Where the entry of one position goes.
struct KvSlot {
  uint8_t* k;
  uint8_t* v;
  uint32_t slot;
  uint32_t stride;
};

struct AttentionShape {
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t kv_format;
  float scale;
  // Of the norms of queries and keys.
  float eps;
};

__device__ __forceinline__ uint32_t head_bytes(const AttentionShape& shape, uint32_t stride) {
  const uint32_t bytes = shape.kv_format == KV_F32 ? 4 * shape.head_dim : shape.kv_format == KV_F16 ? 2 * shape.head_dim : shape.head_dim + 4;
  return stride * bytes;
}

// The pairs (x[i], x[i + D/2]) of one head after its norm, if it has one, and its rotation. `angles` are cosines and sines, [D/2].
__device__ __forceinline__ void rotate_head(const float* x, const float* norm, float eps, const float2* angles, uint32_t dim,
                                            float first[MAX_PAIRS], float second[MAX_PAIRS]) {
  const uint32_t half = dim / 2;
  float squares = 0.0f;
#pragma unroll
  for (uint32_t p = 0; p < MAX_PAIRS; p++) {
    const uint32_t i = p * LANES + lane();
    first[p] = i < half ? x[i] : 0.0f;
    second[p] = i < half ? x[i + half] : 0.0f;
    squares += first[p] * first[p] + second[p] * second[p];
  }
  const float factor = norm ? 1.0f / sqrtf(warp_sum(squares) / float(dim) + eps) : 1.0f;
#pragma unroll
  for (uint32_t p = 0; p < MAX_PAIRS; p++) {
    const uint32_t i = p * LANES + lane();
    if (i >= half) continue;
    float a = first[p], b = second[p];
    if (norm) {
      a = a * factor * norm[i];
      b = b * factor * norm[i + half];
    }
    const float2 angle = angles[i];
    first[p] = a * angle.x - b * angle.y;
    second[p] = b * angle.x + a * angle.y;
  }
}

// Cut to what f16 holds; NaN passes through.
__device__ __forceinline__ uint16_t clamped_half(float x) { return float_to_half(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x); }

// Writes one half of an entry: value `d` is in `first[p]` or `second[p]` of the lanes and goes to `start + d · step`.
__device__ __forceinline__ void write_head(const AttentionShape& shape, uint8_t* head, uint32_t slot, uint32_t stride, uint32_t start,
                                           uint32_t step, const float first[MAX_PAIRS], const float second[MAX_PAIRS]) {
  const uint32_t dim = shape.head_dim, half = dim / 2;
  float max = 0.0f, inverse = 0.0f;
  if (shape.kv_format == KV_Q8) {
    bool bad = false;
#pragma unroll
    for (uint32_t p = 0; p < MAX_PAIRS; p++) {
      max = fmaxf(max, fmaxf(fabsf(first[p]), fabsf(second[p])));
      bad |= !is_finite(first[p]) || !is_finite(second[p]);
    }
    max = warp_max(max);
    bad = __ballot_sync(ALL_LANES, bad) != 0;
    const float scale = bad ? __uint_as_float(0x7fffffffu) : max < MIN_MAGNITUDE ? 0.0f : max / 127.0f;
    inverse = scale > 0.0f ? 127.0f / max : 0.0f;
    if (lane() == 0) reinterpret_cast<float*>(head + stride * dim)[slot] = scale;
  }
#pragma unroll
  for (uint32_t p = 0; p < MAX_PAIRS; p++) {
    const uint32_t i = p * LANES + lane();
    if (i >= half) continue;
    const uint32_t to_first = start + i * step, to_second = start + (i + half) * step;
    if (shape.kv_format == KV_F32) {
      reinterpret_cast<float*>(head)[to_first] = first[p];
      reinterpret_cast<float*>(head)[to_second] = second[p];
    } else if (shape.kv_format == KV_F16) {
      reinterpret_cast<uint16_t*>(head)[to_first] = clamped_half(first[p]);
      reinterpret_cast<uint16_t*>(head)[to_second] = clamped_half(second[p]);
    } else {
      head[to_first] = uint8_t(int32_t(rintf(first[p] * inverse)));
      head[to_second] = uint8_t(int32_t(rintf(second[p] * inverse)));
    }
  }
}

// The key and the value of one head, `k` and `v` [D] as they come from their products, into the cache.
__device__ __forceinline__ void append_head(const AttentionShape& shape, const float* k, const float* v, const float* k_norm,
                                            const float2* angles, uint32_t g, const KvSlot& to) {
  const uint32_t dim = shape.head_dim, bytes = head_bytes(shape, to.stride);
  float first[MAX_PAIRS], second[MAX_PAIRS];
  rotate_head(k, k_norm, shape.eps, angles, dim, first, second);
  write_head(shape, to.k + g * bytes, to.slot, to.stride, to.slot, to.stride, first, second);
#pragma unroll
  for (uint32_t p = 0; p < MAX_PAIRS; p++) {
    const uint32_t i = p * LANES + lane();
    first[p] = i < dim / 2 ? v[i] : 0.0f;
    second[p] = i < dim / 2 ? v[i + dim / 2] : 0.0f;
  }
  write_head(shape, to.v + g * bytes, to.slot, to.stride, to.slot * dim, 1, first, second);
}
