// The AVX-512 kernels for a processor that has AVX2 alone; <immintrin.h> is the one beside this file.

#include <cstring>

#include "core/cpu/kernels_avx512.cc"

// What picks the kernels is told that the processor has AVX-512. (A macro is not expanded in its own expansion.)
#define __builtin_cpu_supports(feature) (std::strncmp(feature, "avx512", 6) == 0 || __builtin_cpu_supports(feature))
#include "core/cpu/instruction_set.cc"
