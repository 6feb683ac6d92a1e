// All kernels in one file, as nvcc, NVRTC and the emulator of the tests compile them.
#include "ops.cu"
#include "products.cu"
#include "head.cu"
#include "decode.cu"
