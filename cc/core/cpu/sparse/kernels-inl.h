// The sparse kernels, written once for all instruction sets (cpu/simd-inl.h).

#ifndef SEPARATIONFACTOR_CORE_CPU_SPARSE_KERNELS_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SPARSE_KERNELS_INL_H_

#include <cstdint>

#include "core/cpu/sparse/adam-inl.h"
#include "core/cpu/sparse/candidates-inl.h"
#include "core/cpu/sparse/elements-inl.h"
#include "core/cpu/sparse/gather_dot-inl.h"
#include "core/cpu/sparse/gather_sum-inl.h"
#include "core/cpu/sparse/kernels.h"

namespace separationfactor {
namespace {

void GatherSumAny(const GatherSumArgs& args, int64_t begin, int64_t end) {
  // Either side may be float32 where the other is a half type.
  WithDType(args.table_dtype, [&](auto table) {
    using Table = decltype(table);
    WithDType(args.out_dtype, [&](auto out) {
      using Out = decltype(out);
      using Same = std::is_same<Table, Out>;
      constexpr bool kMixed = std::is_same<typename Table::Number, float>::value &&
                              std::is_same<typename Out::Number, float>::value &&
                              (std::is_same<Table, Float32>::value || std::is_same<Out, Float32>::value);
      if constexpr (Same::value || kMixed) GatherSums<Table, Out>(args, begin, end);
    });
  });
}

void GatherDotAny(const GatherDotArgs& args, int64_t begin, int64_t end, void* scratch) {
  WithDTypes(args.dtype, args.kernel_dtype, [&](auto traits, auto kernel) {
    GatherDots<decltype(traits), decltype(kernel)>(args, begin, end, scratch);
  });
}

void FindCandidatesAny(const FindCandidatesArgs& args) {
  WithDTypes(args.encode->dtype, args.encode->kernel_dtype,
             [&](auto traits, auto kernel) { FindCandidates<decltype(traits), decltype(kernel)>::Run(args); });
}

void KeepGreatestAny(DType dtype, void* numbers, int32_t* latents, int64_t count, int64_t k) {
  if (count == k) return;
  if (dtype == DType::kFloat64) {
    CutCandidates(static_cast<double*>(numbers), latents, count, k);
  } else {
    CutCandidates(static_cast<float*>(numbers), latents, count, k);
  }
}

void AdamAny(const AdamStep& step) {
  if (step.dtype == DType::kFloat64) {
    StepAdam<double>(step);
  } else {
    StepAdam<float>(step);
  }
}

constexpr SparseKernels kSparseKernels = {kPanelVectors * kVectorBytes,
                                          kTileLatents,
                                          GatherSumAny,
                                          GatherDotAny,
                                          FindCandidatesAny,
                                          KeepGreatestAny,
                                          AdamAny};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPARSE_KERNELS_INL_H_
