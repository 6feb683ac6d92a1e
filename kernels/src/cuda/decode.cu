// The persistent kernel: a chain of steps, latent or with tokens, each through all layers, in one launch.
//
// ```text
// per layer   norm, q k v ║ rope, append, attention ║ merge, o_proj ║ norm, gate up, swiglu ║ down_proj ║ exit?
// per step    latent: norm ║ (map: up, gelu ║ down ║ norm) ║        token: norm, head, arg-max ║ embedding ║
// ```
//
// `║` is a barrier of the whole grid. What is cheap every block computes for itself: norms, the rounding of activations, the merge of
// attention, and whether a gate ends the step. So nothing returns to the host between two steps, and an exit costs no round trip.
// It must be launched as cooperative, with all blocks on the device at once.
#include "attention.cuh"
#include "product.cuh"

// Zero before the first launch, and again after each.
struct GridBarrier {
  uint32_t arrived;
  uint32_t generation;
};

struct LayerWeights {
  Matrix q, k, v, o, gate, up, down;
  const float* input_norm;
  const float* post_norm;
  // [D]; null where heads are not normed
  const float* q_norm;
  const float* k_norm;
  // [E]; null where no gate follows this layer
  const float* router;
  float router_bias;
  float threshold;
};

// From a state after the final norm to the next input; without rows the state itself.
struct LatentMap {
  Matrix up, down;
  const float* norm;
  const float* norm_bias;
};

struct DecodeModel {
  const LayerWeights* layers;
  LatentMap latent;
  Matrix embed;
  Matrix head;
  const float* norm;
  // [positions, D/2]
  const float2* angles;
  AttentionShape shape;
  uint32_t hidden;
  uint32_t layer_count;
  float eps;
  uint32_t reserved;
};

struct DecodeBuffers {
  // [E] each; the first holds the input of the first step
  float* hidden;
  float* other;
  float* q;
  float* k;
  float* v;
  // [splits, H, D + 2]
  float* parts;
  // [F]
  int8_t* gated;
  Scale* gated_scales;
  // [I]
  float* inner;
  // [V]
  float* logits;
  // [steps], 0 before
  uint64_t* best;
  // [steps, E]: the states after the final norm
  float* states;
  // [steps]: layers that ran
  uint32_t* layers_run;
  // [L]
  KvLayer* kv;
  // [steps]: 0 latent, 1 token
  const uint32_t* kinds;
  GridBarrier* barrier;
  // [1]: 1 after a cache was full
  uint32_t* error;
};

__device__ __forceinline__ void grid_barrier(GridBarrier* barrier) {
  __syncthreads();
  GRID_ARRIVES();
  if (threadIdx.x == 0) {
    __threadfence();
    const uint32_t generation = load_acquire(&barrier->generation);
    if (atomicAdd(&barrier->arrived, 1) == gridDim.x - 1) {
      store_release(&barrier->arrived, 0);
      store_release(&barrier->generation, generation + 1);
    } else {
      while (load_acquire(&barrier->generation) == generation) SPIN();
    }
    __threadfence();
  }
  __syncthreads();
  GRID_PASSES();
}

// Warps per panel: as many as keep all warps of the launch at work.
__device__ __forceinline__ uint32_t team_of(uint32_t rows) {
  const uint32_t panels = ceil_div(rows, PANEL_ROWS), all = gridDim.x * warps();
  uint32_t team = 1;
  while (team < warps() && 2 * team * panels <= all) team *= 2;
  return team;
}

// Int8 blocks of one row in the block's own memory.
struct Row {
  int8_t* codes;
  Scale* scales;
};

__device__ __forceinline__ Row row_of(uint32_t cols) {
  DYNAMIC_SHARED(shared);
  const Row row = {reinterpret_cast<int8_t*>(shared), reinterpret_cast<Scale*>(shared + ceil_div(cols, BLOCK_COLS) * BLOCK_COLS)};
  return row;
}

__device__ __forceinline__ Row load_norm(const float* x, const float* weight, float eps, uint32_t cols) {
  const Row row = row_of(cols);
  quantize_row(x, weight, norm_factor(x, cols, eps), cols, row.codes, row.scales);
  __syncthreads();
  return row;
}

// Where the entry of this step goes: behind the last one, or into the next block.
__device__ __forceinline__ OwnEntry next_entry(const KvLayer& kv) {
  OwnEntry own = {0, 0};
  if (kv.count != 0) {
    const KvBlock& last = kv.blocks[kv.count - 1];
    own.block = last.len == last.stride ? kv.count : kv.count - 1;
    own.slot = last.len == last.stride ? 0 : last.len;
  }
  return own;
}

// One layer. False if the cache is full; all blocks see that alike, before any of them changed anything.
template <uint32_t DIMS>
__device__ __forceinline__ bool run_layer(const DecodeModel& m, const DecodeBuffers& s, float* hidden, uint32_t layer, uint32_t position,
                                          uint32_t splits) {
  const LayerWeights& w = m.layers[layer];
  const AttentionShape shape = m.shape;
  const KvLayer kv = s.kv[layer];
  const OwnEntry own = next_entry(kv);
  if (own.block >= kv.capacity) return false;
  {
    const Row x = load_norm(hidden, w.input_norm, m.eps, m.hidden);
    const Product of[3] = {{w.q, s.q, 0, 0}, {w.k, s.k, 0, 0}, {w.v, s.v, 0, 0}};
    products(of, 3, x.codes, x.scales, team_of(w.q.rows + w.k.rows + w.v.rows), nullptr);
  }
  grid_barrier(s.barrier);
  // A split is one of the blocks of threads; the last split writes the entry that the others do not see.
  const uint32_t count = own.block + 1, per_split = ceil_div(count, splits);
  const float2* angles = m.angles + uint64_t(position) * (shape.head_dim / 2);
  for (uint32_t unit = blockIdx.x; unit < shape.kv_heads * splits; unit += gridDim.x) {
    const uint32_t g = unit % shape.kv_heads, split = unit / shape.kv_heads;
    if (split == own.block / per_split) {
      if (warp() == 0) {
        const KvBlock& block = kv.blocks[own.block];
        const KvSlot slot = {block.k, block.v, own.slot, block.stride};
        append_head(shape, s.k + g * shape.head_dim, s.v + g * shape.head_dim, w.k_norm, angles, g, slot);
      }
      __syncthreads();
    }
    attend_group<DIMS, 8>(shape, kv, count, s.q, w.q_norm, angles, g, position, own, split, splits, s.parts);
  }
  grid_barrier(s.barrier);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    KvBlock& block = kv.blocks[own.block];
    block.positions[own.slot] = position;
    block.visible |= uint64_t(1) << own.slot;
    block.len = own.slot + 1;
    s.kv[layer].count = count;
  }
  {
    const uint32_t cols = shape.heads * shape.head_dim;
    const Row x = row_of(cols);
    for (uint32_t b = warp(); b < ceil_div(cols, BLOCK_COLS); b += warps()) {
      const uint32_t c = b * BLOCK_COLS + lane();
      const float y = c < cols ? merged(shape, s.parts, splits, c / shape.head_dim, c % shape.head_dim) : 0.0f;
      quantize_warp(y, x.codes + b * BLOCK_COLS, x.scales + b);
    }
    __syncthreads();
    const Product of[1] = {{w.o, hidden, 1, 0}};
    products(of, 1, x.codes, x.scales, team_of(w.o.rows), nullptr);
  }
  grid_barrier(s.barrier);
  {
    const Row x = load_norm(hidden, w.post_norm, m.eps, m.hidden);
    gated_products(w.gate, w.up, x.codes, x.scales, s.gated, s.gated_scales);
  }
  grid_barrier(s.barrier);
  {
    const Product of[1] = {{w.down, hidden, 1, 0}};
    products(of, 1, s.gated, s.gated_scales, team_of(w.down.rows), nullptr);
  }
  grid_barrier(s.barrier);
  return true;
}

// The next input of a latent step, to `to`.
__device__ __forceinline__ void map_state(const DecodeModel& m, const DecodeBuffers& s, const float* hidden, const Row& x, float* state,
                                          float* to) {
  const float factor = norm_factor(hidden, m.hidden, m.eps);
  if (blockIdx.x == 0)
    for (uint32_t c = threadIdx.x; c < m.hidden; c += blockDim.x) {
      const float y = hidden[c] * factor * m.norm[c];
      state[c] = y;
      if (m.latent.up.rows == 0) to[c] = y;
    }
  if (m.latent.up.rows != 0) {
    const uint32_t inner = m.latent.up.rows;
    const Product up[1] = {{m.latent.up, s.inner, 0, 0}};
    products(up, 1, x.codes, x.scales, team_of(inner), nullptr);
    grid_barrier(s.barrier);
    const Row y = row_of(inner);
    for (uint32_t b = warp(); b < ceil_div(inner, BLOCK_COLS); b += warps()) {
      const uint32_t c = b * BLOCK_COLS + lane();
      quantize_warp(c < inner ? gelu(s.inner[c]) : 0.0f, y.codes + b * BLOCK_COLS, y.scales + b);
    }
    __syncthreads();
    // The queries are done with: their place holds what is still to be normed.
    const Product down[1] = {{m.latent.down, s.parts, 0, 0}};
    products(down, 1, y.codes, y.scales, team_of(m.hidden), nullptr);
    grid_barrier(s.barrier);
    if (blockIdx.x == 0) layer_norm_row(s.parts, m.latent.norm, m.latent.norm_bias, m.hidden, to);
  }
  grid_barrier(s.barrier);
}

// The most likely token's embedding, to `to`.
__device__ __forceinline__ void next_token(const DecodeModel& m, const DecodeBuffers& s, const float* hidden, const Row& x, uint32_t step,
                                           float* state, float* to) {
  const float factor = norm_factor(hidden, m.hidden, m.eps);
  if (blockIdx.x == 0)
    for (uint32_t c = threadIdx.x; c < m.hidden; c += blockDim.x) state[c] = hidden[c] * factor * m.norm[c];
  const Product of[1] = {{m.head, s.logits, 0, 0}};
  products(of, 1, x.codes, x.scales, team_of(m.head.rows), s.best + step);
  grid_barrier(s.barrier);
  if (blockIdx.x == 0) {
    const uint64_t rank = s.best[step];
    const uint32_t token = rank == 0 ? 0 : ~uint32_t(rank);
    for (uint32_t c = threadIdx.x; c < m.hidden; c += blockDim.x) to[c] = weight_at(m.embed, token, c);
  }
  grid_barrier(s.barrier);
}

template <uint32_t DIMS>
__device__ __forceinline__ void decode(const DecodeModel* model, const DecodeBuffers* buffers, uint32_t position, uint32_t steps,
                                       uint32_t splits) {
  const DecodeModel& m = *model;
  const DecodeBuffers& s = *buffers;
  float *hidden = s.hidden, *other = s.other;
  for (uint32_t step = 0; step < steps; step++, position++) {
    uint32_t layer = 0;
    bool exits = false;
    while (layer < m.layer_count && !exits) {
      if (!run_layer<DIMS>(m, s, hidden, layer, position, splits)) {
        if (blockIdx.x == 0 && threadIdx.x == 0) *s.error = 1;
        return;
      }
      const LayerWeights& w = m.layers[layer++];
      if (w.router) exits = gate_value(hidden, w.router, w.router_bias, m.eps, m.hidden) >= w.threshold;
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) s.layers_run[step] = layer;
    const Row x = load_norm(hidden, m.norm, m.eps, m.hidden);
    float* state = s.states + uint64_t(step) * m.hidden;
    if (s.kinds[step] == 0)
      map_state(m, s, hidden, x, state, other);
    else
      next_token(m, s, hidden, x, step, state, other);
    float* const swap = hidden;
    hidden = other;
    other = swap;
  }
}

// One block of 256 threads per multiprocessor, cooperative. Dynamic shared memory: `AttentionRoom<8>`, or the int8 blocks of the widest row if
// those are more.
#define DECODE_KERNEL(name, DIMS)                                                                                                    \
  extern "C" __global__ void __launch_bounds__(256, 1)                                                                               \
  name(const DecodeModel* model, const DecodeBuffers* buffers, uint32_t position, uint32_t steps, uint32_t splits) {                 \
    decode<DIMS>(model, buffers, position, steps, splits);                                                                          \
  }
DECODE_KERNEL(skim_decode_64, 2)
DECODE_KERNEL(skim_decode_128, 4)
DECODE_KERNEL(skim_decode_256, 8)
