// What all kernels share: the few instructions that C++ has no word for, the structs that the host passes, sums over a warp or block.
//
// The same files are compiled by nvcc or NVRTC for a device, without any header of the toolkit, and as C++ by `tests/gpu/dialect.hpp`
// for the emulator of the tests. What differs between the two has a name of its own here.
#pragma once

#ifdef SKIM_GPU_EMULATOR
#include "dialect.hpp"
#else

#ifdef __CUDACC_RTC__
// NVRTC has no headers of the host.
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
// The emulator lets other blocks run here.
#define SPIN() __nanosleep(20)
#define GRID_ARRIVES()
#define GRID_PASSES()

__device__ __forceinline__ float half_to_float(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

__device__ __forceinline__ uint16_t float_to_half(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

// sum += the four products of the unsigned bytes of `a` with the signed bytes of `b`. CUDA has no intrinsic for mixed signs.
__device__ __forceinline__ int32_t dp4a_us(uint32_t a, int32_t b, int32_t sum) {
  int32_t d;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(sum));
  return d;
}

// Weights are read once per pass: they go past the first-level cache, which then keeps the activations.
__device__ __forceinline__ uint4 load_stream(const uint4* at) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at));
  return v;
}

__device__ __forceinline__ uint4 load16(const void* at) { return *reinterpret_cast<const uint4*>(at); }
__device__ __forceinline__ void store16(void* at, uint4 value) { *reinterpret_cast<uint4*>(at) = value; }

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* at) {
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
  return v;
}

__device__ __forceinline__ void store_release(uint32_t* at, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}

// d += a · b for unsigned bytes `a` [16, 32] and signed bytes `b` [32, 8], spread over the lanes as the PTX manual says.
__device__ __forceinline__ void mma_u8s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2]) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

constexpr uint32_t LANES = 32;
constexpr uint32_t ALL_LANES = 0xffffffffu;
// Values per quantized block, and rows of a panel: `BLOCK` and `PANEL` of the crate.
constexpr uint32_t BLOCK_COLS = 32;
constexpr uint32_t PANEL_ROWS = 16;
// Bytes of the f16 scales at the start of a block of a panel.
constexpr uint32_t SCALE_BYTES = 32;
// Warps of the largest block of any kernel here.
constexpr uint32_t MAX_WARPS = 16;
// A macro, because NVRTC has no constant of that value.
#define NEGATIVE_INFINITY __uint_as_float(0xff800000u)

// `Format` of the crate.
enum : uint32_t { FORMAT_F32 = 0, FORMAT_F16 = 1, FORMAT_Q8 = 2, FORMAT_Q4 = 3 };

// A weight matrix in the bytes of the bundle, and its bias. Quantized data begins at a multiple of 16 bytes.
struct Matrix {
  const uint8_t* data;
  // [rows]; null where there is none
  const float* bias;
  uint32_t rows;
  uint32_t cols;
  uint32_t format;
  uint32_t reserved;
};

// y = w · x + bias, or y += where `add` is not 0; y is [T, rows].
struct Product {
  Matrix w;
  float* y;
  uint32_t add;
  uint32_t reserved;
};

// What the bytes of 32 activations are worth, and their sum. The bytes lie apart from these, so that 16 of them are one load.
struct Scale {
  float scale;
  int32_t sum;
};

__device__ __forceinline__ uint32_t ceil_div(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
__device__ __forceinline__ uint32_t lane() { return threadIdx.x % LANES; }
__device__ __forceinline__ uint32_t warp() { return threadIdx.x / LANES; }
__device__ __forceinline__ uint32_t warps() { return blockDim.x / LANES; }
__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) <= 3.402823466e38f; }

__device__ __forceinline__ float warp_sum(float x) {
  for (uint32_t bits = LANES / 2; bits > 0; bits /= 2) x += __shfl_xor_sync(ALL_LANES, x, bits);
  return x;
}

__device__ __forceinline__ int32_t warp_sum(int32_t x) {
  for (uint32_t bits = LANES / 2; bits > 0; bits /= 2) x += __shfl_xor_sync(ALL_LANES, x, bits);
  return x;
}

// NaN loses against everything else.
__device__ __forceinline__ float warp_max(float x) {
  for (uint32_t bits = LANES / 2; bits > 0; bits /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, bits));
  return x;
}

__device__ __forceinline__ uint64_t warp_max(uint64_t x) {
  for (uint32_t bits = LANES / 2; bits > 0; bits /= 2) {
    const uint64_t other = __shfl_xor_sync(ALL_LANES, x, bits);
    x = other > x ? other : x;
  }
  return x;
}

// The sum over the block, in every thread. Each adds the warps in the same order, so all have the same bits.
__device__ __forceinline__ float block_sum(float x) {
  SHARED_ARRAY(float, sums, MAX_WARPS);
  x = warp_sum(x);
  __syncthreads();
  if (lane() == 0) sums[warp()] = x;
  __syncthreads();
  float total = 0.0f;
  for (uint32_t w = 0; w < warps(); w++) total += sums[w];
  return total;
}

__device__ __forceinline__ uint64_t block_max(uint64_t x) {
  SHARED_ARRAY(uint64_t, largest, MAX_WARPS);
  x = warp_max(x);
  __syncthreads();
  if (lane() == 0) largest[warp()] = x;
  __syncthreads();
  uint64_t best = 0;
  for (uint32_t w = 0; w < warps(); w++) best = largest[w] > best ? largest[w] : best;
  return best;
}
