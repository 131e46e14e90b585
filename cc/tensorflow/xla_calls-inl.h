// Operands and calls of handlers, for the lowerings to XLA.

#ifndef SEPARATIONFACTOR_TENSORFLOW_XLA_CALLS_INL_H_
#define SEPARATIONFACTOR_TENSORFLOW_XLA_CALLS_INL_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tensorflow/compiler/tf2xla/shape_util.h"
#include "tensorflow/compiler/tf2xla/xla_helpers.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/validation.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape.h"
#include "xla/shape_util.h"

namespace separationfactor {
namespace {

using ::tensorflow::OpKernelConstruction;
using ::tensorflow::TensorShape;
using ::tensorflow::XlaOpKernel;
using ::tensorflow::XlaOpKernelContext;

// Returns the XLA shape of a dense tensor in row-major order.
xla::Shape RowMajor(xla::PrimitiveType dtype, const TensorShape& shape) {
  return xla::ShapeUtil::MakeShapeWithDescendingLayout(dtype, shape.dim_sizes());
}

// An input of the op. An axis whose size XLA knows only at run time, such as the number of rows that pass a filter, has
// an upper bound, and XLA allocates the bound. A handler processes the whole allocation, because rows are independent.
struct Operand {
  xla::XlaOp op;
  xla::PrimitiveType dtype;
  TensorShape shape;  // bounds in place of unknown sizes
  std::vector<int64_t> bounded_axes;

  // The whole allocation. Entries beyond the sizes are arbitrary.
  xla::XlaOp Room() const {
    xla::XlaOp room = op;
    for (const int64_t axis : bounded_axes) room = xla::RemoveDynamicDimension(room, axis);
    return room;
  }

  // The whole allocation, with zeros beyond the sizes.
  xla::XlaOp RoomWithZeros(::tensorflow::DataType type) const {
    xla::XlaBuilder* builder = op.builder();
    const xla::XlaOp zeros = xla::Broadcast(::tensorflow::XlaHelpers::Zero(builder, type), shape.dim_sizes());
    xla::XlaOp room = Room();
    for (const int64_t axis : bounded_axes) {
      const xla::XlaOp index = xla::Iota(builder, RowMajor(xla::S32, shape), axis);
      room = xla::Select(xla::Lt(index, xla::GetDimensionSize(op, axis)), room, zeros);
    }
    return room;
  }

  // Sets the sizes of a tensor with the same allocation to those of this operand.
  xla::XlaOp Resize(xla::XlaOp room) const {
    for (const int64_t axis : bounded_axes) {
      room = xla::SetDimensionSize(room, xla::GetDimensionSize(op, axis), axis);
    }
    return room;
  }
};

absl::Status ReadOperand(XlaOpKernelContext* context, int input, Operand* operand) {
  const absl::StatusOr<xla::Shape> shape = context->InputXlaShape(input);
  TF_RETURN_IF_ERROR(shape.status());
  *operand = Operand{context->Input(input), shape->element_type()};
  TF_RETURN_IF_ERROR(::tensorflow::XLAShapeToTensorShape(*shape, &operand->shape));
  for (int axis = 0; axis < operand->shape.dims(); ++axis) {
    if (shape->is_dynamic_dimension(axis)) operand->bounded_axes.push_back(axis);
  }
  return absl::OkStatus();
}

absl::Status ReadOperands(XlaOpKernelContext* context, std::vector<Operand>* operands) {
  operands->resize(context->num_inputs());
  for (int input = 0; input < context->num_inputs(); ++input) {
    TF_RETURN_IF_ERROR(ReadOperand(context, input, &(*operands)[input]));
  }
  return absl::OkStatus();
}

absl::Status CheckRows(const char* name, const Operand& operand) {
  TF_RETURN_IF_ERROR(separationfactor::CheckRows(name, operand.shape));
  const std::vector<int64_t>& axes = operand.bounded_axes;
  if (axes.empty() || axes.back() != operand.shape.dims() - 1) return absl::OkStatus();
  return InvalidArgument("rows of ", name, " must have a length that is known when XLA compiles");
}

// Results that share the memory of operands: the index of each result in the tuple, and the operand.
using ResultsInPlace = std::vector<std::pair<xla::ShapeIndex, std::pair<int64_t, xla::ShapeIndex>>>;

// Emits a call of a handler on the whole allocation of the operands. Returns its results, which have the given shapes.
std::vector<xla::XlaOp> CallHandler(const char* name, const std::vector<Operand>& operands,
                                    const std::vector<xla::Shape>& results, const std::string& attributes = "",
                                    bool has_side_effect = false, const ResultsInPlace& in_place = {}) {
  std::vector<xla::XlaOp> ops;
  std::vector<xla::Shape> shapes;
  for (const Operand& operand : operands) {
    ops.push_back(operand.Room());
    shapes.push_back(RowMajor(operand.dtype, operand.shape));
  }
  const xla::XlaOp call = xla::CustomCallWithLayout(
      ops[0].builder(), name, ops, xla::ShapeUtil::MakeTupleShape(results), shapes, attributes, has_side_effect,
      in_place, /*literal=*/nullptr, xla::CustomCallSchedule::SCHEDULE_NONE,
      xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
  std::vector<xla::XlaOp> elements;
  for (size_t i = 0; i < results.size(); ++i) elements.push_back(xla::GetTupleElement(call, i));
  return elements;
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TENSORFLOW_XLA_CALLS_INL_H_
