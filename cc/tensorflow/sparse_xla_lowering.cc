// Lowers the ops of the sparse path to XLA on CPUs. Each op becomes one custom call. The handlers are in
// xla/sparse_handlers_host.cc.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/compiler/tf2xla/type_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/sparse_shapes.h"
#include "tensorflow/validation.h"
#include "tensorflow/xla_calls-inl.h"
#include "xla/handlers.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape.h"

namespace separationfactor {
namespace {

// Replaces what lies beyond the sizes of a code by zeros: indices that are valid, and values that are no use.
void ZeroBeyond(XlaOpKernelContext* context, int input, Operand* operand) {
  if (operand->bounded_axes.empty()) return;
  operand->op = operand->RoomWithZeros(context->input_type(input));
  operand->bounded_axes.clear();
}

class TopKXlaOp : public XlaOpKernel {
 public:
  explicit TopKXlaOp(OpKernelConstruction* context) : XlaOpKernel(context) {
    std::string by;
    OP_REQUIRES_OK(context, context->GetAttr("k", &k_));
    OP_REQUIRES_OK(context, context->GetAttr("by", &by));
    attributes_ = by == "magnitude" ? "{magnitude = true}" : "{magnitude = false}";
  }

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Operand> operands;
    OP_REQUIRES_OK(context, ReadOperands(context, &operands));
    const Operand& x = operands[0];
    OP_REQUIRES_OK(context, CheckRows("x", x));
    OP_REQUIRES_OK(context, CheckKInRange(k_, LastOf(x.shape)));
    const TensorShape code = WithLast(x.shape, k_);
    const auto results =
        CallHandler(kSparseTopKHandler, operands, {RowMajor(x.dtype, code), RowMajor(xla::S32, code)}, attributes_);
    context->SetOutput(0, x.Resize(results[0]));
    context->SetOutput(1, x.Resize(results[1]));
  }

 private:
  int64_t k_;
  std::string attributes_;
};

class EncodeXlaOp : public XlaOpKernel {
 public:
  explicit EncodeXlaOp(OpKernelConstruction* context) : XlaOpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("k", &k_));
  }

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Operand> operands;
    OP_REQUIRES_OK(context, ReadOperands(context, &operands));
    const Operand& x = operands[0];
    OP_REQUIRES_OK(context, CheckRows("x", x));
    OP_REQUIRES_OK(context, CheckKernel(operands[1].shape, LastOf(x.shape)));
    const int64_t n = operands[1].shape.dim_size(0);
    OP_REQUIRES_OK(context, CheckBias(operands[2].shape, n));
    OP_REQUIRES_OK(context, CheckKInRange(k_, n));
    const TensorShape code = WithLast(x.shape, k_);
    const auto results =
        CallHandler(kSparseEncodeHandler, operands, {RowMajor(x.dtype, code), RowMajor(xla::S32, code)});
    context->SetOutput(0, x.Resize(results[0]));
    context->SetOutput(1, x.Resize(results[1]));
  }

 private:
  int64_t k_;
};

class DecodeXlaOp : public XlaOpKernel {
 public:
  using XlaOpKernel::XlaOpKernel;

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Operand> operands;
    OP_REQUIRES_OK(context, ReadOperands(context, &operands));
    const Operand values = operands[0];
    OP_REQUIRES_OK(context, CheckRows("values", values));
    OP_REQUIRES_OK(context, CheckCode(values.shape, operands[1].shape));
    OP_REQUIRES_OK(context, CheckKernel(operands[2].shape, -1));
    OP_REQUIRES_OK(context, CheckBias(operands[3].shape, operands[2].shape.dim_size(1)));
    ZeroBeyond(context, 1, &operands[1]);
    const TensorShape y = WithLast(values.shape, operands[2].shape.dim_size(1));
    context->SetOutput(0, values.Resize(CallHandler(kSparseDecodeHandler, operands, {RowMajor(values.dtype, y)})[0]));
  }
};

class GatherDotXlaOp : public XlaOpKernel {
 public:
  using XlaOpKernel::XlaOpKernel;

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Operand> operands;
    OP_REQUIRES_OK(context, ReadOperands(context, &operands));
    const Operand x = operands[0];
    OP_REQUIRES_OK(context, CheckRows("x", x));
    OP_REQUIRES_OK(context, CheckSameRows(x.shape, operands[2].shape));
    OP_REQUIRES_OK(context, CheckKernel(operands[1].shape, LastOf(x.shape)));
    ZeroBeyond(context, 2, &operands[2]);
    const auto results = CallHandler(kSparseGatherDotHandler, operands, {RowMajor(x.dtype, operands[2].shape)});
    context->SetOutput(0, x.Resize(results[0]));
  }
};

// As many rows as latents can be in use. Those that are not in use are zeros (see AddUnusedLatents).
class RowsXlaOp : public XlaOpKernel {
 public:
  using XlaOpKernel::XlaOpKernel;

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Operand> operands;
    int64_t n;
    OP_REQUIRES_OK(context, ReadOperands(context, &operands));
    OP_REQUIRES_OK(context, context->ConstantInputAsIntScalar(3, &n));
    OP_REQUIRES_OK(context, CheckRows("values", operands[0]));
    OP_REQUIRES_OK(context, CheckRows("x", operands[2]));
    OP_REQUIRES_OK(context, CheckCode(operands[0].shape, operands[1].shape));
    OP_REQUIRES_OK(context, CheckSameRows(operands[2].shape, operands[1].shape));
    operands.pop_back();
    for (int input : {0, 1}) ZeroBeyond(context, input, &operands[input]);
    const int64_t used = std::min(n, operands[0].shape.num_elements());
    const auto results = CallHandler(kSparseRowsHandler, operands,
                                     {RowMajor(KernelType(context), TensorShape({used, LastOf(operands[2].shape)})),
                                      RowMajor(xla::S32, TensorShape({used}))},
                                     absl::StrCat("{n = ", n, " : i64}"));
    context->SetOutput(0, results[0]);
    context->SetOutput(1, results[1]);
  }

 private:
  static xla::PrimitiveType KernelType(XlaOpKernelContext* context) {
    xla::PrimitiveType type;
    TF_CHECK_OK(::tensorflow::DataTypeToPrimitiveType(context->expected_output_dtype(0), &type));
    return type;
  }
};

// Reads the variable and its moments, which become the first three operands, in place of their handles.
absl::Status ReadMoments(XlaOpKernelContext* context, ::tensorflow::DataType dtype, std::vector<Operand>* operands) {
  xla::PrimitiveType type;
  TF_RETURN_IF_ERROR(::tensorflow::DataTypeToPrimitiveType(dtype, &type));
  for (int input = 0; input < 3; ++input) {
    Operand operand{xla::XlaOp(), type};
    TF_RETURN_IF_ERROR(context->ReadVariableInput(input, dtype, &operand.shape, &operand.op));
    operands->push_back(operand);
    if (operand.shape == operands->front().shape) continue;
    return InvalidArgument("m and v must have the variable's shape, ", operands->front().shape.DebugString(),
                           ". Received: ", operand.shape.DebugString());
  }
  return absl::OkStatus();
}

// Calls a handler of Adam, whose last operand are the step's numbers, and assigns its results to the variables.
void CallAdam(XlaOpKernelContext* context, const char* name, ::tensorflow::DataType dtype,
              std::vector<Operand> operands, const std::string& attributes) {
  std::vector<xla::XlaOp> numbers;
  for (int input = context->num_inputs() - 4; input < context->num_inputs(); ++input) {
    Operand number;
    OP_REQUIRES_OK(context, ReadOperand(context, input, &number));
    OP_REQUIRES_OK(context, CheckScalar("alpha, beta_1, beta_2 and epsilon", number.shape));
    numbers.push_back(xla::Reshape(number.op, {1}));
  }
  const Operand& variable = operands[0];
  operands.push_back({xla::ConcatInDim(context->builder(), numbers, 0), xla::F64, TensorShape({4})});
  const xla::Shape shape = RowMajor(variable.dtype, variable.shape);
  const auto results = CallHandler(name, operands, {shape, shape, shape}, attributes, /*has_side_effect=*/false,
                                   {{{0}, {0, {}}}, {{1}, {1, {}}}, {{2}, {2, {}}}});
  for (int input = 0; input < 3; ++input) {
    OP_REQUIRES_OK(context, context->AssignVariable(input, dtype, results[input]));
  }
}

class AdamXlaOp : public XlaOpKernel {
 public:
  explicit AdamXlaOp(OpKernelConstruction* context) : XlaOpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("dense", &dense_));
    OP_REQUIRES_OK(context, context->GetAttr("T", &dtype_));
  }

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Operand> operands;
    OP_REQUIRES_OK(context, ReadMoments(context, dtype_, &operands));
    for (int input : {3, 4}) {
      Operand operand;
      OP_REQUIRES_OK(context, ReadOperand(context, input, &operand));
      OP_REQUIRES(context, operand.bounded_axes.empty(),
                  InvalidArgument("gradient and latents must have sizes that are known when XLA compiles"));
      operands.push_back(operand);
    }
    TensorShape expected = operands[0].shape;
    if (!dense_) OP_REQUIRES_OK(context, CheckLatentsShape(operands[4].shape, &expected));
    OP_REQUIRES_OK(context, CheckGradient(operands[3].shape, expected));
    CallAdam(context, kSparseAdamHandler, dtype_, operands, dense_ ? "{dense = true}" : "{dense = false}");
  }

 private:
  bool dense_;
  ::tensorflow::DataType dtype_;
};

class RowsAdamXlaOp : public XlaOpKernel {
 public:
  explicit RowsAdamXlaOp(OpKernelConstruction* context) : XlaOpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("T", &dtype_));
  }

  void Compile(XlaOpKernelContext* context) override {
    std::vector<Operand> operands;
    OP_REQUIRES_OK(context, ReadMoments(context, dtype_, &operands));
    for (int input : {3, 4, 5}) {
      Operand operand;
      OP_REQUIRES_OK(context, ReadOperand(context, input, &operand));
      operands.push_back(operand);
    }
    OP_REQUIRES_OK(context, CheckRows("values", operands[3]));
    OP_REQUIRES_OK(context, CheckRows("x", operands[5]));
    OP_REQUIRES_OK(context, CheckCode(operands[3].shape, operands[4].shape));
    OP_REQUIRES_OK(context, CheckSameRows(operands[5].shape, operands[4].shape));
    OP_REQUIRES_OK(context, CheckKernel(operands[0].shape, LastOf(operands[5].shape)));
    for (int input : {3, 4}) ZeroBeyond(context, input, &operands[input]);
    CallAdam(context, kSparseRowsAdamHandler, dtype_, operands, "");
  }

 private:
  ::tensorflow::DataType dtype_;
};

#define REGISTER_XLA_KERNEL(NAME, OP) \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>" NAME).Device(::tensorflow::DEVICE_CPU_XLA_JIT), OP)

REGISTER_XLA_KERNEL("SparseTopK", TopKXlaOp);
REGISTER_XLA_KERNEL("SparseEncode", EncodeXlaOp);
REGISTER_XLA_KERNEL("SparseDecode", DecodeXlaOp);
REGISTER_XLA_KERNEL("SparseGatherDot", GatherDotXlaOp);
REGISTER_KERNEL_BUILDER(Name("SeparationFactor>SparseRows").Device(::tensorflow::DEVICE_CPU_XLA_JIT).HostMemory("n"),
                        RowsXlaOp);
REGISTER_XLA_KERNEL("SparseAdam", AdamXlaOp);
REGISTER_XLA_KERNEL("SparseRowsAdam", RowsAdamXlaOp);

}  // namespace
}  // namespace separationfactor
