// The kernels of `src/cuda` on the machine of `machine.hpp`, driven through standard input and output.
//
// A command is a letter and its arguments, integers as 8 bytes little endian:
//
//   A bytes read_only           allocates; answers the address
//   F address                   releases
//   W address bytes, data       writes
//   R address bytes             answers the data
//   L name grid block shared cooperative seed count, sizes and bytes of the arguments
//                               runs a kernel; answers 1. `name` is a length and the letters, `grid` and `block` three integers each
//
// A report of the machine ends the process.
#include <cstdio>
#include <string>
#include <tuple>

#include "../../src/cuda/kernels.cu"

namespace {

using Bytes = std::vector<unsigned char>;

struct Kernel {
  const char* name;
  std::function<void()> (*bind)(const std::vector<Bytes>& args);
};

// Turns bytes into the parameters that the function is declared with; a wrong number or size is an error.
template <auto F> struct Binder;
template <class... A, void (*F)(A...)> struct Binder<F> {
  static std::function<void()> bind(const std::vector<Bytes>& args) {
    if (args.size() != sizeof...(A)) gpu::fail("%zu arguments given, the kernel takes %zu", args.size(), sizeof...(A));
    const size_t sizes[] = {sizeof(A)...};
    for (size_t i = 0; i < args.size(); i++)
      if (args[i].size() != sizes[i]) gpu::fail("argument %zu has %zu bytes, the kernel takes %zu", i, args[i].size(), sizes[i]);
    std::tuple<A...> values;
    size_t i = 0;
    std::apply([&](A&... value) { (memcpy(static_cast<void*>(&value), args[i++].data(), sizeof value), ...); }, values);
    return [values] { std::apply(F, values); };
  }
};

#define KERNEL(name) {#name, Binder<name>::bind}
const Kernel KERNELS[] = {
    KERNEL(skim_quantize),         KERNEL(skim_rms_norm),          KERNEL(skim_silu_mul),         KERNEL(skim_rope_append),
    KERNEL(skim_attention_64),     KERNEL(skim_attention_128),     KERNEL(skim_attention_256),    KERNEL(skim_attention_64_few),
    KERNEL(skim_attention_128_few), KERNEL(skim_attention_merge),  KERNEL(skim_embed),            KERNEL(skim_gate),
    KERNEL(skim_gelu),             KERNEL(skim_layer_norm),        KERNEL(skim_gemv),             KERNEL(skim_gemv_gated),
    KERNEL(skim_gemv_float),       KERNEL(skim_gemm),              KERNEL(skim_gemm_mma),         KERNEL(skim_argmax),
    KERNEL(skim_top_k_pieces),     KERNEL(skim_top_k),             KERNEL(skim_decode_64),        KERNEL(skim_decode_128),
    KERNEL(skim_decode_256),
};

void read_exactly(void* to, size_t bytes) {
  if (bytes != 0 && fread(to, 1, bytes, stdin) != bytes) gpu::fail("the commands end in the middle of one");
}
uint64_t number() {
  uint64_t value;
  read_exactly(&value, sizeof value);
  return value;
}
void answer(const void* from, size_t bytes) {
  fwrite(from, 1, bytes, stdout);
  fflush(stdout);
}
gpu::Dim3 dimensions() {
  const uint64_t x = number(), y = number(), z = number();
  return gpu::Dim3(x, y, z);
}

void launch() {
  std::string name(number(), ' ');
  read_exactly(name.data(), name.size());
  gpu::Launch l;
  l.kernel = name.c_str();
  l.grid = dimensions();
  l.block = dimensions();
  l.dynamic_shared = number();
  l.cooperative = number();
  l.seed = number();
  std::vector<Bytes> args(number());
  for (Bytes& arg : args) {
    arg.resize(number());
    read_exactly(arg.data(), arg.size());
  }
  gpu::current = l;
  for (const Kernel& kernel : KERNELS)
    if (name == kernel.name) {
      gpu::run(l, kernel.bind(args));
      const unsigned char done = 1;
      return answer(&done, 1);
    }
  gpu::fail("no such kernel");
}

}  // namespace

int main() {
  for (int command; (command = getchar()) != EOF;) {
    switch (command) {
      case 'A': {
        const uint64_t bytes = number(), read_only = number();
        const uint64_t address = reinterpret_cast<uint64_t>(gpu::allocate(bytes, read_only != 0));
        answer(&address, sizeof address);
        break;
      }
      case 'F': gpu::release(reinterpret_cast<void*>(number())); break;
      case 'W': {
        const uint64_t address = number(), bytes = number();
        read_exactly(reinterpret_cast<void*>(address), bytes);
        break;
      }
      case 'R': {
        const uint64_t address = number(), bytes = number();
        answer(reinterpret_cast<void*>(address), bytes);
        break;
      }
      case 'L': launch(); break;
      default: gpu::fail("no such command: %d", command);
    }
  }
}
