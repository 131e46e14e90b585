// TensorFlow's types as the core's dtypes.

#ifndef SEPARATIONFACTOR_TENSORFLOW_TYPES_H_
#define SEPARATIONFACTOR_TENSORFLOW_TYPES_H_

#include "core/separate.h"
#include "tensorflow/core/framework/types.h"

namespace separationfactor {

template <class T>
constexpr DType kDType = DType::kFloat32;
template <>
constexpr DType kDType<double> = DType::kFloat64;
template <>
constexpr DType kDType<::tensorflow::bfloat16> = DType::kBFloat16;
template <>
constexpr DType kDType<Eigen::half> = DType::kFloat16;

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TENSORFLOW_TYPES_H_
