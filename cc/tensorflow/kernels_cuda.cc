// The GPU kernels. They pass device pointers, scratch from TensorFlow's allocator and the op's stream to the core.
//
// They are a separate library, so the CPU kernels still load if this library cannot. The factors are read on the
// device, where trained factors are. k is in host memory, like all int32 tensors of TensorFlow, so it is validated.

#define EIGEN_USE_GPU

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "core/arguments.h"
#include "core/cuda/current_device.h"
#include "core/cuda/separate_cuda.h"
#include "tensorflow/kernels-inl.h"
#include "unsupported/Eigen/CXX11/Tensor"

namespace separationfactor {
namespace {

cuda::Factor FactorOf(const Tensor& tensor) {
  cuda::Factor factor;
  factor.on_device = tensor.data();
  return factor;
}

cuda::Factor FactorOf(const FactorInput& input) {
  if (input.tensor != nullptr) return FactorOf(*input.tensor);
  cuda::Factor factor;
  factor.value = input.value;
  return factor;
}

absl::Status StatusOf(const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InternalError(error);
}

// The memory is free for other kernels as soon as the op returns. This is safe, because they run later on the stream.
absl::Status AllocateScratch(OpKernelContext* context, int64_t bytes, Tensor* scratch) {
  if (bytes == 0) return absl::OkStatus();
  return context->allocate_temp(::tensorflow::DT_UINT8, TensorShape({bytes}), scratch);
}

struct Gpu {
  template <class T>
  static absl::Status Separate(OpKernelContext* context, const RowsSpec& rows, Score score, int64_t k,
                               const FactorInput& separation, const FactorInput& suppression, const Tensor& x,
                               Tensor* y, Tensor* selected) {
    cuda::Device device;
    TF_RETURN_IF_ERROR(StatusOf(cuda::CurrentDevice(&device)));
    Tensor scratch;
    const int64_t bytes = cuda::SeparateScratchBytes(rows.dtype, rows.rows, rows.n, device);
    TF_RETURN_IF_ERROR(AllocateScratch(context, bytes, &scratch));

    auto args = MakeSeparateArgs<cuda::SeparateArgs>(rows, score, cuda::K{nullptr, false, k}, FactorOf(separation),
                                                     FactorOf(suppression), x.data(), y->data(), selected->data());
    args.scratch = scratch.data();
    return StatusOf(cuda::Separate(args, device, context->eigen_gpu_device().stream()));
  }

  template <class T>
  static absl::Status ScaleSelected(OpKernelContext* context, const RowsSpec& rows, const Tensor& v,
                                    const Tensor& selected, const Tensor& separation, const Tensor& suppression,
                                    Tensor* out) {
    cuda::Device device;
    TF_RETURN_IF_ERROR(StatusOf(cuda::CurrentDevice(&device)));
    const auto args = MakeScaleSelectedArgs<cuda::ScaleSelectedArgs>(rows, FactorOf(separation), FactorOf(suppression),
                                                                     v.data(), selected.data(), out->data());
    return StatusOf(cuda::ScaleSelected(args, device, context->eigen_gpu_device().stream()));
  }

  template <class T>
  static absl::Status SumSelected(OpKernelContext* context, const RowsSpec& rows, const Tensor& u, const Tensor& v,
                                  const Tensor& selected, Tensor* selected_sum, Tensor* others_sum) {
    cuda::Device device;
    TF_RETURN_IF_ERROR(StatusOf(cuda::CurrentDevice(&device)));
    Tensor scratch;
    TF_RETURN_IF_ERROR(AllocateScratch(context, cuda::SumSelectedScratchBytes(rows.rows, rows.n), &scratch));

    auto args = MakeSumSelectedArgs<cuda::SumSelectedArgs>(rows, u.data(), v.data(), selected.data());
    args.selected_sum = selected_sum->data();
    args.others_sum = others_sum->data();
    args.scratch = scratch.data();
    return StatusOf(cuda::SumSelected(args, device, context->eigen_gpu_device().stream()));
  }
};

REGISTER_ALL_KERNELS(Gpu, ::tensorflow::DEVICE_GPU);

}  // namespace
}  // namespace separationfactor
