#include "core/cpu/kernels-inl.h"

namespace separationfactor {

const Kernels kBaselineKernels = kKernels;

}  // namespace separationfactor
