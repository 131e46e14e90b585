// CPU kernels: they hand raw pointers and TensorFlow's thread pool to the core.

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "core/cpu/instruction_set.h"
#include "core/separate.h"
#include "tensorflow/kernels-inl.h"
#include "tensorflow/shared_loop.h"

namespace separationfactor {
namespace {

int ThreadsOf(OpKernelContext* context) { return context->device()->tensorflow_cpu_worker_threads()->num_threads; }

// TensorFlow's own pool, as the core borrows it. Its own ParallelFor would wait for every thread it has called.
ParallelFor PoolOf(OpKernelContext* context) {
  auto* workers = context->device()->tensorflow_cpu_worker_threads()->workers;
  return ShareLoops(ThreadsOf(context), [workers](std::function<void()> task) { workers->Schedule(std::move(task)); });
}

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

// What Python's build_info() reports, by way of ctypes.
extern "C" __attribute__((visibility("default"))) const char* SeparationFactorInstructionSet() {
  return InstructionSetName(CurrentInstructionSet());
}

}  // namespace separationfactor
