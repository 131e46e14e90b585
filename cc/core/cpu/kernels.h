// The kernels of one instruction set and one dtype. separate.cc splits the rows among threads and calls them.

#ifndef SEPARATIONFACTOR_CORE_CPU_KERNELS_H_
#define SEPARATIONFACTOR_CORE_CPU_KERNELS_H_

#include <cstdint>

#include "core/cpu/path.h"
#include "core/separate.h"
#include "core/types.h"

namespace separationfactor {

enum class InstructionSet;  // instruction_set.h, which uses the standard library

// The segments of one row, which threads process in parallel. `run` is a function pointer because kernels may not use
// std::function: see simd-inl.h.
struct Segments {
  static constexpr int64_t kMaxCount = 128;
  static constexpr int64_t kGranularity = 4096;  // `length` is a multiple of this

  int64_t count;
  int64_t length;  // the last segment may be shorter
  void* pool;
  // Calls work(context, segment) for all segments, possibly in parallel, and returns when all calls have returned.
  void (*run)(void* pool, void (*work)(void* context, int64_t segment), void* context);
};

// The caller sets flush-to-zero and denormals-are-zero, which the comparisons rely on. The dtype of the arguments must
// be that of the kernels.
struct Kernels {
  // Separates the rows [begin, end). Scratch: ScratchBytes(args), aligned as by malloc.
  void (*separate)(const SeparateArgs& args, int64_t begin, int64_t end, void* scratch);
  // The same by a given path, which must handle the shape: for tests and benchmarks.
  void (*separate_by)(Path path, const SeparateArgs& args, int64_t begin, int64_t end, void* scratch);
  // Separates one row in segments. Scratch: ScratchBytes(args) + segments.count * kScratchSlack.
  void (*separate_split)(const SeparateArgs& args, int64_t row, const Segments& segments, void* scratch);
  // Scales the rows [begin, end).
  void (*scale)(const ScaleSelectedArgs& args, int64_t begin, int64_t end);
  // Sums the elements [block * kSumBlock, (block + 1) * kSumBlock), or those of them that exist.
  SelectedSums (*sum_block)(const SumSelectedArgs& args, int64_t block);
};

// Sums add numbers in groups of this size; a block is a full group of full groups.
constexpr int kSumGroup = 64;
constexpr int64_t kSumBlock = kSumGroup * kSumGroup;

// The scratch of one thread: one row, and room for vectors that are stored past its end.
constexpr int64_t kScratchSlack = 256;
constexpr int64_t ScratchBytes(const SeparateArgs& args) { return args.n * ElementBytes(args.dtype) + kScratchSlack; }

// Returns the kernels of an instruction set, which must be supported, and a dtype.
const Kernels& KernelsOf(InstructionSet set, DType dtype);

// kernels_instance.cc defines them. Each is an object of its own, so that they compile in parallel.
extern const Kernels kBaselineFloat32, kBaselineFloat64, kBaselineBFloat16, kBaselineFloat16;
#if defined(__x86_64__)
extern const Kernels kAvx2Float32, kAvx2Float64, kAvx2BFloat16, kAvx2Float16;
extern const Kernels kAvx512Float32, kAvx512Float64, kAvx512BFloat16, kAvx512Float16;
#endif

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_KERNELS_H_
