// The ops' kernels, written once for all devices. They validate, allocate and call the device.
//
// A Device is a class with three static functions:
//
//   template <class T>
//   static absl::Status Separate(OpKernelContext* context, const RowsSpec& rows, Score score, int64_t k,
//                                const FactorInput& separation, const FactorInput& suppression, const Tensor& x,
//                                Tensor* y, Tensor* selected);
//   template <class T>
//   static absl::Status ScaleSelected(OpKernelContext* context, const RowsSpec& rows, const Tensor& v,
//                                     const Tensor& selected, const Tensor& separation, const Tensor& suppression,
//                                     Tensor* out);
//   template <class T>
//   static absl::Status SumSelected(OpKernelContext* context, const RowsSpec& rows, const Tensor& u, const Tensor& v,
//                                   const Tensor& selected, Tensor* selected_sum, Tensor* others_sum);
//
// Separate and ScaleSelected are not called for empty tensors. k is in host memory on every device, so the op can
// report a k out of range. The other tensors are in the device's memory.

#ifndef SEPARATIONFACTOR_TENSORFLOW_KERNELS_INL_H_
#define SEPARATIONFACTOR_TENSORFLOW_KERNELS_INL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "core/arguments.h"
#include "core/separate.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/types.h"
#include "tensorflow/validation.h"

namespace separationfactor {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

// A factor: a scalar tensor in the device's memory or, if `tensor` is null, a number.
struct FactorInput {
  const Tensor* tensor;
  double value = 0;
};

absl::Status ReadK(const Tensor& tensor, int64_t n, int64_t* k) {
  TF_RETURN_IF_ERROR(CheckScalar("k", tensor.shape()));
  *k = tensor.dtype() == ::tensorflow::DT_INT32 ? tensor.scalar<int32_t>()() : tensor.scalar<int64_t>()();
  return CheckKInRange(*k, n);
}

template <class Device, class T>
class SeparateOp : public OpKernel {
 public:
  explicit SeparateOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string by;
    OP_REQUIRES_OK(context, context->GetAttr("by", &by));
    score_ = by == "magnitude" ? Score::kMagnitude : Score::kValue;
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& separation = context->input(2);
    const Tensor& suppression = context->input(3);
    OP_REQUIRES_OK(context, CheckRows("x", x.shape()));
    OP_REQUIRES_OK(context, CheckScalar("separation", separation.shape()));
    OP_REQUIRES_OK(context, CheckScalar("suppression", suppression.shape()));
    const RowsSpec rows = RowsOf(x.shape(), kDType<T>);
    int64_t k;
    OP_REQUIRES_OK(context, ReadK(context->input(1), rows.n, &k));

    Tensor* y = nullptr;
    Tensor* selected = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
    OP_REQUIRES_OK(context, context->allocate_output(1, BitmaskShape(x.shape()), &selected));
    if (x.NumElements() == 0) return;
    OP_REQUIRES_OK(context, Device::template Separate<T>(context, rows, score_, k, FactorInput{&separation},
                                                         FactorInput{&suppression}, x, y, selected));
  }

 private:
  Score score_;
};

// Same as SeparateOp, but by value only and without an output for the gradient.
template <class Device, class T>
class SeparateWithoutGradientOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    OP_REQUIRES_OK(context, CheckRows("x", x.shape()));
    const RowsSpec rows = RowsOf(x.shape(), kDType<T>);
    int64_t k;
    FactorInput separation{nullptr}, suppression{nullptr};
    OP_REQUIRES_OK(context,
                   ReadScalars(context->input(1), kDType<T>, rows.n, &k, &separation.value, &suppression.value));

    Tensor* y = nullptr;
    Tensor selected;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
    OP_REQUIRES_OK(context, context->allocate_temp(::tensorflow::DT_UINT8, BitmaskShape(x.shape()), &selected));
    if (x.NumElements() == 0) return;
    OP_REQUIRES_OK(context, Device::template Separate<T>(context, rows, Score::kValue, k, separation, suppression, x, y,
                                                         &selected));
  }
};

template <class Device, class T>
class ScaleSelectedOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& v = context->input(0);
    const Tensor& selected = context->input(1);
    const Tensor& separation = context->input(2);
    const Tensor& suppression = context->input(3);
    OP_REQUIRES_OK(context, CheckRows("v", v.shape()));
    OP_REQUIRES_OK(context, CheckBitmask(v.shape(), selected.shape()));
    OP_REQUIRES_OK(context, CheckScalar("separation", separation.shape()));
    OP_REQUIRES_OK(context, CheckScalar("suppression", suppression.shape()));

    Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, v.shape(), &out));
    if (v.NumElements() == 0) return;
    OP_REQUIRES_OK(context, Device::template ScaleSelected<T>(context, RowsOf(v.shape(), kDType<T>), v, selected,
                                                              separation, suppression, out));
  }
};

template <class Device, class T>
class SumSelectedOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& u = context->input(0);
    const Tensor& v = context->input(1);
    const Tensor& selected = context->input(2);
    OP_REQUIRES_OK(context, CheckRows("u", u.shape()));
    OP_REQUIRES_OK(context, CheckSameShape(u.shape(), v.shape()));
    OP_REQUIRES_OK(context, CheckBitmask(u.shape(), selected.shape()));

    Tensor* selected_sum = nullptr;
    Tensor* others_sum = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({}), &selected_sum));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({}), &others_sum));
    OP_REQUIRES_OK(context, Device::template SumSelected<T>(context, RowsOf(u.shape(), kDType<T>), u, v, selected,
                                                            selected_sum, others_sum));
  }
};

// Registers the kernels of a device for one type, and for all types. NAME is TensorFlow's name of the device.
#define REGISTER_KERNELS(DEVICE, NAME, T)                                                                         \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>Separate").Device(NAME).HostMemory("k").TypeConstraint<T>("T"),  \
                          SeparateOp<DEVICE, T>);                                                                 \
  REGISTER_KERNEL_BUILDER(                                                                                        \
      Name("SeparationFactor>SeparateWithoutGradient").Device(NAME).HostMemory("scalars").TypeConstraint<T>("T"), \
      SeparateWithoutGradientOp<DEVICE, T>);                                                                      \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>ScaleSelected").Device(NAME).TypeConstraint<T>("T"),             \
                          ScaleSelectedOp<DEVICE, T>);                                                            \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>SumSelected").Device(NAME).TypeConstraint<T>("T"),               \
                          SumSelectedOp<DEVICE, T>)

#define REGISTER_ALL_KERNELS(DEVICE, NAME)                \
  REGISTER_KERNELS(DEVICE, NAME, float);                  \
  REGISTER_KERNELS(DEVICE, NAME, double);                 \
  REGISTER_KERNELS(DEVICE, NAME, ::tensorflow::bfloat16); \
  REGISTER_KERNELS(DEVICE, NAME, Eigen::half)

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TENSORFLOW_KERNELS_INL_H_
