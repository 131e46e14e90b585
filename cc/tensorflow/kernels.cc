// CPU kernels: they validate, allocate, and hand raw pointers and TensorFlow's thread pool to the core.

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "core/separate.h"
#include "tensorflow/arguments.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/register_types.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"

namespace separationfactor {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;

template <class T>
constexpr DType kDType = DType::kFloat32;
template <>
constexpr DType kDType<double> = DType::kFloat64;
template <>
constexpr DType kDType<::tensorflow::bfloat16> = DType::kBFloat16;
template <>
constexpr DType kDType<Eigen::half> = DType::kFloat16;

// TensorFlow's own pool, as the core borrows it.
ParallelFor PoolOf(OpKernelContext* context) {
  auto* workers = context->device()->tensorflow_cpu_worker_threads()->workers;
  return [workers](int64_t total, int64_t cost, const std::function<void(int64_t, int64_t)>& work) {
    using ::tensorflow::thread::ThreadPool;
    // The pool counts in cycles; it runs what takes less than about 100,000 on the calling thread.
    constexpr int64_t kCyclesPerNanosecond = 3;
    const ThreadPool::SchedulingParams by_cost(ThreadPool::SchedulingStrategy::kAdaptive, cost * kCyclesPerNanosecond,
                                               std::nullopt);
    workers->ParallelFor(total, by_cost, work);
  };
}

int ThreadsOf(OpKernelContext* context) { return context->device()->tensorflow_cpu_worker_threads()->num_threads; }

absl::Status ReadScalar(OpKernelContext* context, const char* name, int input, double* value) {
  const Tensor& tensor = context->input(input);
  TF_RETURN_IF_ERROR(CheckScalar(name, tensor.shape()));
  switch (tensor.dtype()) {
    case ::tensorflow::DT_FLOAT:
      *value = tensor.scalar<float>()();
      break;
    case ::tensorflow::DT_DOUBLE:
      *value = tensor.scalar<double>()();
      break;
    case ::tensorflow::DT_BFLOAT16:
      *value = static_cast<double>(tensor.scalar<::tensorflow::bfloat16>()());
      break;
    case ::tensorflow::DT_HALF:
      *value = static_cast<double>(tensor.scalar<Eigen::half>()());
      break;
    default:
      return InvalidArgument(name, " has an unexpected dtype");
  }
  return absl::OkStatus();
}

absl::Status ReadK(OpKernelContext* context, int input, int64_t n, int64_t* k) {
  const Tensor& tensor = context->input(input);
  TF_RETURN_IF_ERROR(CheckScalar("k", tensor.shape()));
  *k = tensor.dtype() == ::tensorflow::DT_INT32 ? tensor.scalar<int32_t>()() : tensor.scalar<int64_t>()();
  return CheckK(*k, n);
}

template <class T>
class SeparateOp : public OpKernel {
 public:
  explicit SeparateOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string by;
    OP_REQUIRES_OK(context, context->GetAttr("by", &by));
    score_ = by == "magnitude" ? Score::kMagnitude : Score::kValue;
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    SeparateArgs args{};
    OP_REQUIRES_OK(context, CheckRows("x", x.shape()));
    const Rows rows = RowsOf(x.shape());
    OP_REQUIRES_OK(context, ReadK(context, 1, rows.n, &args.k));
    OP_REQUIRES_OK(context, ReadScalar(context, "separation", 2, &args.separation));
    OP_REQUIRES_OK(context, ReadScalar(context, "suppression", 3, &args.suppression));

    Tensor* y = nullptr;
    Tensor* selected = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
    OP_REQUIRES_OK(context, context->allocate_output(1, BitmaskShape(x.shape()), &selected));
    if (x.NumElements() == 0) return;

    args.dtype = kDType<T>;
    args.score = score_;
    args.rows = rows.rows;
    args.n = rows.n;
    args.x = x.data();
    args.y = y->data();
    args.selected = selected->flat<uint8_t>().data();
    args.threads = ThreadsOf(context);
    Separate(args, PoolOf(context));
  }

 private:
  Score score_;
};

template <class T>
class ScaleSelectedOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& v = context->input(0);
    const Tensor& selected = context->input(1);
    ScaleSelectedArgs args{};
    OP_REQUIRES_OK(context, CheckRows("v", v.shape()));
    OP_REQUIRES_OK(context, CheckBitmask(v.shape(), selected.shape()));
    OP_REQUIRES_OK(context, ReadScalar(context, "separation", 2, &args.separation));
    OP_REQUIRES_OK(context, ReadScalar(context, "suppression", 3, &args.suppression));

    Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, v.shape(), &out));
    if (v.NumElements() == 0) return;

    const Rows rows = RowsOf(v.shape());
    args.dtype = kDType<T>;
    args.rows = rows.rows;
    args.n = rows.n;
    args.v = v.data();
    args.selected = selected.flat<uint8_t>().data();
    args.out = out->data();
    args.threads = ThreadsOf(context);
    ScaleSelected(args, PoolOf(context));
  }
};

template <class T>
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

    const Rows rows = RowsOf(u.shape());
    SumSelectedArgs args{};
    args.dtype = kDType<T>;
    args.rows = rows.rows;
    args.n = rows.n;
    args.u = u.data();
    args.v = v.data();
    args.selected = selected.flat<uint8_t>().data();
    const SelectedSums sums = SumSelected(args, PoolOf(context));
    selected_sum->scalar<T>()() = Round(sums.selected);
    others_sum->scalar<T>()() = Round(sums.others);
  }

 private:
  // The half types by way of float32, as a cast to them does in TensorFlow.
  static T Round(double sum) {
    if constexpr (sizeof(T) < sizeof(float)) return static_cast<T>(static_cast<float>(sum));
    return static_cast<T>(sum);
  }
};

#define REGISTER_KERNELS(T)                                                                                          \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>Separate").Device(::tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          SeparateOp<T>);                                                                            \
  REGISTER_KERNEL_BUILDER(                                                                                           \
      Name("SeparationFactor>ScaleSelected").Device(::tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),                \
      ScaleSelectedOp<T>);                                                                                           \
  REGISTER_KERNEL_BUILDER(                                                                                           \
      Name("SeparationFactor>SumSelected").Device(::tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), SumSelectedOp<T>);

REGISTER_KERNELS(float);
REGISTER_KERNELS(double);
REGISTER_KERNELS(::tensorflow::bfloat16);
REGISTER_KERNELS(Eigen::half);

#undef REGISTER_KERNELS

}  // namespace
}  // namespace separationfactor
