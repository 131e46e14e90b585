// The names under which the handlers (handlers_host.cc, handlers_cuda.cc) are registered. The lowering
// (tensorflow/xla_lowering.cc) emits custom calls with these names.
//
// Operands and results are those of the ops, dense and in row-major order. Separate has one attribute, the bool
// `magnitude`.

#ifndef SEPARATIONFACTOR_XLA_HANDLERS_H_
#define SEPARATIONFACTOR_XLA_HANDLERS_H_

namespace separationfactor {

inline constexpr char kSeparateHandler[] = "separationfactor.separate";
inline constexpr char kScaleSelectedHandler[] = "separationfactor.scale_selected";
inline constexpr char kSumSelectedHandler[] = "separationfactor.sum_selected";

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_XLA_HANDLERS_H_
