// The layout of the input `scalars` of SeparateWithoutGradient: k, then separation and suppression once for each dtype,
// as that dtype rounds them.

#ifndef SEPARATIONFACTOR_TENSORFLOW_SCALARS_H_
#define SEPARATIONFACTOR_TENSORFLOW_SCALARS_H_

#include "core/separate.h"

namespace separationfactor {

// The order of the dtypes. `_scalars` in python/separationfactor/ops.py fills the vector in the same order (DTYPES),
// and tests/test_ops.py checks that the two agree.
constexpr DType kScalarsDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16};

constexpr int kScalarsSize = 1 + 2 * (sizeof(kScalarsDTypes) / sizeof(kScalarsDTypes[0]));

// The index of k.
constexpr int kScalarsK = 0;

// The index of a dtype's separation; its suppression follows.
constexpr int ScalarsSeparation(DType dtype) {
  int index = 1;
  for (const DType each : kScalarsDTypes) {
    if (each == dtype) return index;
    index += 2;
  }
  return -1;
}
static_assert(ScalarsSeparation(DType::kFloat32) == 1 && ScalarsSeparation(DType::kFloat64) == 3 &&
                  ScalarsSeparation(DType::kBFloat16) == 5 && ScalarsSeparation(DType::kFloat16) == 7 &&
                  kScalarsSize == 9,
              "`scalars` has two factors for each dtype");

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TENSORFLOW_SCALARS_H_
