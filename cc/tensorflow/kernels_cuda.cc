// GPU kernels: they hand device pointers, scratch from TensorFlow's allocator and the op's stream to the core.
//
// They make a library of their own, so that one that cannot load leaves the CPU's kernels be. The factors are read
// on the device, where trained ones are; k comes from host memory, as TensorFlow keeps its int32 tensors, and so is
// checked.

#define EIGEN_USE_GPU

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
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

// TensorFlow makes the op's card current before it computes.
absl::Status CurrentDevice(cuda::Device* device) {
  int ordinal;
  cudaError_t error = cudaGetDevice(&ordinal);
  if (error == cudaSuccess) error = cuda::GetDevice(ordinal, device);
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the attributes of the CUDA device: ", cudaGetErrorString(error)));
}

// Other kernels may have the memory as soon as the op returns: what they do comes later in the stream.
absl::Status AllocateScratch(OpKernelContext* context, int64_t bytes, Tensor* scratch) {
  if (bytes == 0) return absl::OkStatus();
  return context->allocate_temp(::tensorflow::DT_UINT8, TensorShape({bytes}), scratch);
}

struct Gpu {
  template <class T>
  static absl::Status Separate(OpKernelContext* context, Score score, Rows shape, int64_t k,
                               const FactorInput& separation, const FactorInput& suppression, const Tensor& x,
                               Tensor* y, Tensor* selected) {
    cuda::Device device;
    TF_RETURN_IF_ERROR(CurrentDevice(&device));
    Tensor scratch;
    const int64_t bytes = cuda::SeparateScratchBytes(kDType<T>, shape.rows, shape.n, device);
    TF_RETURN_IF_ERROR(AllocateScratch(context, bytes, &scratch));

    cuda::SeparateArgs args{};
    args.dtype = kDType<T>;
    args.score = score;
    args.rows = shape.rows;
    args.n = shape.n;
    args.k.value = k;
    args.separation = FactorOf(separation);
    args.suppression = FactorOf(suppression);
    args.x = x.data();
    args.y = y->data();
    args.selected = selected->flat<uint8_t>().data();
    args.scratch = scratch.data();
    return StatusOf(cuda::Separate(args, device, context->eigen_gpu_device().stream()));
  }

  template <class T>
  static absl::Status ScaleSelected(OpKernelContext* context, Rows shape, const Tensor& v, const Tensor& selected,
                                    const Tensor& separation, const Tensor& suppression, Tensor* out) {
    cuda::Device device;
    TF_RETURN_IF_ERROR(CurrentDevice(&device));
    cuda::ScaleSelectedArgs args{};
    args.dtype = kDType<T>;
    args.rows = shape.rows;
    args.n = shape.n;
    args.separation = FactorOf(separation);
    args.suppression = FactorOf(suppression);
    args.v = v.data();
    args.selected = selected.flat<uint8_t>().data();
    args.out = out->data();
    return StatusOf(cuda::ScaleSelected(args, device, context->eigen_gpu_device().stream()));
  }

  template <class T>
  static absl::Status SumSelected(OpKernelContext* context, Rows shape, const Tensor& u, const Tensor& v,
                                  const Tensor& selected, Tensor* selected_sum, Tensor* others_sum) {
    cuda::Device device;
    TF_RETURN_IF_ERROR(CurrentDevice(&device));
    Tensor scratch;
    TF_RETURN_IF_ERROR(AllocateScratch(context, cuda::SumSelectedScratchBytes(shape.rows, shape.n), &scratch));

    cuda::SumSelectedArgs args{};
    args.dtype = kDType<T>;
    args.rows = shape.rows;
    args.n = shape.n;
    args.u = u.data();
    args.v = v.data();
    args.selected = selected.flat<uint8_t>().data();
    args.selected_sum = selected_sum->data();
    args.others_sum = others_sum->data();
    args.scratch = scratch.data();
    return StatusOf(cuda::SumSelected(args, device, context->eigen_gpu_device().stream()));
  }
};

REGISTER_ALL_KERNELS(Gpu, ::tensorflow::DEVICE_GPU);

}  // namespace
}  // namespace separationfactor
