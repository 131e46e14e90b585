// The kernels of one instruction set: what separate.cc shares out among threads.

#ifndef SEPARATIONFACTOR_CORE_CPU_KERNELS_H_
#define SEPARATIONFACTOR_CORE_CPU_KERNELS_H_

#include <cstdint>

#include "core/separate.h"

namespace separationfactor {

// The parts of one row that threads share. A plain struct, as kernels may not use std::function: see simd-inl.h.
struct Segments {
  static constexpr int64_t kMaxCount = 128;
  static constexpr int64_t kGranularity = 4096;  // a length is a multiple of this

  int64_t count;
  int64_t length;  // the last segment may be shorter
  void* pool;
  // Calls work(context, segment) for all segments, perhaps at the same time, and returns when all are done.
  void (*run)(void* pool, void (*work)(void* context, int64_t segment), void* context);
};

// The caller has set flush-to-zero and denormals-are-zero: comparisons lean on the mode.
struct Kernels {
  // For the rows [begin, end). `scratch` has ScratchBytes(args) bytes, aligned as malloc aligns.
  void (*separate)(const SeparateArgs& args, int64_t begin, int64_t end, void* scratch);
  // For one row, in segments; `scratch` has kScratchSlack more for each.
  void (*separate_split)(const SeparateArgs& args, int64_t row, const Segments& segments, void* scratch);
  // For the rows [begin, end).
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

#endif  // SEPARATIONFACTOR_CORE_CPU_KERNELS_H_
