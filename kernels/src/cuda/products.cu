// Products with one token, and with many.
#include "product.cuh"

// Up to three products of the same activations; those that are not there have no rows.
struct Products {
  Product of[3];
};

// The largest output of the first product goes to `best` where that is not null. Grid: any number of blocks; `team` warps share a panel and
// divide the warps of a block.
extern "C" __global__ void __launch_bounds__(256)
skim_gemv(Products products_of, const int8_t* codes, const Scale* scales, uint32_t team, uint64_t* best) {
  products(products_of.of, 3, codes, scales, team, best);
}

// silu(gate · x) · (up · x) as int8 blocks. Grid: any number of blocks, of a multiple of four warps.
extern "C" __global__ void __launch_bounds__(256)
skim_gemv_gated(Matrix gate, Matrix up, const int8_t* codes, const Scale* scales, int8_t* out, Scale* out_scales) {
  gated_products(gate, up, codes, scales, out, out_scales);
}

// Float weights, f32 or f16, row by row, against x [T, cols]: a warp per row. Grid: (enough warps for the rows, T).
extern "C" __global__ void __launch_bounds__(256) skim_gemv_float(Product p, const float* x) {
  const uint32_t row = blockIdx.x * warps() + warp();
  if (row >= p.w.rows) return;
  const uint64_t t = blockIdx.y, at = uint64_t(row) * p.w.cols;
  x += t * p.w.cols;
  float sum = 0.0f;
  for (uint32_t c = lane(); c < p.w.cols; c += LANES) {
    const float w = p.w.format == FORMAT_F32 ? reinterpret_cast<const float*>(p.w.data)[at + c]
                                             : half_to_float(reinterpret_cast<const uint16_t*>(p.w.data)[at + c]);
    sum += w * x[c];
  }
  sum = warp_sum(sum);
  if (lane() == 0) {
    float* y = p.y + t * p.w.rows + row;
    if (p.w.bias) sum += p.w.bias[row];
    *y = p.add ? *y + sum : sum;
  }
}

// Writes one value of a product of several tokens.
__device__ __forceinline__ void put(const Product& p, uint32_t row, uint32_t token, uint32_t tokens, float y) {
  if (row >= p.w.rows || token >= tokens) return;
  float* at = p.y + uint64_t(token) * p.w.rows + row;
  if (p.w.bias) y += p.w.bias[row];
  *at = p.add ? *at + y : y;
}

// Rows and tokens of a tile of `gemm`.
constexpr uint32_t TILE_ROWS = 64, TILE_TOKENS = 32, GEMM_THREADS = 128;

// A tile of 64 rows and 32 tokens by 128 threads, four rows and four tokens each. A block of columns at a time goes through shared memory;
// the next one is on its way meanwhile.
template <class F>
__device__ __forceinline__ void gemm(const Product& p, const int8_t* codes, const Scale* scales, uint32_t tokens) {
  constexpr uint32_t PANELS = TILE_ROWS / PANEL_ROWS, UNITS = BLOCK_BYTES<F> / 16, ALL = PANELS * UNITS;
  constexpr uint32_t EACH = (ALL + GEMM_THREADS - 1) / GEMM_THREADS;
  // Words of four columns by token; the pad keeps the stores of a warp apart.
  constexpr uint32_t PITCH = TILE_TOKENS + 4;
  SHARED_ARRAY(uint4, weights, ALL);
  SHARED_ARRAY(int32_t, x, 8 * PITCH);
  SHARED_ARRAY(float, x_scales, TILE_TOKENS);
  SHARED_ARRAY(int32_t, x_sums, TILE_TOKENS);
  const uint32_t blocks = ceil_div(p.w.cols, BLOCK_COLS), panels = ceil_div(p.w.rows, PANEL_ROWS);
  const uint32_t first_panel = blockIdx.x * PANELS, first_token = blockIdx.y * TILE_TOKENS;
  const uint32_t own_panel = threadIdx.x % 16 / 4, quarter = threadIdx.x % 4, own_token = threadIdx.x / 16 * 4;
  const uint4 zero = {0, 0, 0, 0};
  uint4 next[EACH], next_x = zero;
  Scale next_scale = {0.0f, 0};
  auto fetch = [&](uint32_t b) {
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) {
      const uint32_t unit = i * GEMM_THREADS + threadIdx.x, panel = first_panel + unit / UNITS;
      next[i] = zero;
      if (unit < ALL && panel < panels)
        next[i] = load_stream(reinterpret_cast<const uint4*>(p.w.data + (uint64_t(panel) * blocks + b) * BLOCK_BYTES<F>) + unit % UNITS);
    }
    const uint32_t t = first_token + threadIdx.x / 2;
    next_x = zero;
    if (threadIdx.x < 2 * TILE_TOKENS && t < tokens)
      next_x = load16(codes + (uint64_t(t) * blocks + b) * BLOCK_COLS + threadIdx.x % 2 * 16);
    next_scale = {0.0f, 0};
    if (threadIdx.x < TILE_TOKENS && first_token + threadIdx.x < tokens)
      next_scale = scales[uint64_t(first_token + threadIdx.x) * blocks + b];
  };
  float total[4][4] = {};
  fetch(0);
  for (uint32_t b = 0; b < blocks; b++) {
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++)
      if (i * GEMM_THREADS + threadIdx.x < ALL) store16(&weights[i * GEMM_THREADS + threadIdx.x], next[i]);
    if (threadIdx.x < 2 * TILE_TOKENS) {
      int32_t* at = x + threadIdx.x % 2 * 4 * PITCH + threadIdx.x / 2;
      at[0] = int32_t(next_x.x);
      at[PITCH] = int32_t(next_x.y);
      at[2 * PITCH] = int32_t(next_x.z);
      at[3 * PITCH] = int32_t(next_x.w);
    }
    if (threadIdx.x < TILE_TOKENS) {
      x_scales[threadIdx.x] = next_scale.scale;
      x_sums[threadIdx.x] = next_scale.sum;
    }
    __syncthreads();
    if (b + 1 < blocks) fetch(b + 1);
    const uint8_t* block = reinterpret_cast<const uint8_t*>(weights) + own_panel * BLOCK_BYTES<F>;
    int32_t sums[4][4] = {};
#pragma unroll
    for (uint32_t i = 0; i < F::LOADS; i++) {
      const uint4 w = load16(block + SCALE_BYTES + 64 * i + 16 * quarter);
      const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (uint32_t part = 0; part < 8 / F::LOADS; part++) {
        const uint4 xs = load16(x + (8 / F::LOADS * i + part) * PITCH + own_token);
        const int32_t values[4] = {int32_t(xs.x), int32_t(xs.y), int32_t(xs.z), int32_t(xs.w)};
#pragma unroll
        for (uint32_t r = 0; r < 4; r++) {
          const uint32_t bytes = F::LOADS == 8 ? words[r] : words[r] >> 4 * part & 0x0f0f0f0fu;
#pragma unroll
          for (uint32_t t = 0; t < 4; t++) sums[r][t] = dp4a_us(bytes, values[t], sums[r][t]);
        }
      }
    }
#pragma unroll
    for (uint32_t r = 0; r < 4; r++) {
      const float scale = half_to_float(reinterpret_cast<const uint16_t*>(block)[4 * quarter + r]);
#pragma unroll
      for (uint32_t t = 0; t < 4; t++)
        total[r][t] += float(sums[r][t] - F::OFFSET * x_sums[own_token + t]) * (scale * x_scales[own_token + t]);
    }
  }
#pragma unroll
  for (uint32_t t = 0; t < 4; t++)
#pragma unroll
    for (uint32_t r = 0; r < 4; r++)
      put(p, (first_panel + own_panel) * PANEL_ROWS + 4 * quarter + r, first_token + own_token + t, tokens, total[r][t]);
}

// A product with T tokens on the dot-product units. Grid: (rows / 64, T / 32), 128 threads.
extern "C" __global__ void __launch_bounds__(128)
skim_gemm(Product p, const int8_t* codes, const Scale* scales, uint32_t tokens) {
  if (p.w.format == FORMAT_Q8) gemm<Q8>(p, codes, scales, tokens);
  else gemm<Q4>(p, codes, scales, tokens);
}

// Tokens of a tile of `gemm_mma`: eight multiplies of eight.
constexpr uint32_t MMA_TOKENS = 64;

// The fragment of the weights of one block: rows g and g + 8 of the panel, lane = 4 · g + t.
//
// The layout of the bundle is nearly that of the fragments: a word has four columns of a row, and the next row is the next word. For q4 the
// low halves of a word are the first half of the multiply's columns and its high halves the second, so its columns stand in another
// order than those of the matrix; `columns` reads the activations in the same order.
template <class F> struct Fragment;
template <> struct Fragment<Q8> {
  uint32_t words[4];
  __device__ __forceinline__ void load(const uint32_t* codes, uint32_t g, uint32_t t) {
    words[0] = codes[16 * t + g];
    words[1] = codes[16 * t + g + 8];
    words[2] = codes[16 * (t + 4) + g];
    words[3] = codes[16 * (t + 4) + g + 8];
  }
  __device__ __forceinline__ void unpack(uint32_t a[4]) const {
    for (uint32_t i = 0; i < 4; i++) a[i] = words[i];
  }
  static __device__ __forceinline__ uint32_t first(uint32_t t) { return t; }
  static __device__ __forceinline__ uint32_t second(uint32_t t) { return t + 4; }
};
template <> struct Fragment<Q4> {
  uint32_t words[2];
  __device__ __forceinline__ void load(const uint32_t* codes, uint32_t g, uint32_t t) {
    words[0] = codes[16 * t + g];
    words[1] = codes[16 * t + g + 8];
  }
  __device__ __forceinline__ void unpack(uint32_t a[4]) const {
    a[0] = words[0] & 0x0f0f0f0fu;
    a[1] = words[1] & 0x0f0f0f0fu;
    a[2] = words[0] >> 4 & 0x0f0f0f0fu;
    a[3] = words[1] >> 4 & 0x0f0f0f0fu;
  }
  static __device__ __forceinline__ uint32_t first(uint32_t t) { return 2 * t; }
  static __device__ __forceinline__ uint32_t second(uint32_t t) { return 2 * t + 1; }
};

template <class F>
__device__ __forceinline__ void gemm_mma(const Product& p, const int8_t* codes, const Scale* scales, uint32_t tokens) {
  // Words of a token's block: 8, at a pitch that puts the lanes of a fragment in banks of their own.
  constexpr uint32_t PITCH = 12;
  SHARED_ARRAY(uint32_t, x, MMA_TOKENS * PITCH);
  SHARED_ARRAY(float, x_scales, MMA_TOKENS);
  SHARED_ARRAY(int32_t, x_sums, MMA_TOKENS);
  const uint32_t blocks = ceil_div(p.w.cols, BLOCK_COLS), panels = ceil_div(p.w.rows, PANEL_ROWS);
  const uint32_t panel = blockIdx.x * (GEMM_THREADS / LANES) + warp(), first_token = blockIdx.y * MMA_TOKENS;
  const uint32_t g = lane() / 4, t = lane() % 4;
  // A warp without a panel computes the last one once more, so that all take part in the barriers, and throws it away.
  const uint8_t* from = p.w.data + uint64_t(panel < panels ? panel : panels - 1) * blocks * BLOCK_BYTES<F>;
  float total[MMA_TOKENS / 8][4] = {};
  for (uint32_t b = 0; b < blocks; b++) {
    const uint8_t* block = from + b * BLOCK_BYTES<F>;
    Fragment<F> fragment;
    fragment.load(reinterpret_cast<const uint32_t*>(block + SCALE_BYTES), g, t);
    const float upper = half_to_float(reinterpret_cast<const uint16_t*>(block)[g]);
    const float lower = half_to_float(reinterpret_cast<const uint16_t*>(block)[g + 8]);
    __syncthreads();
    {
      const uint32_t token = threadIdx.x / 2, half = threadIdx.x % 2;
      const bool is_there = first_token + token < tokens;
      const uint64_t at = uint64_t(first_token + token) * blocks + b;
      const uint4 zero = {0, 0, 0, 0};
      store16(x + token * PITCH + 4 * half, is_there ? load16(codes + at * BLOCK_COLS + 16 * half) : zero);
      if (half == 0) {
        const Scale none = {0.0f, 0}, scale = is_there ? scales[at] : none;
        x_scales[token] = scale.scale;
        x_sums[token] = scale.sum;
      }
    }
    __syncthreads();
    uint32_t a[4];
    fragment.unpack(a);
#pragma unroll
    for (uint32_t n = 0; n < MMA_TOKENS / 8; n++) {
      const uint32_t* column = x + (8 * n + g) * PITCH;
      const uint32_t bs[2] = {column[Fragment<F>::first(t)], column[Fragment<F>::second(t)]};
      int32_t d[4] = {0, 0, 0, 0};
      mma_u8s8(d, a, bs);
#pragma unroll
      for (uint32_t i = 0; i < 4; i++) {
        const uint32_t token = 8 * n + 2 * t + i % 2;
        total[n][i] += float(d[i] - F::OFFSET * x_sums[token]) * ((i < 2 ? upper : lower) * x_scales[token]);
      }
    }
  }
  if (panel >= panels) return;
#pragma unroll
  for (uint32_t n = 0; n < MMA_TOKENS / 8; n++)
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
      put(p, panel * PANEL_ROWS + g + (i < 2 ? 0 : 8), first_token + 8 * n + 2 * t + i % 2, tokens, total[n][i]);
}

// A product with T tokens on the tensor cores. Grid: (rows / 64, T / 64), 128 threads.
extern "C" __global__ void __launch_bounds__(128)
skim_gemm_mma(Product p, const int8_t* codes, const Scale* scales, uint32_t tokens) {
  if (p.w.format == FORMAT_Q8) gemm_mma<Q8>(p, codes, scales, tokens);
  else gemm_mma<Q4>(p, codes, scales, tokens);
}
