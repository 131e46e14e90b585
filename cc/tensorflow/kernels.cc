// CPU kernels: they hand raw pointers and TensorFlow's thread pool to the core.

#include <cstdint>
#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "core/separate.h"
#include "tensorflow/kernels-inl.h"

namespace separationfactor {
namespace {

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

template <class T>
double Scalar(const Tensor& tensor) {
  return static_cast<double>(tensor.scalar<T>()());
}

template <class T>
double Number(const FactorInput& factor) {
  return factor.tensor != nullptr ? Scalar<T>(*factor.tensor) : factor.value;
}

// The half types by way of float32, as a cast to them does in TensorFlow.
template <class T>
T Round(double sum) {
  if constexpr (sizeof(T) < sizeof(float)) return static_cast<T>(static_cast<float>(sum));
  return static_cast<T>(sum);
}

struct Cpu {
  template <class T>
  static absl::Status Separate(OpKernelContext* context, Score score, Rows shape, int64_t k,
                               const FactorInput& separation, const FactorInput& suppression, const Tensor& x,
                               Tensor* y, Tensor* selected) {
    SeparateArgs args{};
    args.dtype = kDType<T>;
    args.score = score;
    args.rows = shape.rows;
    args.n = shape.n;
    args.k = k;
    args.separation = Number<T>(separation);
    args.suppression = Number<T>(suppression);
    args.x = x.data();
    args.y = y->data();
    args.selected = selected->flat<uint8_t>().data();
    args.threads = ThreadsOf(context);
    separationfactor::Separate(args, PoolOf(context));
    return absl::OkStatus();
  }

  template <class T>
  static absl::Status ScaleSelected(OpKernelContext* context, Rows shape, const Tensor& v, const Tensor& selected,
                                    const Tensor& separation, const Tensor& suppression, Tensor* out) {
    ScaleSelectedArgs args{};
    args.dtype = kDType<T>;
    args.rows = shape.rows;
    args.n = shape.n;
    args.separation = Scalar<T>(separation);
    args.suppression = Scalar<T>(suppression);
    args.v = v.data();
    args.selected = selected.flat<uint8_t>().data();
    args.out = out->data();
    args.threads = ThreadsOf(context);
    separationfactor::ScaleSelected(args, PoolOf(context));
    return absl::OkStatus();
  }

  template <class T>
  static absl::Status SumSelected(OpKernelContext* context, Rows shape, const Tensor& u, const Tensor& v,
                                  const Tensor& selected, Tensor* selected_sum, Tensor* others_sum) {
    SumSelectedArgs args{};
    args.dtype = kDType<T>;
    args.rows = shape.rows;
    args.n = shape.n;
    args.u = u.data();
    args.v = v.data();
    args.selected = selected.flat<uint8_t>().data();
    const SelectedSums sums = separationfactor::SumSelected(args, PoolOf(context));
    selected_sum->scalar<T>()() = Round<T>(sums.selected);
    others_sum->scalar<T>()() = Round<T>(sums.others);
    return absl::OkStatus();
  }
};

REGISTER_ALL_KERNELS(Cpu, ::tensorflow::DEVICE_CPU);

}  // namespace
}  // namespace separationfactor
