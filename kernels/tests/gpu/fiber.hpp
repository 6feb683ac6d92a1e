// The switch from one stack to another.
#pragma once
#include <cstdint>
#include <cstring>

// Saves the registers that a call must keep on this stack, its pointer in `*from`, and goes on where `to` was saved.
extern "C" void gpu_switch(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.globl gpu_switch
.type gpu_switch,@function
gpu_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size gpu_switch,.-gpu_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl gpu_switch
.type gpu_switch,%function
gpu_switch:
  sub sp,sp,#160
  stp x19,x20,[sp]
  stp x21,x22,[sp,#16]
  stp x23,x24,[sp,#32]
  stp x25,x26,[sp,#48]
  stp x27,x28,[sp,#64]
  stp x29,x30,[sp,#80]
  stp d8,d9,[sp,#96]
  stp d10,d11,[sp,#112]
  stp d12,d13,[sp,#128]
  stp d14,d15,[sp,#144]
  mov x9,sp
  str x9,[x0]
  mov sp,x1
  ldp x19,x20,[sp]
  ldp x21,x22,[sp,#16]
  ldp x23,x24,[sp,#32]
  ldp x25,x26,[sp,#48]
  ldp x27,x28,[sp,#64]
  ldp x29,x30,[sp,#80]
  ldp d8,d9,[sp,#96]
  ldp d10,d11,[sp,#112]
  ldp d12,d13,[sp,#128]
  ldp d14,d15,[sp,#144]
  add sp,sp,#160
  ret
.size gpu_switch,.-gpu_switch
)");
#else
#error "the GPU emulator switches stacks on x86_64 and aarch64 only"
#endif

namespace gpu {

// What to switch to so that `entry` starts on the stack that ends at `top`. `entry` must not return.
inline void* new_stack(char* top, void (*entry)()) {
  uintptr_t* at = reinterpret_cast<uintptr_t*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(15));
#if defined(__x86_64__)
  // The return address of `entry`, which makes the stack as aligned as a call does, then `entry`, then six registers.
  *--at = 0;
  *--at = reinterpret_cast<uintptr_t>(entry);
  at -= 6;
  memset(at, 0, 6 * sizeof *at);
#else
  at -= 20;
  memset(at, 0, 20 * sizeof *at);
  at[11] = reinterpret_cast<uintptr_t>(entry);
#endif
  return at;
}

}  // namespace gpu
