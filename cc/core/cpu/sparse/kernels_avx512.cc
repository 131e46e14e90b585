#include "core/cpu/sparse/kernels-inl.h"

namespace separationfactor {

const SparseKernels kAvx512SparseKernels = kSparseKernels;

}  // namespace separationfactor
