// Kernels with one bug each, beside the same kernel without it: the emulator must report the one and not the other.
//
// `planted list` prints the names with a part of the report that each must end in, `planted NAME` runs one; `tests/cuda.rs` checks
// all of them.
#include <cstdio>
#include <cstring>

#include "dialect.hpp"

namespace {

constexpr unsigned N = 64;

// Exchanges neighbours through shared memory.
void mirror(const float* x, float* y, bool barrier) {
  SHARED_ARRAY(float, s, N);
  const unsigned t = threadIdx.x;
  s[t] = x[t];
  if (barrier) __syncthreads();
  y[t] = s[N - 1 - t];
}

// The barrier is there, but the next round overwrites what others still read.
void rounds(float* y, bool barrier) {
  SHARED_ARRAY(float, s, N);
  const unsigned t = threadIdx.x;
  float sum = 0;
  for (unsigned i = 0; i < 3; i++) {
    s[t] = float(i);
    __syncthreads();
    sum += s[(t + 32) % N];
    if (barrier) __syncthreads();
  }
  y[t] = sum;
}

// Exchange within a warp.
void warp_mirror(float* y, bool barrier) {
  SHARED_ARRAY(float, s, N);
  const unsigned t = threadIdx.x;
  s[t] = float(t);
  if (barrier) __syncwarp();
  y[t] = s[t ^ 1];
}

void divergent(float* y, bool whole) {
  const unsigned t = threadIdx.x;
  if (whole || t < 32) __syncthreads();
  y[t] = 1;
}

void two_places(float* y, bool same) {
  const unsigned t = threadIdx.x;
  if (same || t < 32)
    __syncthreads();
  else
    __syncthreads();
  y[t] = 1;
}

void half_a_shuffle(float* y, bool whole) {
  const unsigned t = threadIdx.x;
  float v = float(t);
  if (whole || t % 2 == 0) v = __shfl_xor_sync(0xffffffffu, v, 2);
  y[t] = v;
}

// A block adds to what another one wrote, without or with the grid barrier in between.
void grid(float* y, uint32_t* arrived, unsigned barrier) {
  const unsigned t = threadIdx.x, b = blockIdx.x;
  y[b * N + t] = float(b);
  __syncthreads();
  if (barrier) {
    GRID_ARRIVES();
    if (t == 0) {
      atomicAdd(arrived, 1);
      // The bug of 2: it waits for one block too few.
      while (load_acquire(arrived) < gridDim.x - (barrier == 2)) SPIN();
    }
    __syncthreads();
    GRID_PASSES();
  }
  const float other = y[(b + 1) % gridDim.x * N + t];
  if (other < 0) y[b * N + t] = other;
}

void never(const uint32_t* flag) {
  while (load_acquire(flag) == 0) SPIN();
}

struct Case {
  const char* name;
  // A part of the report; null where there is nothing to report.
  const char* report;
  void (*run)();
};

float* device(unsigned n, bool read_only = false) {
  float* x = static_cast<float*>(gpu::allocate(n * sizeof(float), read_only));
  memset(x, 0, n * sizeof(float));
  return x;
}

void launch(const char* name, const std::function<void()>& body, unsigned blocks = 1, bool cooperative = false, unsigned seed = 0) {
  gpu::Launch l;
  l.kernel = name;
  l.grid = gpu::Dim3(blocks);
  l.block = gpu::Dim3(N);
  l.dynamic_shared = 4 * N;
  l.cooperative = cooperative;
  l.seed = seed;
  gpu::run(l, body);
}

template <class F> void with_seeds(const char* name, F body) {
  for (unsigned seed = 0; seed < 4; seed++) launch(name, body, 1, false, seed);
}

void mirror_case(bool barrier) {
  float *x = device(N, true), *y = device(N);
  with_seeds("mirror", [=] { mirror(x, y, barrier); });
}
void rounds_case(bool barrier) {
  float* y = device(N);
  with_seeds("rounds", [=] { rounds(y, barrier); });
  for (unsigned i = 0; i < N; i++)
    if (barrier && y[i] != 3) gpu::fail("rounds gave %f", y[i]);
}
void warp_case(bool barrier) {
  float* y = device(N);
  with_seeds("warp_mirror", [=] { warp_mirror(y, barrier); });
  for (unsigned i = 0; i < N; i++)
    if (barrier && y[i] != float(i ^ 1)) gpu::fail("warp_mirror gave %f", y[i]);
}
void grid_case(unsigned barrier, bool cooperative) {
  float* y = device(3 * N);
  for (unsigned seed = 0; seed < 4; seed++) {
    uint32_t* arrived = reinterpret_cast<uint32_t*>(device(1));
    launch("grid", [=] { grid(y, arrived, barrier); }, 3, cooperative, seed);
  }
}
void at_index(int index, bool writes, bool read_only = false) {
  float *x = device(N, read_only), *y = device(N);
  launch("at_index", [=] {
    if (threadIdx.x != 5) return;
    if (writes) x[index] = 1;
    else y[0] = x[index];
  });
}
void shared_at(unsigned index) {
  launch("shared_at", [=] {
    DYNAMIC_SHARED(all);
    reinterpret_cast<float*>(all)[index + threadIdx.x % 1] = 1.0f;
    __syncthreads();
  });
}

const Case CASES[] = {
    {"mirror", nullptr, [] { mirror_case(true); }},
    {"mirror-without-barrier", "shared memory", [] { mirror_case(false); }},
    {"rounds", nullptr, [] { rounds_case(true); }},
    {"rounds-without-second-barrier", "race", [] { rounds_case(false); }},
    {"warp", nullptr, [] { warp_case(true); }},
    {"warp-without-barrier", "shared memory", [] { warp_case(false); }},
    {"whole-block", nullptr, [] { float* y = device(N); with_seeds("divergent", [=] { divergent(y, true); }); }},
    {"half-a-block", "divergent barrier", [] { float* y = device(N); launch("divergent", [=] { divergent(y, false); }); }},
    {"one-place", nullptr, [] { float* y = device(N); with_seeds("two_places", [=] { two_places(y, true); }); }},
    {"two-places", "divergent barrier", [] { float* y = device(N); launch("two_places", [=] { two_places(y, false); }); }},
    {"whole-shuffle", nullptr, [] { float* y = device(N); with_seeds("shuffle", [=] { half_a_shuffle(y, true); }); }},
    {"half-a-shuffle", "divergent barrier", [] { float* y = device(N); launch("shuffle", [=] { half_a_shuffle(y, false); }); }},
    {"grid-barrier", nullptr, [] { grid_case(1, true); }},
    {"grid-without-barrier", "race", [] { grid_case(0, true); }},
    {"grid-barrier-too-early", "was passed when", [] { grid_case(2, true); }},
    {"grid-barrier-not-cooperative", "launched as cooperative", [] { grid_case(1, false); }},
    {"never", "waits without end",
     [] { uint32_t* f = reinterpret_cast<uint32_t*>(device(1)); launch("never", [=] { never(f); }, 1, true); }},
    {"last-value", nullptr, [] { at_index(N - 1, true); }},
    {"one-behind", "out of bounds", [] { at_index(N, true); }},
    {"reads-one-behind", "out of bounds", [] { at_index(N, false); }},
    {"one-before", "out of bounds", [] { at_index(-1, true); }},
    {"far-behind", "out of bounds", [] { at_index(300000, false); }},
    {"reads-read-only", nullptr, [] { at_index(0, false, true); }},
    {"writes-read-only", "read-only", [] { at_index(0, true, true); }},
    {"null", "no device memory", [] { launch("null", [] { *reinterpret_cast<volatile float*>(uintptr_t(threadIdx.x) * 4) = 1; }); }},
    {"after-release", "after its release", [] {
       float* x = device(N);
       gpu::release(x);
       launch("release", [=] { x[0] = 1; });
     }},
    {"misaligned", "misaligned", [] { float* x = device(N); launch("misaligned", [=] { load16(x + 1); }); }},
    {"aligned", nullptr, [] { float* x = device(N); launch("aligned", [=] { load16(x + 4); }); }},
    {"shared-in-bounds", nullptr, [] {
       launch("shared", [] {
         DYNAMIC_SHARED(all);
         reinterpret_cast<float*>(all)[threadIdx.x] = 1.0f;
         __syncthreads();
       });
     }},
    {"shared-one-behind", "out of bounds", [] { shared_at(N); }},
    {"shared-not-written", "nobody wrote", [] {
       float* y = device(N);
       launch("shared", [=] { DYNAMIC_SHARED(all); y[threadIdx.x] = reinterpret_cast<float*>(all)[threadIdx.x]; });
     }},
};

}  // namespace

int main(int argc, char** argv) {
  for (const Case& c : CASES) {
    if (argc == 2 && strcmp(argv[1], "list") == 0) printf("%s\t%s\n", c.name, c.report ? c.report : "");
    if (argc == 2 && strcmp(argv[1], c.name) == 0) {
      c.run();
      return 0;
    }
  }
  return argc == 2 && strcmp(argv[1], "list") == 0 ? 0 : 2;
}
