// Checks of the ops' inputs, and the shapes that follow from them, for the kernels of every device.

#ifndef SEPARATIONFACTOR_TENSORFLOW_VALIDATION_H_
#define SEPARATIONFACTOR_TENSORFLOW_VALIDATION_H_

#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/arguments.h"
#include "core/separate.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/scalars.h"

namespace separationfactor {

template <class... Parts>
absl::Status InvalidArgument(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// The rows of a tensor along its last axis.
inline RowsSpec RowsOf(const ::tensorflow::TensorShape& shape, DType dtype) {
  RowsSpec rows{dtype, 1, shape.dim_size(shape.dims() - 1)};
  for (int axis = 0; axis < shape.dims() - 1; ++axis) rows.rows *= shape.dim_size(axis);
  return rows;
}

inline ::tensorflow::TensorShape BitmaskShape(const ::tensorflow::TensorShape& rows) {
  ::tensorflow::TensorShape bitmask = rows;
  bitmask.set_dim(rows.dims() - 1, BitmaskBytes(rows.dim_size(rows.dims() - 1)));
  return bitmask;
}

inline absl::Status CheckScalar(const char* name, const ::tensorflow::TensorShape& shape) {
  if (shape.dims() == 0) return absl::OkStatus();
  return InvalidArgument(name, " must be a scalar. Received: shape ", shape.DebugString());
}

inline absl::Status CheckRows(const char* name, const ::tensorflow::TensorShape& shape) {
  if (shape.dims() == 0) return InvalidArgument(name, " must have at least one axis. Received: a scalar");
  if (shape.dim_size(shape.dims() - 1) > std::numeric_limits<int32_t>::max()) {
    return InvalidArgument("rows of ", name, " must have at most 2^31 - 1 entries. Received: shape ",
                           shape.DebugString());
  }
  return absl::OkStatus();
}

inline absl::Status CheckKInRange(int64_t k, int64_t n) {
  const std::string error = CheckK(k, n);
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
}

// Reads the scalars of SeparateWithoutGradient for an x of this dtype.
inline absl::Status ReadScalars(const ::tensorflow::Tensor& scalars, DType dtype, int64_t n, int64_t* k,
                                double* separation, double* suppression) {
  if (scalars.shape() != ::tensorflow::TensorShape({kScalarsSize})) {
    return InvalidArgument("scalars must be k and two factors for each of four types. Received: shape ",
                           scalars.shape().DebugString());
  }
  const auto values = scalars.flat<double>();
  *k = static_cast<int64_t>(values(kScalarsK));
  *separation = values(ScalarsSeparation(dtype));
  *suppression = values(ScalarsSeparation(dtype) + 1);
  return CheckKInRange(*k, n);
}

inline absl::Status CheckBitmask(const ::tensorflow::TensorShape& rows, const ::tensorflow::TensorShape& selected) {
  if (selected == BitmaskShape(rows)) return absl::OkStatus();
  return InvalidArgument("selected must have shape ", BitmaskShape(rows).DebugString(), " for rows of shape ",
                         rows.DebugString(), ". Received: ", selected.DebugString());
}

inline absl::Status CheckSameShape(const ::tensorflow::TensorShape& u, const ::tensorflow::TensorShape& v) {
  if (u == v) return absl::OkStatus();
  return InvalidArgument("u and v must have the same shape. Received: ", u.DebugString(), " and ", v.DebugString());
}

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TENSORFLOW_VALIDATION_H_
