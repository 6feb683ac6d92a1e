// What is asked of the logits: the largest, and the k largest.
#include "product.cuh"

// The largest of x [n], as its rank; the first of equals, NaN never wins. `best` holds 0 before. Grid: any number of blocks.
extern "C" __global__ void __launch_bounds__(512) skim_argmax(const float* x, uint32_t n, uint64_t* best) {
  uint64_t found = 0;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const uint64_t rank = rank_of(x[i], i);
    found = rank > found ? rank : found;
  }
  found = block_max(found);
  if (threadIdx.x == 0 && found != 0) atomicMax(reinterpret_cast<unsigned long long*>(best), found);
}

// Values that one block looks through for its own k largest.
constexpr uint32_t TOP_K_PIECE = 2048;

// The k largest ranks of `ranks` [n], in falling order, to `out` [k]; 0 where there are fewer.
__device__ __forceinline__ void largest_ranks(const uint64_t* ranks, uint32_t n, uint32_t k, uint64_t* out) {
  uint64_t last = ~uint64_t(0);
  for (uint32_t i = 0; i < k; i++) {
    uint64_t found = 0;
    for (uint32_t j = threadIdx.x; j < n; j += blockDim.x)
      if (ranks[j] < last && ranks[j] > found) found = ranks[j];
    found = block_max(found);
    if (threadIdx.x == 0) out[i] = found;
    // Nothing is less than a rank that does not exist.
    last = found;
  }
}

// The k largest of each piece of x [n]: ranks [pieces, k]. Grid: a block per piece.
extern "C" __global__ void __launch_bounds__(256) skim_top_k_pieces(const float* x, uint32_t n, uint32_t k, uint64_t* ranks) {
  SHARED_ARRAY(uint64_t, piece, TOP_K_PIECE);
  const uint32_t from = blockIdx.x * TOP_K_PIECE;
  for (uint32_t i = threadIdx.x; i < TOP_K_PIECE; i += blockDim.x) piece[i] = from + i < n ? rank_of(x[from + i], from + i) : 0;
  __syncthreads();
  largest_ranks(piece, TOP_K_PIECE, k, ranks + uint64_t(blockIdx.x) * k);
}

// The k largest of `ranks` [n]: their indices and values, [k]; the index is all ones where there are fewer. Grid: one block.
extern "C" __global__ void __launch_bounds__(512)
skim_top_k(const uint64_t* ranks, uint32_t n, uint32_t k, uint64_t* best, uint32_t* indices, float* values) {
  largest_ranks(ranks, n, k, best);
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < k; i += blockDim.x) {
    const uint64_t rank = best[i];
    const uint32_t ordered = uint32_t(rank >> 32);
    indices[i] = rank == 0 ? 0xffffffffu : ~uint32_t(rank);
    values[i] = rank == 0 ? NEGATIVE_INFINITY : __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
  }
}
