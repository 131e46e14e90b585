// The names by which XLA's custom calls of the lowering (xla.cc) find their handlers (xla_host.cc,
// xla_cuda.cc).
//
// Operands and results are those of the ops, dense and in row-major order. Separate has one attribute, the bool
// `magnitude`.

#ifndef SEPARATIONFACTOR_TENSORFLOW_XLA_HANDLERS_H_
#define SEPARATIONFACTOR_TENSORFLOW_XLA_HANDLERS_H_

namespace separationfactor {

inline constexpr char kSeparateHandler[] = "separationfactor.separate";
inline constexpr char kScaleSelectedHandler[] = "separationfactor.scale_selected";
inline constexpr char kSumSelectedHandler[] = "separationfactor.sum_selected";

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TENSORFLOW_XLA_HANDLERS_H_
