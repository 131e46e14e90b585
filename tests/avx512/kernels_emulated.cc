// The AVX-512 kernels for a CPU with AVX2. <immintrin.h> is the emulation in this folder.

#include <cstring>

#include "core/cpu/kernels_avx512.cc"

// Makes instruction_set.cc believe that the CPU has AVX-512. (A macro is not expanded within its own expansion.)
#define __builtin_cpu_supports(feature) (std::strncmp(feature, "avx512", 6) == 0 || __builtin_cpu_supports(feature))
#include "core/cpu/instruction_set.cc"
