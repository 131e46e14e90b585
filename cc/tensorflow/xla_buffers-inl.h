// What the handlers of every platform make of XLA's buffers, and what they need of its FFI.

#ifndef SEPARATIONFACTOR_TENSORFLOW_XLA_BUFFERS_INL_H_
#define SEPARATIONFACTOR_TENSORFLOW_XLA_BUFFERS_INL_H_

#include <cstdint>

#include "core/separate.h"
#include "tensorflow/arguments.h"
#include "xla/ffi/api/ffi.h"

namespace xla::ffi {
// Declared in xla/ffi/ffi_api.h, which wants headers of MLIR that TensorFlow does not ship.
const XLA_FFI_Api* GetXlaFfiApi();
}  // namespace xla::ffi

namespace separationfactor {
namespace {

namespace ffi = ::xla::ffi;

DType DTypeOf(const ffi::AnyBuffer& buffer) {
  switch (buffer.element_type()) {
    case ffi::F64:
      return DType::kFloat64;
    case ffi::BF16:
      return DType::kBFloat16;
    case ffi::F16:
      return DType::kFloat16;
    default:
      return DType::kFloat32;
  }
}

Rows RowsOf(const ffi::AnyBuffer& buffer) {
  const auto shape = buffer.dimensions();
  Rows rows{1, shape.back()};
  for (const int64_t size : shape.first(shape.size() - 1)) rows.rows *= size;
  return rows;
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TENSORFLOW_XLA_BUFFERS_INL_H_
