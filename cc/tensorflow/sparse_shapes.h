// Checks of the shapes of the sparse ops' inputs, for kernels and for the lowering to XLA.

#ifndef SEPARATIONFACTOR_TENSORFLOW_SPARSE_SHAPES_H_
#define SEPARATIONFACTOR_TENSORFLOW_SPARSE_SHAPES_H_

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/validation.h"

namespace separationfactor {

using ::tensorflow::TensorShape;

inline int64_t LastOf(const TensorShape& shape) { return shape.dim_size(shape.dims() - 1); }

inline TensorShape WithLast(TensorShape shape, int64_t last) {
  shape.set_dim(shape.dims() - 1, last);
  return shape;
}

// Checks a kernel of rows of d numbers, or of any length if d is negative.
inline absl::Status CheckKernel(const TensorShape& kernel, int64_t d) {
  if (kernel.dims() != 2) return InvalidArgument("kernel must have shape [n, d]. Received: ", kernel.DebugString());
  if (kernel.dim_size(0) > std::numeric_limits<int32_t>::max()) {
    return InvalidArgument("kernel must have at most 2^31 - 1 rows. Received: shape ", kernel.DebugString());
  }
  if (d >= 0 && kernel.dim_size(1) != d) {
    return InvalidArgument("kernel must have rows of x's length, ", d, ". Received: shape ", kernel.DebugString());
  }
  return absl::OkStatus();
}

inline absl::Status CheckBias(const TensorShape& bias, int64_t size) {
  if (bias.dims() == 1 && (bias.dim_size(0) == 0 || bias.dim_size(0) == size)) return absl::OkStatus();
  return InvalidArgument("bias must be empty or have shape [", size, "]. Received: ", bias.DebugString());
}

inline absl::Status CheckCode(const TensorShape& values, const TensorShape& indices) {
  TF_RETURN_IF_ERROR(CheckRows("values", values));
  if (values == indices) return absl::OkStatus();
  return InvalidArgument("values and indices must have the same shape. Received: ", values.DebugString(), " and ",
                         indices.DebugString());
}

inline absl::Status CheckSameRows(const TensorShape& x, const TensorShape& code) {
  TF_RETURN_IF_ERROR(CheckRows("x", x));
  TF_RETURN_IF_ERROR(CheckRows("indices", code));
  if (WithLast(x, 1) == WithLast(code, 1)) return absl::OkStatus();
  return InvalidArgument("x and indices must have the same leading dimensions. Received: ", x.DebugString(), " and ",
                         code.DebugString());
}

// Sets the first axis of a variable's shape to the number of latents.
inline absl::Status CheckLatentsShape(const TensorShape& latents, TensorShape* shape) {
  if (latents.dims() != 1 || shape->dims() == 0) {
    return InvalidArgument("latents must be a vector, and the variable must have rows. Received: shapes ",
                           latents.DebugString(), " and ", shape->DebugString());
  }
  shape->set_dim(0, latents.dim_size(0));
  return absl::OkStatus();
}

inline absl::Status CheckGradient(const TensorShape& gradient, const TensorShape& expected) {
  if (gradient == expected) return absl::OkStatus();
  return InvalidArgument("gradient must have shape ", expected.DebugString(), ". Received: ", gradient.DebugString());
}

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TENSORFLOW_SPARSE_SHAPES_H_
