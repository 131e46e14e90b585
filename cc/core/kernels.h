// The kernels of one instruction set: what separate.cc shares out among threads.

#ifndef SEPARATIONFACTOR_CORE_KERNELS_H_
#define SEPARATIONFACTOR_CORE_KERNELS_H_

#include <cstdint>

#include "core/separate.h"

namespace separationfactor {

// The caller has set flush-to-zero and denormals-are-zero: comparisons lean on the mode.
struct Kernels {
  // Both work on the rows [begin, end). `scratch` has ScratchBytes(args) bytes, aligned as malloc aligns.
  void (*separate)(const SeparateArgs& args, int64_t begin, int64_t end, void* scratch);
  void (*scale)(const ScaleSelectedArgs& args, int64_t begin, int64_t end);
};

// What a thread needs besides the stack: one row, and what whole vectors write past its end.
constexpr int64_t kScratchSlack = 256;
constexpr int64_t ElementBytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }
constexpr int64_t ScratchBytes(const SeparateArgs& args) { return args.n * ElementBytes(args.dtype) + kScratchSlack; }

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_KERNELS_H_
