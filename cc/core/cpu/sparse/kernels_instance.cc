// The sparse kernels of one instruction set. CMakeLists.txt compiles this file once per instruction set, with its flags
// and
//
//   SEPARATIONFACTOR_KERNELS   the name that kernels.h declares, such as kAvx2SparseKernels

#include "core/cpu/sparse/kernels-inl.h"

namespace separationfactor {

const SparseKernels SEPARATIONFACTOR_KERNELS = kSparseKernels;

}  // namespace separationfactor
