#include "core/cpu/kernels-inl.h"

namespace separationfactor {

const Kernels kAvx512Kernels = kKernels;

}  // namespace separationfactor
