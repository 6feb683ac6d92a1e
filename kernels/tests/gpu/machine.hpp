// A GPU in one thread of the CPU: every GPU thread is a fiber, every barrier and warp operation a switch to another fiber.
//
// Runs kernels compiled as C++ (`dialect.hpp` gives them CUDA's words) and ends the process with code 3 and a message that names
// kernel, block and thread for
//
//   - barriers and warp operations that not all threads reach, or reach at different places of the source;
//   - two threads that touch the same bytes of shared or device memory, one writing, with no barrier in between;
//   - an access outside of a device buffer or of a shared array, a write to a read-only buffer, a misaligned access;
//   - a read of shared memory that nobody wrote;
//   - a grid barrier that lets a block through early, and a wait that never ends.
//
// The memory checks see every load and store of the kernels, because those are compiled with `-fsanitize=thread`: the compiler then
// calls `__tsan_read4(address)` and its like before each access. Here these calls are ours (`memory.cpp`); the sanitizer's own
// library is not linked. A build without the flag still has the guard pages and the filled ends of buffers, checked after a launch.
//
// What it does not show: speed, the register file, caches, the order in which a real device lets other threads see writes, and
// arithmetic where the device rounds otherwise than C (`rsqrtf`, `__expf`, contraction to FMA).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace gpu {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
// Bytes one lane can hand to its warp in one exchange: the fragments of a matrix multiply.
constexpr unsigned SLOT = 32;

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  Dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  unsigned count() const { return x * y * z; }
};

enum class State { Run, Spin, Warp, Block, Done };

struct Block;

struct Thread {
  void* stack_pointer = nullptr;
  Block* block = nullptr;
  State state = State::Run;
  Dim3 index;
  unsigned number = 0;
  // Where it waits, and what for.
  const char* what = "";
  int line = 0;
  // Barriers passed: of the block, of the warp, of the grid.
  unsigned blocks = 0, warps = 0, grids = 0;
  unsigned exchanges = 0;
};

// A who and when, small enough to keep for every byte.
struct Stamp {
  uint64_t bits = ~uint64_t(0);
  bool none() const { return bits == ~uint64_t(0); }
};

// Who touched a byte last.
struct Cell {
  Stamp writer, reader, other_reader;
};

// An array in the shared memory of a block.
struct SharedArray {
  const void* site;
  size_t start, bytes;
};

struct Block {
  Dim3 index;
  unsigned number = 0;
  std::vector<Thread> threads;
  std::vector<unsigned> order;
  std::vector<unsigned char> memory;
  std::vector<Cell> cells;
  std::vector<SharedArray> arrays;
  unsigned char slots[2][MAX_THREADS][SLOT];
};

struct Launch {
  const char* kernel = "";
  Dim3 grid, block;
  size_t dynamic_shared = 0;
  // All blocks at once, as a grid barrier needs them.
  bool cooperative = false;
  // Order in which blocks and threads run; 0 is ascending.
  unsigned seed = 0;
};

// Runs `body` as every thread of the launch.
void run(const Launch& launch, const std::function<void()>& body);

// Reports and ends the process with code 3.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The thread that runs now; null between launches.
extern Thread* self;
extern Launch current;

void barrier_block(int line);
void barrier_warp(int line);
// Lets others run, and is run again whether or not anything changed.
void spin(int line);
// Marks the way into and out of a barrier of the whole grid that the kernel builds itself.
void grid_arrives();
void grid_passes();

// Hands `bytes` bytes to the other lanes and returns the slots of the warp, SLOT bytes per lane.
const unsigned char* exchange(const void* value, size_t bytes, const char* what, int line);

void* shared_static(const void* site, size_t bytes, size_t align);
void* shared_dynamic(size_t align);

// memory.cpp
void* allocate(size_t bytes, bool read_only);
void release(void* start);
// Makes what the host wrote so far old news for the race check, and what was there before the launch is read-only again.
void begin_launch();
void end_launch();
void reset_shared(Block& block);
void check_access(uintptr_t address, size_t bytes, bool writes, bool atomic);
Stamp stamp(const Thread& thread);

}  // namespace gpu
