#include "core/cpu/sparse/kernels-inl.h"

namespace separationfactor {

const SparseKernels kBaselineSparseKernels = kSparseKernels;

}  // namespace separationfactor
