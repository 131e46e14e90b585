// The kernels of one instruction set and one dtype. CMakeLists.txt compiles this file once per pair, with the flags of
// the instruction set and
//
//   SEPARATIONFACTOR_KERNELS   the name that kernels.h declares, such as kAvx2Float32
//   SEPARATIONFACTOR_TRAITS    the traits of the dtype in types.h, such as Float32

#include "core/cpu/kernels-inl.h"

namespace separationfactor {

const Kernels SEPARATIONFACTOR_KERNELS = kKernelsOf<SEPARATIONFACTOR_TRAITS>;

}  // namespace separationfactor
