// Makes instruction_set.cc believe that the CPU has AVX-512. (A macro is not expanded within its own expansion.)

#include <cstring>

#define __builtin_cpu_supports(feature) (std::strncmp(feature, "avx512", 6) == 0 || __builtin_cpu_supports(feature))
#include "core/cpu/instruction_set.cc"
