// The names under which the handlers (handlers_host.cc, handlers_cuda.cc, sparse_handlers_host.cc) are registered. The
// lowerings (tensorflow/xla_lowering.cc, tensorflow/sparse_xla_lowering.cc) emit custom calls with these names.
//
// Operands and results are those of the ops, dense and in row-major order. Separate and SparseTopK have one attribute,
// the bool `magnitude`. The variable and its moments are operands and results of SparseAdam and SparseRowsAdam.

#ifndef SEPARATIONFACTOR_XLA_HANDLERS_H_
#define SEPARATIONFACTOR_XLA_HANDLERS_H_

namespace separationfactor {

inline constexpr char kSeparateHandler[] = "separationfactor.separate";
inline constexpr char kScaleSelectedHandler[] = "separationfactor.scale_selected";
inline constexpr char kSumSelectedHandler[] = "separationfactor.sum_selected";

inline constexpr char kSparseTopKHandler[] = "separationfactor.sparse_top_k";
inline constexpr char kSparseEncodeHandler[] = "separationfactor.sparse_encode";
inline constexpr char kSparseDecodeHandler[] = "separationfactor.sparse_decode";
inline constexpr char kSparseGatherDotHandler[] = "separationfactor.sparse_gather_dot";
inline constexpr char kSparseRowsHandler[] = "separationfactor.sparse_rows";
inline constexpr char kSparseAdamHandler[] = "separationfactor.sparse_adam";
inline constexpr char kSparseRowsAdamHandler[] = "separationfactor.sparse_rows_adam";

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_XLA_HANDLERS_H_
