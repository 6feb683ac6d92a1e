// Device buffers with guard pages around them, and who touched which byte.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "machine.hpp"

namespace gpu {
namespace {

// Every buffer begins at a piece of its own and leaves the next one empty, so that a look at the address names the buffer.
constexpr size_t PIECE = 1 << 20;
constexpr size_t PIECES = 1 << 15;
constexpr size_t PAGE = 4096;
// What lies behind the end of a buffer up to the end of its page.
constexpr unsigned char FILL = 0xc5;

struct Buffer {
  unsigned char* start;
  size_t bytes;
  bool read_only, live;
  std::vector<Cell> cells;
  bool touched;
};

unsigned char* arena = nullptr;
std::vector<Buffer> buffers;
// Number of the buffer that has this piece, plus 1.
uint32_t owner[PIECES];
size_t next_piece = 1;

void on_fault(int, siginfo_t* info, void*) {
  uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
  uintptr_t base = reinterpret_cast<uintptr_t>(arena);
  if (arena && address - base < PIECE * PIECES) fail("out of bounds: access to the guard pages at %p", info->si_addr);
  fail("access to %p, which is no device memory", info->si_addr);
}

void open_arena() {
  void* room = mmap(nullptr, PIECE * PIECES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) fail("no address space for device memory");
  arena = static_cast<unsigned char*>(room);
  static char stack[64 << 10];
  stack_t alternative{};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof stack;
  sigaltstack(&alternative, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

size_t pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

// Stamps: number of the block, of the thread, barriers of the grid, the block and the warp.
constexpr unsigned THREAD_BITS = 10, GRID_BITS = 10, BLOCK_BITS = 14, WARP_BITS = 14;

struct When {
  unsigned block, thread, grids, blocks, warps;
};

When when(Stamp stamp) {
  uint64_t bits = stamp.bits;
  auto take = [&](unsigned n) {
    unsigned value = bits & ((1u << n) - 1);
    bits >>= n;
    return value;
  };
  When w{};
  w.warps = take(WARP_BITS);
  w.blocks = take(BLOCK_BITS);
  w.grids = take(GRID_BITS);
  w.thread = take(THREAD_BITS);
  w.block = unsigned(bits);
  return w;
}

// Whether what was stamped before surely happened before `now`.
bool before(Stamp then, const When& now) {
  if (then.none()) return true;
  const When w = when(then);
  if (w.block != now.block) return w.grids < now.grids;
  if (w.thread == now.thread || w.blocks < now.blocks || w.grids < now.grids) return true;
  return w.thread / WARP == now.thread / WARP && w.warps < now.warps;
}

[[noreturn]] void report_race(const char* where, size_t offset, const char* did, Stamp then, bool writes) {
  const When w = when(then);
  fail("race: %s byte %zu of %s, which block %u, thread %u %s, with no barrier in between", writes ? "writes" : "reads", offset,
       where, w.block, w.thread, did);
}

void touch(Cell& cell, const Stamp now_stamp, const When& now, bool writes, const char* where, size_t offset) {
  if (!before(cell.writer, now)) report_race(where, offset, "wrote", cell.writer, writes);
  if (writes) {
    if (!before(cell.reader, now)) report_race(where, offset, "read", cell.reader, writes);
    if (!before(cell.other_reader, now)) report_race(where, offset, "read", cell.other_reader, writes);
    cell.writer = now_stamp;
    cell.reader = cell.other_reader = Stamp();
  } else {
    // Two readers are kept, of different threads where there are such: a writer is at most one of them.
    if (!cell.reader.none() && when(cell.reader).thread != now.thread) cell.other_reader = cell.reader;
    cell.reader = now_stamp;
  }
}

void check_shared(Block& block, size_t at, size_t bytes, bool writes, bool atomic) {
  const SharedArray* array = nullptr;
  for (const SharedArray& a : block.arrays)
    if (at >= a.start && at + bytes <= a.start + a.bytes) array = &a;
  if (!array) fail("out of bounds: %zu bytes at byte %zu of shared memory are in no array", bytes, at);
  if (atomic) {
    for (size_t i = at; i < at + bytes; i++) block.cells[i].writer = block.cells[i].writer.none() ? stamp(*self) : block.cells[i].writer;
    return;
  }
  const Stamp now_stamp = stamp(*self);
  const When now = when(now_stamp);
  for (size_t i = at; i < at + bytes; i++) {
    Cell& cell = block.cells[i];
    if (!writes && cell.writer.none()) fail("reads byte %zu of shared memory, which nobody wrote", i);
    touch(cell, now_stamp, now, writes, "shared memory", i);
  }
}

}  // namespace

Stamp stamp(const Thread& t) {
  uint64_t bits = t.block->number;
  auto put = [&](uint64_t value, unsigned n) { bits = bits << n | (value & ((1u << n) - 1)); };
  put(t.number, THREAD_BITS);
  put(t.grids, GRID_BITS);
  put(t.blocks, BLOCK_BITS);
  put(t.warps, WARP_BITS);
  return Stamp{bits};
}

void* allocate(size_t bytes, bool read_only) {
  if (!arena) open_arena();
  const size_t mapped = std::max(pages(bytes), PAGE), taken = (mapped + PIECE - 1) / PIECE;
  if (next_piece + taken + 1 > PIECES) fail("out of device memory: %zu bytes asked for", bytes);
  unsigned char* start = arena + next_piece * PIECE;
  if (mprotect(start, mapped, PROT_READ | PROT_WRITE) != 0) fail("out of memory: %zu bytes asked for", bytes);
  memset(start, FILL, mapped);
  buffers.push_back({start, bytes, read_only, true, {}, false});
  for (size_t i = 0; i < taken; i++) owner[next_piece + i] = buffers.size();
  next_piece += taken + 1;
  return start;
}

void release(void* start) {
  for (Buffer& b : buffers)
    if (b.live && b.start == start) {
      b.live = false;
      std::vector<Cell>().swap(b.cells);
      munmap(b.start, std::max(pages(b.bytes), PAGE));
      mmap(b.start, std::max(pages(b.bytes), PAGE), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
      return;
    }
  fail("release of %p, which is no buffer", start);
}

void begin_launch() {
  if (!arena) open_arena();
  for (Buffer& b : buffers)
    if (b.touched) {
      std::fill(b.cells.begin(), b.cells.end(), Cell());
      b.touched = false;
    }
}

void end_launch() {
  for (const Buffer& b : buffers) {
    if (!b.live) continue;
    for (size_t i = b.bytes; i < pages(b.bytes); i++)
      if (b.start[i] != FILL) fail("out of bounds: wrote behind the end of a buffer of %zu bytes, at byte %zu", b.bytes, i);
  }
}

void reset_shared(Block& block) {
  block.cells.assign(block.memory.size(), Cell());
  // Whatever the last block left is not what this one reads: a NaN where it reads floats.
  std::fill(block.memory.begin(), block.memory.end(), 0xff);
}

void check_access(uintptr_t address, size_t bytes, bool writes, bool atomic) {
  if (!self) return;
  const uintptr_t in_arena = address - reinterpret_cast<uintptr_t>(arena);
  const bool is_device = arena && in_arena < PIECE * PIECES;
  Block& block = *self->block;
  const uintptr_t in_shared = address - reinterpret_cast<uintptr_t>(block.memory.data());
  if (!is_device && in_shared >= block.memory.size()) return;
  if (bytes <= 16 && (bytes & (bytes - 1)) == 0 && address % bytes != 0)
    fail("misaligned: an access of %zu bytes at %#zx, %zu bytes past a multiple", bytes, size_t(address), size_t(address % bytes));
  if (!is_device) return check_shared(block, in_shared, bytes, writes, atomic);
  const uint32_t number = owner[in_arena / PIECE];
  if (number == 0) fail("out of bounds: %zu bytes at %#zx are in no buffer", bytes, size_t(address));
  Buffer& b = buffers[number - 1];
  const size_t at = address - reinterpret_cast<uintptr_t>(b.start);
  if (!b.live) fail("use of a buffer of %zu bytes after its release", b.bytes);
  if (at + bytes > b.bytes)
    fail("out of bounds: %s %zu bytes at byte %zu of a buffer of %zu", writes ? "writes" : "reads", bytes, at, b.bytes);
  if (b.read_only) {
    if (writes) fail("writes to a read-only buffer of %zu bytes, at byte %zu", b.bytes, at);
    return;
  }
  if (atomic) return;
  if (b.cells.empty()) b.cells.resize(b.bytes);
  b.touched = true;
  const Stamp now_stamp = stamp(*self);
  const When now = when(now_stamp);
  for (size_t i = at; i < at + bytes; i++) touch(b.cells[i], now_stamp, now, writes, "a device buffer", i);
}

}  // namespace gpu

// What `-fsanitize=thread` calls before each access.
extern "C" {
#define ACCESS(n)                                                                                              \
  void __tsan_read##n(void* p) { gpu::check_access(uintptr_t(p), n, false, false); }                            \
  void __tsan_write##n(void* p) { gpu::check_access(uintptr_t(p), n, true, false); }                            \
  void __tsan_unaligned_read##n(void* p) { for (int i = 0; i < n; i++) gpu::check_access(uintptr_t(p) + i, 1, false, false); } \
  void __tsan_unaligned_write##n(void* p) { for (int i = 0; i < n; i++) gpu::check_access(uintptr_t(p) + i, 1, true, false); } \
  void __tsan_volatile_read##n(void* p) { gpu::check_access(uintptr_t(p), n, false, true); }                    \
  void __tsan_volatile_write##n(void* p) { gpu::check_access(uintptr_t(p), n, true, true); }                    \
  void __tsan_unaligned_volatile_read##n(void*) {}                                                             \
  void __tsan_unaligned_volatile_write##n(void*) {}
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* p, unsigned long n) {
  for (unsigned long i = 0; i < n; i++) gpu::check_access(uintptr_t(p) + i, 1, false, false);
}
void __tsan_write_range(void* p, unsigned long n) {
  for (unsigned long i = 0; i < n; i++) gpu::check_access(uintptr_t(p) + i, 1, true, false);
}
void* __tsan_memcpy(void* to, const void* from, size_t n) {
  __tsan_read_range(const_cast<void*>(from), n);
  __tsan_write_range(to, n);
  return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
  __tsan_read_range(const_cast<void*>(from), n);
  __tsan_write_range(to, n);
  return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
  __tsan_write_range(to, n);
  return memset(to, value, n);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
