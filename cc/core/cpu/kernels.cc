#include "core/cpu/kernels.h"

#include "core/cpu/instruction_set.h"
#include "core/separate.h"

namespace separationfactor {

const Kernels& KernelsOf(InstructionSet set, DType dtype) {
  // In the order of the enum DType.
  static const Kernels* const kBaseline[] = {&kBaselineFloat32, &kBaselineFloat64, &kBaselineBFloat16,
                                             &kBaselineFloat16};
#if defined(__x86_64__)
  static const Kernels* const kAvx2[] = {&kAvx2Float32, &kAvx2Float64, &kAvx2BFloat16, &kAvx2Float16};
  static const Kernels* const kAvx512[] = {&kAvx512Float32, &kAvx512Float64, &kAvx512BFloat16, &kAvx512Float16};
  if (set == InstructionSet::kAvx512) return *kAvx512[static_cast<int>(dtype)];
  if (set == InstructionSet::kAvx2) return *kAvx2[static_cast<int>(dtype)];
#endif
  return *kBaseline[static_cast<int>(dtype)];
}

}  // namespace separationfactor
