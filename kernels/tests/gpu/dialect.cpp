// The parts of CUDA's language that touch memory or the whole warp. Compiled without instrumentation: they report what they touch.
#include "dialect.hpp"

gpu::Dim3 gpu_thread_index() { return gpu::self->index; }
gpu::Dim3 gpu_block_index() { return gpu::self->block->index; }

float half_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = float(fraction) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

// To the nearest, ties to even.
uint16_t float_to_half(float x) {
  const uint32_t bits = __float_as_uint(x), sign = bits >> 16 & 0x8000;
  const float magnitude = fabsf(x);
  if (std::isnan(x)) return uint16_t(sign | 0x7e00);
  if (magnitude >= 65520.0f) return uint16_t(sign | 0x7c00);
  // Under the smallest normal number the step is fixed; above it the fraction is cut by 13 bits.
  if (magnitude < 0x1p-14f) return uint16_t(sign | uint32_t(nearbyintf(magnitude * 0x1p24f)));
  uint32_t m = bits & 0x7fffffff;
  m += 0xfff + (m >> 13 & 1);
  return uint16_t(sign | ((m >> 13) - (112 << 10)));
}

int32_t dp4a_us(uint32_t a, int32_t b, int32_t sum) {
  for (int i = 0; i < 4; i++) sum += int32_t(uint8_t(a >> 8 * i)) * int8_t(uint32_t(b) >> 8 * i);
  return sum;
}

uint4 load16(const void* at) {
  gpu::check_access(uintptr_t(at), 16, false, false);
  uint4 value;
  memcpy(&value, at, 16);
  return value;
}
uint4 load_stream(const uint4* at) { return load16(at); }
void store16(void* at, uint4 value) {
  gpu::check_access(uintptr_t(at), 16, true, false);
  memcpy(at, &value, 16);
}

uint32_t load_acquire(const uint32_t* at) {
  gpu::check_access(uintptr_t(at), 4, false, true);
  return *at;
}
void store_release(uint32_t* at, uint32_t value) {
  gpu::check_access(uintptr_t(at), 4, true, true);
  *at = value;
}
uint32_t atomicAdd(uint32_t* at, uint32_t value) {
  gpu::check_access(uintptr_t(at), 4, true, true);
  const uint32_t was = *at;
  *at = was + value;
  return was;
}
uint64_t atomicMax(unsigned long long* at, unsigned long long value) {
  gpu::check_access(uintptr_t(at), 8, true, true);
  const unsigned long long was = *at;
  if (value > was) *at = value;
  return was;
}

// The fragments of `mma.m16n8k32`, as the PTX manual lays them over the lanes: lane = 4·g + t holds of A the bytes 4t.. of rows g and
// g + 8 and the same 16 columns on, of B the bytes 4t.. and 16 + 4t.. of column g, of D the columns 2t and 2t + 1 of rows g and g + 8.
void gpu_mma_u8s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2], int line) {
  uint32_t own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const unsigned char* slots = gpu::exchange(own, sizeof own, "mma", line);
  auto word = [&](unsigned lane, unsigned i) {
    uint32_t value;
    memcpy(&value, slots + lane * gpu::SLOT + 4 * i, 4);
    return value;
  };
  const unsigned lane = gpu_lane_number(), g = lane / 4, t = lane % 4;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned lower = i / 2, column = 2 * t + i % 2;
    for (unsigned k = 0; k < 4; k++)
      for (unsigned half = 0; half < 2; half++)
        d[i] = dp4a_us(word(4 * g + k, lower + 2 * half), int32_t(word(4 * column + k, 4 + half)), d[i]);
  }
}
