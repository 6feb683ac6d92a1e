// CUDA's words for kernels that are compiled as C++ and run on the machine of `machine.hpp`.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "machine.hpp"

#define __global__
#define __device__
#define __forceinline__ inline
#undef __noinline__
#define __noinline__
#define __launch_bounds__(...)

struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) int4 { int32_t x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(8) float2 { float x, y; };

// Functions, because the registers of a thread are those of the fiber that runs.
gpu::Dim3 gpu_thread_index();
gpu::Dim3 gpu_block_index();
#define threadIdx gpu_thread_index()
#define blockIdx gpu_block_index()
#define blockDim gpu::current.block
#define gridDim gpu::current.grid

#define __syncthreads() gpu::barrier_block(__LINE__)
#define __syncwarp() gpu::barrier_warp(__LINE__)

// A shared array. Its place is found by the address of a variable that each use in the source has of its own.
#define SHARED_ARRAY(type, name, count) \
  static char name##_site; \
  type* const name = static_cast<type*>(gpu::shared_static(&name##_site, sizeof(type) * (count), alignof(type) > 16 ? alignof(type) : 16))
#define DYNAMIC_SHARED(name) unsigned char* const name = static_cast<unsigned char*>(gpu::shared_dynamic(16))

template <class T> T gpu_lane(const unsigned char* slots, unsigned lane) {
  T value;
  memcpy(&value, slots + lane % gpu::WARP * gpu::SLOT, sizeof value);
  return value;
}
inline unsigned gpu_lane_number() { return gpu::self->number % gpu::WARP; }

// Only whole warps take part: the mask is checked.
inline void gpu_whole_warp(unsigned mask) {
  if (mask != 0xffffffffu) gpu::fail("a warp operation with mask %#x: only whole warps are supported", mask);
}
template <class T> T gpu_shuffle(unsigned mask, T value, unsigned from, int line) {
  gpu_whole_warp(mask);
  return gpu_lane<T>(gpu::exchange(&value, sizeof value, "__shfl_sync", line), from);
}
#define __shfl_sync(mask, value, from) gpu_shuffle(mask, value, from, __LINE__)
#define __shfl_xor_sync(mask, value, bits) gpu_shuffle(mask, value, gpu_lane_number() ^ (bits), __LINE__)
inline unsigned gpu_ballot(unsigned mask, bool value, int line) {
  gpu_whole_warp(mask);
  uint32_t own = value;
  const unsigned char* slots = gpu::exchange(&own, sizeof own, "__ballot_sync", line);
  uint32_t all = 0;
  for (unsigned i = 0; i < gpu::WARP; i++) all |= gpu_lane<uint32_t>(slots, i) << i;
  return all;
}
#define __ballot_sync(mask, value) gpu_ballot(mask, value, __LINE__)

inline unsigned __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(int(x)); }
inline float __uint_as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
inline uint32_t __float_as_uint(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

// Atomics and volatile loads see device memory, but are no partner in a race.
uint32_t atomicAdd(uint32_t* at, uint32_t value);
uint64_t atomicMax(unsigned long long* at, unsigned long long value);
inline void __threadfence() {}

// What `device.cuh` builds from PTX.
float half_to_float(uint16_t bits);
uint16_t float_to_half(float x);
int32_t dp4a_us(uint32_t a, int32_t b, int32_t sum);
uint4 load_stream(const uint4* at);
uint4 load16(const void* at);
void store16(void* at, uint4 value);
uint32_t load_acquire(const uint32_t* at);
void store_release(uint32_t* at, uint32_t value);
void gpu_mma_u8s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2], int line);
#define mma_u8s8(d, a, b) gpu_mma_u8s8(d, a, b, __LINE__)
#define SPIN() gpu::spin(__LINE__)
#define GRID_ARRIVES() gpu::grid_arrives()
#define GRID_PASSES() gpu::grid_passes()
