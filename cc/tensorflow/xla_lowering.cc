// Lowers the ops to XLA. Each op becomes one custom call. The handlers are in cc/xla, one file per platform.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tensorflow/compiler/tf2xla/shape_util.h"
#include "tensorflow/compiler/tf2xla/xla_helpers.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/validation.h"
#include "xla/handlers.h"
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

absl::Status ReadOperands(XlaOpKernelContext* context, std::vector<Operand>* operands) {
  for (int input = 0; input < context->num_inputs(); ++input) {
    const absl::StatusOr<xla::Shape> shape = context->InputXlaShape(input);
    TF_RETURN_IF_ERROR(shape.status());
    Operand operand{context->Input(input), shape->element_type()};
    TF_RETURN_IF_ERROR(::tensorflow::XLAShapeToTensorShape(*shape, &operand.shape));
    for (int axis = 0; axis < operand.shape.dims(); ++axis) {
      if (shape->is_dynamic_dimension(axis)) operand.bounded_axes.push_back(axis);
    }
    operands->push_back(std::move(operand));
  }
  return absl::OkStatus();
}

absl::Status CheckRows(const char* name, const Operand& operand) {
  TF_RETURN_IF_ERROR(separationfactor::CheckRows(name, operand.shape));
  const std::vector<int64_t>& axes = operand.bounded_axes;
  if (axes.empty() || axes.back() != operand.shape.dims() - 1) return absl::OkStatus();
  return InvalidArgument("rows of ", name, " must have a length that is known when XLA compiles");
}

// Emits a call of a handler on the whole allocation of the operands. Returns its results, which have the given shapes.
std::vector<xla::XlaOp> CallHandler(const char* name, const std::vector<Operand>& operands,
                                    const std::vector<xla::Shape>& results, const std::string& attributes = "",
                                    bool has_side_effect = false) {
  std::vector<xla::XlaOp> ops;
  std::vector<xla::Shape> shapes;
  for (const Operand& operand : operands) {
    ops.push_back(operand.Room());
    shapes.push_back(RowMajor(operand.dtype, operand.shape));
  }
  const xla::XlaOp call = xla::CustomCallWithLayout(
      ops[0].builder(), name, ops, xla::ShapeUtil::MakeTupleShape(results), shapes, attributes, has_side_effect,
      /*output_operand_aliasing=*/{}, /*literal=*/nullptr, xla::CustomCallSchedule::SCHEDULE_NONE,
      xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
  std::vector<xla::XlaOp> elements;
  for (size_t i = 0; i < results.size(); ++i) elements.push_back(xla::GetTupleElement(call, i));
  return elements;
}

class SeparateXlaOp : public XlaOpKernel {
 public:
  explicit SeparateXlaOp(OpKernelConstruction* context) : XlaOpKernel(context) {
    std::string by;
    OP_REQUIRES_OK(context, context->GetAttr("by", &by));
    attributes_ = by == "magnitude" ? "{magnitude = true}" : "{magnitude = false}";
  }

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Operand> operands;
    OP_REQUIRES_OK(context, ReadOperands(context, &operands));
    const Operand& x = operands[0];
    OP_REQUIRES_OK(context, CheckRows("x", x));
    OP_REQUIRES_OK(context, CheckScalar("k", operands[1].shape));
    OP_REQUIRES_OK(context, CheckScalar("separation", operands[2].shape));
    OP_REQUIRES_OK(context, CheckScalar("suppression", operands[3].shape));
    // XLA removes a call whose results are empty unless it has side effects, and with it the check of k.
    const auto results =
        CallHandler(kSeparateHandler, operands, {RowMajor(x.dtype, x.shape), RowMajor(xla::U8, BitmaskShape(x.shape))},
                    attributes_, /*has_side_effect=*/x.shape.num_elements() == 0);
    context->SetOutput(0, x.Resize(results[0]));
    context->SetOutput(1, x.Resize(results[1]));
  }

 private:
  std::string attributes_;
};

class ScaleSelectedXlaOp : public XlaOpKernel {
 public:
  using XlaOpKernel::XlaOpKernel;

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Operand> operands;
    OP_REQUIRES_OK(context, ReadOperands(context, &operands));
    const Operand& v = operands[0];
    OP_REQUIRES_OK(context, CheckRows("v", v));
    OP_REQUIRES_OK(context, CheckBitmask(v.shape, operands[1].shape));
    OP_REQUIRES_OK(context, CheckScalar("separation", operands[2].shape));
    OP_REQUIRES_OK(context, CheckScalar("suppression", operands[3].shape));
    const auto results = CallHandler(kScaleSelectedHandler, operands, {RowMajor(v.dtype, v.shape)});
    context->SetOutput(0, v.Resize(results[0]));
  }
};

class SumSelectedXlaOp : public XlaOpKernel {
 public:
  using XlaOpKernel::XlaOpKernel;

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Operand> operands;
    OP_REQUIRES_OK(context, ReadOperands(context, &operands));
    Operand& u = operands[0];
    Operand& v = operands[1];
    OP_REQUIRES_OK(context, CheckRows("u", u));
    OP_REQUIRES_OK(context, CheckSameShape(u.shape, v.shape));
    OP_REQUIRES_OK(context, CheckBitmask(u.shape, operands[2].shape));
    for (Operand* rows : {&u, &v}) {
      rows->op = rows->RoomWithZeros(context->input_type(0));
      rows->bounded_axes.clear();
    }
    const xla::Shape scalar = RowMajor(u.dtype, TensorShape({}));
    const auto results = CallHandler(kSumSelectedHandler, operands, {scalar, scalar});
    context->SetOutput(0, results[0]);
    context->SetOutput(1, results[1]);
  }
};

// TensorFlow reads the registrations of REGISTER_XLA_OP once, before the process compiles its first function, and makes
// the registrations below from them. Made directly, they work at any time.
#define REGISTER_XLA_KERNELS(DEVICE)                                                                  \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>Separate").Device(DEVICE), SeparateXlaOp);           \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>ScaleSelected").Device(DEVICE), ScaleSelectedXlaOp); \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>SumSelected").Device(DEVICE), SumSelectedXlaOp)

REGISTER_XLA_KERNELS(::tensorflow::DEVICE_CPU_XLA_JIT);
#if defined(SEPARATIONFACTOR_CUDA)
REGISTER_XLA_KERNELS(::tensorflow::DEVICE_GPU_XLA_JIT);
#endif

#undef REGISTER_XLA_KERNELS

}  // namespace
}  // namespace separationfactor
