// Runs blocks of fibers and finds barriers that do not meet.
#include "machine.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "fiber.hpp"

namespace gpu {

Thread* self = nullptr;
Launch current;

namespace {

constexpr size_t STACK = 64 << 10;
// Shared memory of a block: what a Hopper block can have.
constexpr size_t SHARED_LIMIT = 227 << 10;
// Gap between shared arrays, so that one's end is not the next one's start.
constexpr size_t SHARED_GAP = 64;
// Rounds in which every thread of the launch only waits for a change before this is called a wait without end.
constexpr unsigned PATIENCE = 10000;

void* scheduler = nullptr;
const std::function<void()>* body = nullptr;
unsigned grid_threads = 0;
std::vector<unsigned> grid_arrivals;

// Stacks are kept from launch to launch: the pages stay mapped.
char* stack_of(unsigned i) {
  static std::vector<char*> stacks;
  while (stacks.size() <= i) {
    void* room = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) fail("no memory for the stack of thread %u", i);
    // The lowest page is a guard.
    mprotect(room, 4096, PROT_NONE);
    stacks.push_back(static_cast<char*>(room));
  }
  return stacks[i];
}

void entry() {
  (*body)();
  self->state = State::Done;
  gpu_switch(&self->stack_pointer, scheduler);
  abort();
}

void wait(State state, const char* what, int line) {
  Thread* me = self;
  me->state = state;
  me->what = what;
  me->line = line;
  gpu_switch(&me->stack_pointer, scheduler);
}

struct Random {
  uint32_t state;
  unsigned below(unsigned n) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % n;
  }
};

void shuffle(std::vector<unsigned>& order, unsigned seed) {
  for (unsigned i = 0; i < order.size(); i++) order[i] = i;
  if (seed == 0) return;
  Random random{seed * 2654435761u};
  for (unsigned i = order.size(); i > 1; i--) std::swap(order[i - 1], order[random.below(i)]);
}

void start(Block& block, unsigned number, unsigned stacks_from) {
  const Dim3 g = current.grid, b = current.block;
  block.number = number;
  block.index = Dim3(number % g.x, number / g.x % g.y, number / (g.x * g.y));
  block.threads.assign(b.count(), Thread());
  block.order.resize(b.count());
  shuffle(block.order, current.seed ? current.seed + number : 0);
  block.arrays.clear();
  // The array that the launch sizes comes first.
  block.memory.resize(SHARED_LIMIT);
  block.arrays.push_back({nullptr, 0, current.dynamic_shared});
  reset_shared(block);
  for (unsigned i = 0; i < block.threads.size(); i++) {
    Thread& t = block.threads[i];
    t.block = &block;
    t.number = i;
    t.index = Dim3(i % b.x, i / b.x % b.y, i / (b.x * b.y));
    t.stack_pointer = new_stack(stack_of(stacks_from + i) + STACK, entry);
  }
}

void resume(Thread& t) {
  self = &t;
  t.state = State::Run;
  gpu_switch(&scheduler, t.stack_pointer);
  self = nullptr;
}

// Whether all of threads `from..to` wait in `state`; if so they run again. Reports if they wait at different places.
bool meet(Block& block, unsigned from, unsigned to, State state) {
  Thread& first = block.threads[from];
  for (unsigned i = from; i < to; i++)
    if (block.threads[i].state != state) return false;
  for (unsigned i = from; i < to; i++) {
    Thread& t = block.threads[i];
    if (t.line != first.line || strcmp(t.what, first.what) != 0) {
      self = &t;
      fail("divergent barrier: this thread waits at %s in line %d, thread %u at %s in line %d", t.what, t.line, first.number,
           first.what, first.line);
    }
  }
  for (unsigned i = from; i < to; i++) block.threads[i].state = State::Run;
  return true;
}

const char* name(State state) {
  switch (state) {
    case State::Run: return "runs";
    case State::Spin: return "waits for a change";
    case State::Warp: return "waits for its warp";
    case State::Block: return "waits for its block";
    case State::Done: return "has ended";
  }
  return "";
}

// Nothing can go on in this block: says who waits for whom.
void report_stuck(Block& block) {
  for (Thread& t : block.threads) {
    if (t.state == State::Done || t.state == State::Spin) continue;
    for (Thread& u : block.threads) {
      bool same_warp = t.number / WARP == u.number / WARP;
      if (u.state == t.state || (t.state == State::Warp && !same_warp)) continue;
      self = &t;
      fail("divergent barrier: this thread waits at %s in line %d, but thread %u %s%s%s", t.what, t.line, u.number, name(u.state),
           u.state == State::Done ? "" : " at ", u.state == State::Done ? "" : u.what);
    }
  }
}

// Runs the block until each of its threads waits for another block or has ended. Returns whether anything but waiting happened.
bool advance(Block& block, bool& done) {
  bool progress = false;
  for (;;) {
    bool again = false;
    for (unsigned i : block.order) {
      Thread& t = block.threads[i];
      if (t.state != State::Run) continue;
      resume(t);
      again = true;
    }
    for (unsigned w = 0; w < block.threads.size(); w += WARP) again |= meet(block, w, w + WARP, State::Warp);
    again |= meet(block, 0, block.threads.size(), State::Block);
    progress |= again;
    if (!again) break;
  }
  bool spins = false;
  done = true;
  for (Thread& t : block.threads) {
    done &= t.state == State::Done;
    spins |= t.state == State::Spin;
  }
  if (!done && !spins) report_stuck(block);
  return progress;
}

// Those that wait for a change look again. Returns whether one of them saw it.
bool look_again(Block& block) {
  bool progress = false;
  for (unsigned i : block.order) {
    Thread& t = block.threads[i];
    if (t.state != State::Spin) continue;
    resume(t);
    progress |= t.state != State::Spin;
  }
  return progress;
}

void run_together(std::vector<std::unique_ptr<Block>>& blocks) {
  std::vector<unsigned> order(blocks.size());
  shuffle(order, current.seed);
  unsigned waited = 0;
  for (;;) {
    bool all = true, progress = false;
    for (unsigned i : order) {
      bool done = false;
      progress |= look_again(*blocks[i]);
      progress |= advance(*blocks[i], done);
      all &= done;
    }
    if (all) return;
    waited = progress ? 0 : waited + 1;
    if (waited > PATIENCE) {
      for (auto& block : blocks)
        for (Thread& t : block->threads)
          if (t.state == State::Spin) {
            self = &t;
            fail("waits without end in line %d: nothing that could change what it waits for runs%s", t.line,
                 current.cooperative ? "" : "; was this launched as cooperative?");
          }
    }
  }
}

}  // namespace

void run(const Launch& launch, const std::function<void()>& work) {
  const unsigned threads = launch.block.count();
  current = launch;
  if (threads == 0 || threads > MAX_THREADS || threads % WARP != 0)
    fail("a block of %u threads: whole warps of %u, at most %u threads", threads, WARP, MAX_THREADS);
  if (launch.dynamic_shared > SHARED_LIMIT) fail("%zu bytes of shared memory asked for", launch.dynamic_shared);
  body = &work;
  const unsigned blocks = launch.grid.count();
  grid_threads = blocks * threads;
  grid_arrivals.assign(1, 0);
  begin_launch();
  static std::vector<std::unique_ptr<Block>> kept;
  std::vector<std::unique_ptr<Block>> together;
  const unsigned at_once = launch.cooperative ? blocks : 1;
  std::vector<unsigned> order(blocks);
  shuffle(order, launch.seed);
  for (unsigned first = 0; first < blocks; first += at_once) {
    for (unsigned i = 0; i < at_once; i++) {
      if (kept.empty()) kept.push_back(std::make_unique<Block>());
      together.push_back(std::move(kept.back()));
      kept.pop_back();
      start(*together.back(), launch.cooperative ? i : order[first], i * threads);
    }
    run_together(together);
    for (auto& block : together) kept.push_back(std::move(block));
    together.clear();
  }
  end_launch();
}

void fail(const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  fflush(stdout);
  fprintf(stderr, "gpu: %s: ", current.kernel);
  if (self) {
    const Dim3 b = self->block->index, t = self->index;
    fprintf(stderr, "block (%u, %u, %u), thread (%u, %u, %u): ", b.x, b.y, b.z, t.x, t.y, t.z);
  }
  fprintf(stderr, "%s\n", text);
  fflush(stderr);
  _Exit(3);
}

void barrier_block(int line) {
  wait(State::Block, "__syncthreads", line);
  self->blocks++;
}

void barrier_warp(int line) {
  wait(State::Warp, "__syncwarp", line);
  self->warps++;
}

void spin(int line) { wait(State::Spin, "a loop", line); }

void grid_arrives() {
  unsigned next = self->grids + 1;
  if (grid_arrivals.size() <= next) grid_arrivals.resize(next + 1, 0);
  grid_arrivals[next]++;
}

void grid_passes() {
  unsigned arrived = grid_arrivals[++self->grids];
  if (arrived != grid_threads)
    fail("grid barrier %u was passed when %u of %u threads had arrived", self->grids, arrived, grid_threads);
}

const unsigned char* exchange(const void* value, size_t bytes, const char* what, int line) {
  Thread* me = self;
  auto& slots = me->block->slots[me->exchanges++ % 2];
  memcpy(slots[me->number], value, bytes);
  // Two sets of slots, because nobody writes to one again before all of the warp have met once more.
  wait(State::Warp, what, line);
  return slots[me->number / WARP * WARP];
}

void* shared_static(const void* site, size_t bytes, size_t align) {
  Block& block = *self->block;
  for (const SharedArray& a : block.arrays)
    if (a.site == site) return block.memory.data() + a.start;
  const SharedArray& last = block.arrays.back();
  size_t start = (last.start + last.bytes + SHARED_GAP + align - 1) / align * align;
  if (start + bytes > SHARED_LIMIT) fail("more than %zu bytes of shared memory", SHARED_LIMIT);
  block.arrays.push_back({site, start, bytes});
  return block.memory.data() + start;
}

void* shared_dynamic(size_t) { return self->block->memory.data(); }

}  // namespace gpu
