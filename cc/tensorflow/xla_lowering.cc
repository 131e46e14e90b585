// Lowers the ops to XLA. Each op becomes one custom call. The handlers are in cc/xla, one file per platform.

#include <string>
#include <vector>

#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/validation.h"
#include "tensorflow/xla_calls-inl.h"
#include "xla/handlers.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape.h"

namespace separationfactor {
namespace {

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
