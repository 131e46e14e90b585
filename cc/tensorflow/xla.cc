// The ops as XLA compiles them: each becomes one custom call, whose handlers stand in a file for each platform.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tensorflow/arguments.h"
#include "tensorflow/compiler/tf2xla/shape_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/xla_handlers.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape.h"
#include "xla/shape_util.h"

namespace separationfactor {
namespace {

using ::tensorflow::OpKernelConstruction;
using ::tensorflow::TensorShape;
using ::tensorflow::XlaOpKernel;
using ::tensorflow::XlaOpKernelContext;

absl::Status ShapeOf(XlaOpKernelContext* context, int input, TensorShape* shape) {
  const absl::StatusOr<xla::Shape> xla_shape = context->InputXlaShape(input);
  TF_RETURN_IF_ERROR(xla_shape.status());
  return ::tensorflow::XLAShapeToTensorShape(*xla_shape, shape);
}

// XLA's name of a dense tensor in row-major order.
xla::Shape RowMajor(xla::PrimitiveType dtype, const TensorShape& shape) {
  return xla::ShapeUtil::MakeShapeWithDescendingLayout(dtype, shape.dim_sizes());
}

// Calls a handler on the op's inputs; sets the op's outputs, which have the given shapes.
void CallHandler(XlaOpKernelContext* context, const char* name, const std::vector<xla::Shape>& outputs,
                 const std::string& attributes = "", bool has_side_effect = false) {
  std::vector<xla::XlaOp> operands;
  std::vector<xla::Shape> shapes;
  for (int input = 0; input < context->num_inputs(); ++input) {
    TensorShape shape;
    OP_REQUIRES_OK(context, ShapeOf(context, input, &shape));
    operands.push_back(context->Input(input));
    shapes.push_back(RowMajor(context->input_xla_type(input), shape));
  }
  const xla::XlaOp results = xla::CustomCallWithLayout(
      context->builder(), name, operands, xla::ShapeUtil::MakeTupleShape(outputs), shapes, attributes, has_side_effect,
      /*output_operand_aliasing=*/{}, /*literal=*/nullptr, xla::CustomCallSchedule::SCHEDULE_NONE,
      xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
  for (int output = 0; output < context->num_outputs(); ++output) {
    context->SetOutput(output, xla::GetTupleElement(results, output));
  }
}

absl::Status CheckScalars(XlaOpKernelContext* context, int first, const std::vector<const char*>& names) {
  for (int i = 0; i < static_cast<int>(names.size()); ++i) {
    TensorShape shape;
    TF_RETURN_IF_ERROR(ShapeOf(context, first + i, &shape));
    TF_RETURN_IF_ERROR(CheckScalar(names[i], shape));
  }
  return absl::OkStatus();
}

class SeparateXlaOp : public XlaOpKernel {
 public:
  explicit SeparateXlaOp(OpKernelConstruction* context) : XlaOpKernel(context) {
    std::string by;
    OP_REQUIRES_OK(context, context->GetAttr("by", &by));
    attributes_ = by == "magnitude" ? "{magnitude = true}" : "{magnitude = false}";
  }

  void Compile(XlaOpKernelContext* context) override {
    TensorShape x;
    OP_REQUIRES_OK(context, ShapeOf(context, 0, &x));
    OP_REQUIRES_OK(context, CheckRows("x", x));
    OP_REQUIRES_OK(context, CheckScalars(context, 1, {"k", "separation", "suppression"}));
    // XLA leaves out a call without effects whose results are empty, and so would a check of k.
    CallHandler(context, kSeparateHandler,
                {RowMajor(context->input_xla_type(0), x), RowMajor(xla::U8, BitmaskShape(x))}, attributes_,
                /*has_side_effect=*/x.num_elements() == 0);
  }

 private:
  std::string attributes_;
};

class ScaleSelectedXlaOp : public XlaOpKernel {
 public:
  using XlaOpKernel::XlaOpKernel;

  void Compile(XlaOpKernelContext* context) override {
    TensorShape v, selected;
    OP_REQUIRES_OK(context, ShapeOf(context, 0, &v));
    OP_REQUIRES_OK(context, ShapeOf(context, 1, &selected));
    OP_REQUIRES_OK(context, CheckRows("v", v));
    OP_REQUIRES_OK(context, CheckBitmask(v, selected));
    OP_REQUIRES_OK(context, CheckScalars(context, 2, {"separation", "suppression"}));
    CallHandler(context, kScaleSelectedHandler, {RowMajor(context->input_xla_type(0), v)});
  }
};

class SumSelectedXlaOp : public XlaOpKernel {
 public:
  using XlaOpKernel::XlaOpKernel;

  void Compile(XlaOpKernelContext* context) override {
    TensorShape u, v, selected;
    OP_REQUIRES_OK(context, ShapeOf(context, 0, &u));
    OP_REQUIRES_OK(context, ShapeOf(context, 1, &v));
    OP_REQUIRES_OK(context, ShapeOf(context, 2, &selected));
    OP_REQUIRES_OK(context, CheckRows("u", u));
    OP_REQUIRES_OK(context, CheckSameShape(u, v));
    OP_REQUIRES_OK(context, CheckBitmask(u, selected));
    const xla::Shape scalar = RowMajor(context->input_xla_type(0), TensorShape({}));
    CallHandler(context, kSumSelectedHandler, {scalar, scalar});
  }
};

// TensorFlow looks up what REGISTER_XLA_OP registers once, before the process compiles its first function. These
// registrations, which that look-up would make, work at any time.
#define REGISTER_XLA_KERNELS(DEVICE)                                                                  \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>Separate").Device(DEVICE), SeparateXlaOp);           \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>ScaleSelected").Device(DEVICE), ScaleSelectedXlaOp); \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>SumSelected").Device(DEVICE), SumSelectedXlaOp)

REGISTER_XLA_KERNELS(::tensorflow::DEVICE_CPU_XLA_JIT);

#undef REGISTER_XLA_KERNELS

}  // namespace
}  // namespace separationfactor
