#include "core/cpu/sparse/kernels-inl.h"

namespace separationfactor {

const SparseKernels kAvx2SparseKernels = kSparseKernels;

}  // namespace separationfactor
