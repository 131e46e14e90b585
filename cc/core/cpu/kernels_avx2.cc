#include "core/cpu/kernels-inl.h"

namespace separationfactor {

const Kernels kAvx2Kernels = kKernels;

}  // namespace separationfactor
