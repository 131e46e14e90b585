// The CPU kernels. They pass raw pointers and TensorFlow's thread pool to the core.

#include <cstdint>

#include "absl/status/status.h"
#include "core/arguments.h"
#include "core/cpu/instruction_set.h"
#include "core/separate.h"
#include "tensorflow/kernels-inl.h"
#include "tensorflow/pool.h"

namespace separationfactor {
namespace {

template <class T>
double Scalar(const Tensor& tensor) {
  return static_cast<double>(tensor.scalar<T>()());
}

template <class T>
double Number(const FactorInput& factor) {
  return factor.tensor != nullptr ? Scalar<T>(*factor.tensor) : factor.value;
}

// Rounds a sum. The half types round via float32, as TensorFlow's cast does.
template <class T>
T Round(double sum) {
  if constexpr (sizeof(T) < sizeof(float)) return static_cast<T>(static_cast<float>(sum));
  return static_cast<T>(sum);
}

struct Cpu {
  template <class T>
  static absl::Status Separate(OpKernelContext* context, const RowsSpec& rows, Score score, int64_t k,
                               const FactorInput& separation, const FactorInput& suppression, const Tensor& x,
                               Tensor* y, Tensor* selected) {
    auto args = MakeSeparateArgs<SeparateArgs>(rows, score, k, Number<T>(separation), Number<T>(suppression), x.data(),
                                               y->data(), selected->data());
    args.threads = ThreadsOf(context);
    separationfactor::Separate(args, PoolOf(context));
    return absl::OkStatus();
  }

  template <class T>
  static absl::Status ScaleSelected(OpKernelContext* context, const RowsSpec& rows, const Tensor& v,
                                    const Tensor& selected, const Tensor& separation, const Tensor& suppression,
                                    Tensor* out) {
    auto args = MakeScaleSelectedArgs<ScaleSelectedArgs>(rows, Scalar<T>(separation), Scalar<T>(suppression), v.data(),
                                                         selected.data(), out->data());
    args.threads = ThreadsOf(context);
    separationfactor::ScaleSelected(args, PoolOf(context));
    return absl::OkStatus();
  }

  template <class T>
  static absl::Status SumSelected(OpKernelContext* context, const RowsSpec& rows, const Tensor& u, const Tensor& v,
                                  const Tensor& selected, Tensor* selected_sum, Tensor* others_sum) {
    const auto args = MakeSumSelectedArgs<SumSelectedArgs>(rows, u.data(), v.data(), selected.data());
    const SelectedSums sums = separationfactor::SumSelected(args, PoolOf(context));
    selected_sum->scalar<T>()() = Round<T>(sums.selected);
    others_sum->scalar<T>()() = Round<T>(sums.others);
    return absl::OkStatus();
  }
};

REGISTER_ALL_KERNELS(Cpu, ::tensorflow::DEVICE_CPU);

}  // namespace

// Python's build_info() calls this through ctypes.
extern "C" __attribute__((visibility("default"))) const char* SeparationFactorInstructionSet() {
  return InstructionSetName(CurrentInstructionSet());
}

}  // namespace separationfactor
