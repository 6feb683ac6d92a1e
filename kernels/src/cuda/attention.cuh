// Attention of the query heads that share a key and value head, over some blocks of the cache, by one block of threads.
//
// A warp takes every few blocks of the cache. For the scores a lane is a position: keys lie [D, stride], so neighbouring lanes read
// neighbouring positions, and each key is read once for up to HEADS query heads. For the values a lane is a dimension. The softmax goes
// along (Milakov and Gimelshein 2018, arXiv:1805.02867); warps, and then splits of the cache (flash decoding), are joined at the end.
#pragma once
#include "rope.cuh"

constexpr uint32_t MAX_HEAD_DIM = 256;
// The most warps of a block; any number up to that will do.
constexpr uint32_t ATTENTION_WARPS = 8;
constexpr uint32_t NOWHERE = 0xffffffffu;

// `KvBlock` of the crate, on the device.
struct KvBlock {
  uint8_t* k;
  uint8_t* v;
  // [stride], absolute
  uint32_t* positions;
  uint64_t visible;
  uint32_t len;
  uint32_t stride;
};

// The blocks of one layer. The first `count` have entries.
struct KvLayer {
  KvBlock* blocks;
  uint32_t count;
  uint32_t capacity;
};

struct F32 {
  static constexpr bool SCALED = false;
  typedef float Value;
  static __device__ __forceinline__ float value(float x) { return x; }
};
struct F16 {
  static constexpr bool SCALED = false;
  typedef uint16_t Value;
  static __device__ __forceinline__ float value(uint16_t x) { return half_to_float(x); }
};
struct Int8 {
  static constexpr bool SCALED = true;
  typedef int8_t Value;
  static __device__ __forceinline__ float value(int8_t x) { return float(x); }
};

// Working memory of one block of threads, in bytes: queries, weights of each warp, sums of a head group, and what they are relative to.
template <uint32_t HEADS> struct AttentionRoom {
  float query[MAX_HEAD_DIM][HEADS];
  float weights[ATTENTION_WARPS][LANES][HEADS];
  float sums[HEADS][MAX_HEAD_DIM];
  float max[ATTENTION_WARPS][HEADS];
  float total[ATTENTION_WARPS][HEADS];
};

// An entry that this launch appends and that `len`, `positions` and `visible` do not tell of yet.
struct OwnEntry {
  uint32_t block;
  uint32_t slot;
};

// Adds up blocks `from..to` for query heads `first..first + heads`, `heads ≤ HEADS`, in `room.sums`, `room.max[0]` and `room.total[0]`.
// The queries stand in `room.query`. DIMS is the least of 2, 4, 8 with 32 · DIMS ≥ D.
template <class KV, uint32_t DIMS, uint32_t HEADS>
__device__ __noinline__ void attend(const AttentionShape& shape, const KvBlock* blocks, uint32_t from, uint32_t to, uint32_t g,
                                       uint32_t position, OwnEntry own, AttentionRoom<HEADS>& room) {
  const uint32_t dim = shape.head_dim;
  float max[HEADS], total[HEADS], sums[HEADS][DIMS];
#pragma unroll
  for (uint32_t h = 0; h < HEADS; h++) {
    max[h] = NEGATIVE_INFINITY;
    total[h] = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < DIMS; i++) sums[h][i] = 0.0f;
  }
  for (uint32_t b = from + warp(); b < to; b += warps()) {
    const KvBlock& block = blocks[b];
    const uint32_t stride = block.stride, bytes = head_bytes(shape, stride);
    const uint32_t len = b == own.block ? own.slot + 1 : block.len;
    const typename KV::Value* k = reinterpret_cast<const typename KV::Value*>(block.k + g * bytes);
    const typename KV::Value* v = reinterpret_cast<const typename KV::Value*>(block.v + g * bytes);
    const float* k_scales = reinterpret_cast<const float*>(block.k + g * bytes + stride * dim);
    const float* v_scales = reinterpret_cast<const float*>(block.v + g * bytes + stride * dim);
    for (uint32_t base = 0; base < len; base += LANES) {
      const uint32_t j = base + lane();
      const bool is_own = b == own.block && j == own.slot;
      const bool seen = is_own || (j < len && (block.visible >> j & 1) != 0 && block.positions[j] <= position);
      const uint32_t mask = __ballot_sync(ALL_LANES, seen);
      if (mask == 0) continue;
      float score[HEADS];
#pragma unroll
      for (uint32_t h = 0; h < HEADS; h++) score[h] = 0.0f;
      if (seen) {
#pragma unroll 4
        for (uint32_t d = 0; d < dim; d++) {
          const float key = KV::value(k[d * stride + j]);
#pragma unroll
          for (uint32_t h = 0; h < HEADS; h++) score[h] += room.query[d][h] * key;
        }
      }
      const float key_scale = KV::SCALED && seen ? shape.scale * k_scales[j] : shape.scale;
#pragma unroll
      for (uint32_t h = 0; h < HEADS; h++) {
        const float s = score[h] * key_scale, before = max[h];
        max[h] = fmaxf(before, warp_max(seen ? s : NEGATIVE_INFINITY));
        // Nothing before weighs nothing, and what is not a number stays one.
        const float keep = before == NEGATIVE_INFINITY ? 0.0f : __expf(before - max[h]);
        const float weight = seen ? __expf(s - max[h]) : 0.0f;
        total[h] = total[h] * keep + weight;
        room.weights[warp()][lane()][h] = weight;
#pragma unroll
        for (uint32_t i = 0; i < DIMS; i++) sums[h][i] *= keep;
      }
      __syncwarp();
      for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
        const uint32_t entry = uint32_t(__ffs(int(rest))) - 1;
        const float scale = KV::SCALED ? v_scales[base + entry] : 1.0f;
        float value[DIMS];
#pragma unroll
        for (uint32_t i = 0; i < DIMS; i++) {
          const uint32_t d = i * LANES + lane();
          value[i] = d < dim ? KV::value(v[(base + entry) * dim + d]) : 0.0f;
          if (KV::SCALED) value[i] *= scale;
        }
#pragma unroll
        for (uint32_t h = 0; h < HEADS; h++) {
          const float weight = room.weights[warp()][entry][h];
#pragma unroll
          for (uint32_t i = 0; i < DIMS; i++) sums[h][i] += weight * value[i];
        }
      }
      __syncwarp();
    }
  }
  // The warps are joined, relative to the largest score of all.
#pragma unroll
  for (uint32_t h = 0; h < HEADS; h++) {
    total[h] = warp_sum(total[h]);
    if (lane() == 0) {
      room.max[warp()][h] = max[h];
      room.total[warp()][h] = total[h];
    }
  }
  __syncthreads();
  float share[HEADS], all_max[HEADS], all_total[HEADS];
#pragma unroll
  for (uint32_t h = 0; h < HEADS; h++) {
    float largest = NEGATIVE_INFINITY, sum = 0.0f;
    for (uint32_t w = 0; w < warps(); w++) largest = fmaxf(largest, room.max[w][h]);
    for (uint32_t w = 0; w < warps(); w++)
      sum += room.max[w][h] == NEGATIVE_INFINITY ? room.total[w][h] : room.total[w][h] * __expf(room.max[w][h] - largest);
    share[h] = max[h] == NEGATIVE_INFINITY ? 0.0f : __expf(max[h] - largest);
    all_max[h] = largest;
    all_total[h] = sum;
  }
  for (uint32_t w = 0; w < warps(); w++) {
    if (warp() == w) {
#pragma unroll
      for (uint32_t h = 0; h < HEADS; h++)
#pragma unroll
        for (uint32_t i = 0; i < DIMS; i++) {
          const uint32_t d = i * LANES + lane();
          if (d < dim) room.sums[h][d] = (w == 0 ? 0.0f : room.sums[h][d]) + share[h] * sums[h][i];
        }
    }
    __syncthreads();
  }
  // Every thread has read what all warps had: the place is free for the result.
  if (threadIdx.x == 0) {
#pragma unroll
    for (uint32_t h = 0; h < HEADS; h++) {
      room.max[0][h] = all_max[h];
      room.total[0][h] = all_total[h];
    }
  }
  __syncthreads();
}

template <uint32_t DIMS, uint32_t HEADS>
__device__ __forceinline__ void attend_formats(const AttentionShape& shape, const KvBlock* blocks, uint32_t from, uint32_t to, uint32_t g,
                                               uint32_t position, OwnEntry own, AttentionRoom<HEADS>& room) {
  if (shape.kv_format == KV_F32)
    attend<F32, DIMS, HEADS>(shape, blocks, from, to, g, position, own, room);
  else if (shape.kv_format == KV_F16)
    attend<F16, DIMS, HEADS>(shape, blocks, from, to, g, position, own, room);
  else
    attend<Int8, DIMS, HEADS>(shape, blocks, from, to, g, position, own, room);
}

// Floats of one head of one split: the weighted values, the largest score, the sum of the weights.
__device__ __forceinline__ uint32_t split_width(const AttentionShape& shape) { return shape.head_dim + 2; }

// All query heads of key and value head `g` over split `split` of `splits`: to `out` [splits, H, D + 2]. Where `angles` is not null the
// queries are still to be normed and rotated.
template <uint32_t DIMS, uint32_t HEADS>
__device__ __forceinline__ void attend_group(const AttentionShape& shape, const KvLayer& kv, uint32_t count, const float* q,
                                             const float* q_norm, const float2* angles, uint32_t g, uint32_t position, OwnEntry own,
                                             uint32_t split, uint32_t splits, float* out) {
  DYNAMIC_SHARED(shared);
  AttentionRoom<HEADS>& room = *reinterpret_cast<AttentionRoom<HEADS>*>(shared);
  const uint32_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  const uint32_t per_split = ceil_div(count, splits);
  const uint32_t from = split * per_split < count ? split * per_split : count;
  const uint32_t to = from + per_split < count ? from + per_split : count;
  for (uint32_t first = 0; first < group; first += HEADS) {
    const uint32_t heads = group - first < HEADS ? group - first : HEADS;
    for (uint32_t h = warp(); h < HEADS; h += warps()) {
      const float* x = q + (g * group + first + h) * dim;
      if (angles && h < heads) {
        float low[MAX_PAIRS], high[MAX_PAIRS];
        rotate_head(x, q_norm, shape.eps, angles, dim, low, high);
#pragma unroll
        for (uint32_t p = 0; p < MAX_PAIRS; p++) {
          const uint32_t i = p * LANES + lane();
          if (i >= dim / 2) continue;
          room.query[i][h] = low[p];
          room.query[i + dim / 2][h] = high[p];
        }
      } else {
        for (uint32_t d = lane(); d < dim; d += LANES) room.query[d][h] = h < heads ? x[d] : 0.0f;
      }
    }
    __syncthreads();
    attend_formats<DIMS, HEADS>(shape, kv.blocks, from, to, g, position, own, room);
    for (uint32_t i = threadIdx.x; i < heads * split_width(shape); i += blockDim.x) {
      const uint32_t h = i / split_width(shape), d = i % split_width(shape);
      const float value = d < dim ? room.sums[h][d] : d == dim ? room.max[0][h] : room.total[0][h];
      out[(split * shape.heads + g * group + first + h) * split_width(shape) + d] = value;
    }
    __syncthreads();
  }
}

// Value `d` of head `h` from all splits. A query that sees nothing attends to nothing.
__device__ __forceinline__ float merged(const AttentionShape& shape, const float* parts, uint32_t splits, uint32_t h, uint32_t d) {
  const uint32_t width = split_width(shape);
  float max = NEGATIVE_INFINITY;
  for (uint32_t s = 0; s < splits; s++) max = fmaxf(max, parts[(s * shape.heads + h) * width + shape.head_dim]);
  float sum = 0.0f, total = 0.0f;
  for (uint32_t s = 0; s < splits; s++) {
    const float* part = parts + (s * shape.heads + h) * width;
    const float part_max = part[shape.head_dim];
    // Without a largest score there is nothing, or something that is not a number: the total tells.
    const float share = part_max == NEGATIVE_INFINITY ? 0.0f : __expf(part_max - max);
    sum += part_max == NEGATIVE_INFINITY ? 0.0f : share * part[d];
    total += part_max == NEGATIVE_INFINITY ? part[shape.head_dim + 1] : share * part[shape.head_dim + 1];
  }
  return total == 0.0f ? 0.0f : sum / total;
}
