// Products of quantized weights with one row of int8 activations, at the speed of memory.
//
// A block of a panel is 16 scales and then, for each four (q8) or eight (q4) columns, 64 bytes: four for each of the 16 rows. Four lanes
// read such 64 bytes with 16 each, so that a lane has the same four rows all the way and its integer sums never leave it; the eight
// fours of a warp are at eight blocks at once. Every sector of memory that is touched is used to its last byte. Lanes meet once, at the
// end of the row.
#pragma once
#include "quantize.cuh"

// How the codes of a block lie: `LOADS` times 64 bytes.
struct Q8 {
  static constexpr uint32_t LOADS = 8;
  static constexpr int32_t OFFSET = 128;
};
struct Q4 {
  static constexpr uint32_t LOADS = 4;
  static constexpr int32_t OFFSET = 8;
};
template <class F> constexpr uint32_t BLOCK_BYTES = SCALE_BYTES + 64 * F::LOADS;

// One block of four rows.
template <class F> struct Codes {
  uint4 words[F::LOADS];
  uint2 scales;
};

template <class F> __device__ __forceinline__ void load_codes(const uint8_t* block, uint32_t quarter, Codes<F>& to) {
  to.scales = *reinterpret_cast<const uint2*>(block + 8 * quarter);
#pragma unroll
  for (uint32_t i = 0; i < F::LOADS; i++)
    to.words[i] = load_stream(reinterpret_cast<const uint4*>(block + SCALE_BYTES + 64 * i + 16 * quarter));
}

// The dot product of one row's codes, still with their offset.
template <class F> __device__ __forceinline__ int32_t add_dot(uint32_t word, const int32_t* x, uint32_t i, int32_t sum);
template <> __device__ __forceinline__ int32_t add_dot<Q8>(uint32_t word, const int32_t* x, uint32_t i, int32_t sum) {
  return dp4a_us(word, x[i], sum);
}
template <> __device__ __forceinline__ int32_t add_dot<Q4>(uint32_t word, const int32_t* x, uint32_t i, int32_t sum) {
  sum = dp4a_us(word & 0x0f0f0f0fu, x[2 * i], sum);
  return dp4a_us(word >> 4 & 0x0f0f0f0fu, x[2 * i + 1], sum);
}

template <class F>
__device__ __forceinline__ void add_block(const Codes<F>& w, const int8_t* codes, Scale scale, float4& total) {
  const uint4 low = load16(codes), high = load16(codes + 16);
  const int32_t x[8] = {int32_t(low.x),  int32_t(low.y),  int32_t(low.z),  int32_t(low.w),
                        int32_t(high.x), int32_t(high.y), int32_t(high.z), int32_t(high.w)};
  // All sums begin with what the offset of the codes adds.
  const int32_t begin = -F::OFFSET * scale.sum;
  int4 sums = {begin, begin, begin, begin};
#pragma unroll
  for (uint32_t i = 0; i < F::LOADS; i++) {
    sums.x = add_dot<F>(w.words[i].x, x, i, sums.x);
    sums.y = add_dot<F>(w.words[i].y, x, i, sums.y);
    sums.z = add_dot<F>(w.words[i].z, x, i, sums.z);
    sums.w = add_dot<F>(w.words[i].w, x, i, sums.w);
  }
  total.x += float(sums.x) * (half_to_float(uint16_t(w.scales.x)) * scale.scale);
  total.y += float(sums.y) * (half_to_float(uint16_t(w.scales.x >> 16)) * scale.scale);
  total.z += float(sums.z) * (half_to_float(uint16_t(w.scales.y)) * scale.scale);
  total.w += float(sums.w) * (half_to_float(uint16_t(w.scales.y >> 16)) * scale.scale);
}

// The part of a panel's product that falls to this lane: blocks `first`, `first + step`, … . The next block is asked for before the one
// at hand is used.
template <class F>
__device__ __forceinline__ float4 add_blocks(const uint8_t* panel, const int8_t* codes, const Scale* scales, uint32_t blocks,
                                             uint32_t first, uint32_t step) {
  const uint32_t quarter = threadIdx.x % 4;
  float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
  Codes<F> now, next;
  if (first < blocks) load_codes<F>(panel + first * BLOCK_BYTES<F>, quarter, now);
  for (uint32_t b = first; b < blocks; b += step) {
    if (b + step < blocks) load_codes<F>(panel + (b + step) * BLOCK_BYTES<F>, quarter, next);
    add_block<F>(now, codes + b * BLOCK_COLS, scales[b], total);
    now = next;
  }
  return total;
}

// The product of panel `panel`, shared by the `team` warps of which this is number `member`. What each warp has goes to 16 floats of
// `sums`; the caller waits, then adds those of the team.
__device__ __noinline__ void panel_product(const Matrix& w, uint32_t panel, const int8_t* codes, const Scale* scales, uint32_t member,
                                              uint32_t team, float* sums) {
  const uint32_t blocks = ceil_div(w.cols, BLOCK_COLS), first = member * 8 + lane() / 4, step = team * 8;
  float4 total;
  if (w.format == FORMAT_Q8)
    total = add_blocks<Q8>(w.data + uint64_t(panel) * blocks * BLOCK_BYTES<Q8>, codes, scales, blocks, first, step);
  else
    total = add_blocks<Q4>(w.data + uint64_t(panel) * blocks * BLOCK_BYTES<Q4>, codes, scales, blocks, first, step);
  for (uint32_t bits = 4; bits < LANES; bits *= 2) {
    total.x += __shfl_xor_sync(ALL_LANES, total.x, bits);
    total.y += __shfl_xor_sync(ALL_LANES, total.y, bits);
    total.z += __shfl_xor_sync(ALL_LANES, total.z, bits);
    total.w += __shfl_xor_sync(ALL_LANES, total.w, bits);
  }
  if (lane() < 4) {
    float* at = sums + 4 * lane();
    at[0] = total.x;
    at[1] = total.y;
    at[2] = total.z;
    at[3] = total.w;
  }
}

// The sum of row `row` over the warps of a team.
__device__ __forceinline__ float team_sum(const float* sums, uint32_t row, uint32_t team) {
  float y = 0.0f;
  for (uint32_t w = 0; w < team; w++) y += sums[w * PANEL_ROWS + row];
  return y;
}

// Value `c` of row `row` of a quantized matrix.
__device__ __forceinline__ float weight_at(const Matrix& w, uint32_t row, uint32_t c) {
  const uint32_t blocks = ceil_div(w.cols, BLOCK_COLS), r = row % PANEL_ROWS, i = c % BLOCK_COLS;
  const uint32_t bytes = w.format == FORMAT_Q8 ? BLOCK_BYTES<Q8> : BLOCK_BYTES<Q4>;
  const uint8_t* block = w.data + (uint64_t(row / PANEL_ROWS) * blocks + c / BLOCK_COLS) * bytes;
  const float scale = half_to_float(reinterpret_cast<const uint16_t*>(block)[r]);
  const uint8_t* codes = block + SCALE_BYTES;
  if (w.format == FORMAT_Q8) return scale * float(int32_t(codes[i / 4 * 64 + 4 * r + i % 4]) - Q8::OFFSET);
  const uint32_t both = codes[i / 8 * 64 + 4 * r + i % 4];
  return scale * float(int32_t(i % 8 < 4 ? both & 15 : both >> 4) - Q4::OFFSET);
}

// Larger for a larger value, and for the lower index of equals; 0 for a value that never wins.
__device__ __forceinline__ uint64_t rank_of(float value, uint32_t index) {
  if (!(value > NEGATIVE_INFINITY)) return 0;
  // Zeros of both signs are equal.
  const uint32_t bits = __float_as_uint(value == 0.0f ? 0.0f : value);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t(ordered) << 32 | uint32_t(~index);
}

// Up to three products of the same activations; all blocks of the launch share the panels, `team` warps each. Where `best` is not null,
// the largest of the first product is looked for, too. Ends with all threads of the block past their last use of shared memory.
__device__ __noinline__ void products(const Product* of, uint32_t count, const int8_t* codes, const Scale* scales, uint32_t team,
                                         uint64_t* best) {
  SHARED_ARRAY(float, sums, MAX_WARPS * PANEL_ROWS);
  uint32_t panels = 0;
  for (uint32_t i = 0; i < count; i++) panels += ceil_div(of[i].w.rows, PANEL_ROWS);
  const uint32_t teams = warps() / team;
  uint64_t found = 0;
  for (uint32_t base = blockIdx.x * teams; base < panels; base += gridDim.x * teams) {
    // Which matrix, and which panel of it.
    uint32_t panel = base + warp() / team, i = 0;
    while (i < count && panel >= ceil_div(of[i].w.rows, PANEL_ROWS)) panel -= ceil_div(of[i++].w.rows, PANEL_ROWS);
    if (i < count) panel_product(of[i].w, panel, codes, scales, warp() % team, team, sums + warp() * PANEL_ROWS);
    __syncthreads();
    const uint32_t row = panel * PANEL_ROWS + lane();
    if (i < count && warp() % team == 0 && lane() < PANEL_ROWS && row < of[i].w.rows) {
      float y = team_sum(sums + warp() * PANEL_ROWS, lane(), team);
      if (of[i].w.bias) y += of[i].w.bias[row];
      if (of[i].add) y += of[i].y[row];
      of[i].y[row] = y;
      const uint64_t rank = best && i == 0 ? rank_of(y, row) : 0;
      found = rank > found ? rank : found;
    }
    __syncthreads();
  }
  if (best) {
    found = block_max(found);
    if (threadIdx.x == 0 && found != 0) atomicMax(reinterpret_cast<unsigned long long*>(best), found);
  }
}

// silu(gate · x) · (up · x), rounded to int8 blocks: 32 rows of both at a time, four panels shared by all warps of the block.
__device__ __noinline__ void gated_products(const Matrix& gate, const Matrix& up, const int8_t* codes, const Scale* scales,
                                               int8_t* out, Scale* out_scales) {
  SHARED_ARRAY(float, sums, MAX_WARPS * PANEL_ROWS);
  const uint32_t team = warps() / 4, panels = ceil_div(gate.rows, PANEL_ROWS);
  for (uint32_t b = blockIdx.x; b < ceil_div(gate.rows, BLOCK_COLS); b += gridDim.x) {
    const uint32_t which = warp() / team, panel = 2 * b + which % 2;
    if (panel < panels)
      panel_product(which < 2 ? gate : up, panel, codes, scales, warp() % team, team, sums + warp() * PANEL_ROWS);
    __syncthreads();
    const uint32_t row = b * BLOCK_COLS + lane();
    if (warp() == 0) {
      float y = 0.0f;
      if (row < gate.rows) {
        const float* at = sums + lane() / PANEL_ROWS * team * PANEL_ROWS;
        float g = team_sum(at, lane() % PANEL_ROWS, team), u = team_sum(at + 2 * team * PANEL_ROWS, lane() % PANEL_ROWS, team);
        if (gate.bias) g += gate.bias[row];
        if (up.bias) u += up.bias[row];
        y = silu(g) * u;
      }
      quantize_warp(y, out + b * BLOCK_COLS, out_scales + b);
    }
    __syncthreads();
  }
}
