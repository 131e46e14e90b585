// XLA's FFI and conversions of its buffers, for the handlers of every platform.

#ifndef SEPARATIONFACTOR_XLA_BUFFERS_INL_H_
#define SEPARATIONFACTOR_XLA_BUFFERS_INL_H_

#include <cstdint>

#include "core/arguments.h"
#include "core/separate.h"
#include "xla/ffi/api/ffi.h"

namespace xla::ffi {
// Declared in xla/ffi/ffi_api.h, which includes MLIR headers that TensorFlow does not ship.
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

RowsSpec RowsOf(const ffi::AnyBuffer& buffer) {
  const auto shape = buffer.dimensions();
  RowsSpec rows{DTypeOf(buffer), 1, shape.back()};
  for (const int64_t size : shape.first(shape.size() - 1)) rows.rows *= size;
  return rows;
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_XLA_BUFFERS_INL_H_
