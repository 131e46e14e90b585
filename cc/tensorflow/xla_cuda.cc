// What XLA calls on a CUDA device: typed-FFI handlers that hand device pointers, scratch from XLA's allocator and XLA's
// stream to the core.
//
// Shapes and dtypes were checked where the call was made (xla.cc). k is on the device, where only the kernels see it:
// they make NaN of all where it is out of range (core/cuda/separate_cuda.h).

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "core/cuda/separate_cuda.h"
#include "tensorflow/xla_buffers-inl.h"
#include "tensorflow/xla_handlers.h"

namespace separationfactor {
namespace {

cuda::Factor FactorOf(const ffi::AnyBuffer& scalar) {
  cuda::Factor factor;
  factor.on_device = scalar.untyped_data();
  return factor;
}

ffi::Error ErrorOf(const std::string& error) {
  return error.empty() ? ffi::Error::Success() : ffi::Error::Internal(error);
}

// XLA makes the card of the stream current before it calls.
ffi::Error CurrentDevice(cuda::Device* device) {
  int ordinal;
  cudaError_t error = cudaGetDevice(&ordinal);
  if (error == cudaSuccess) error = cuda::GetDevice(ordinal, device);
  if (error == cudaSuccess) return ffi::Error::Success();
  return ffi::Error::Internal(std::string("the attributes of the CUDA device: ") + cudaGetErrorString(error));
}

// The allocator takes the memory back when the handler returns, for use later in the stream.
ffi::Error AllocateScratch(ffi::ScratchAllocator& allocator, int64_t bytes, void** scratch) {
  if (bytes == 0) return ffi::Error::Success();
  const auto allocated = allocator.Allocate(static_cast<size_t>(bytes), /*alignment=*/16);
  if (!allocated.has_value()) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no " + std::to_string(bytes) + " bytes of scratch");
  }
  *scratch = *allocated;
  return ffi::Error::Success();
}

ffi::Error SeparateCuda(cudaStream_t stream, ffi::ScratchAllocator allocator, ffi::AnyBuffer x, ffi::AnyBuffer k,
                        ffi::AnyBuffer separation, ffi::AnyBuffer suppression, ffi::Result<ffi::AnyBuffer> y,
                        ffi::Result<ffi::AnyBuffer> selected, bool magnitude) {
  if (x.element_count() == 0) return ffi::Error::Success();
  cuda::Device device;
  if (ffi::Error error = CurrentDevice(&device); error.failure()) return error;
  const Rows rows = RowsOf(x);
  cuda::SeparateArgs args{};
  args.dtype = DTypeOf(x);
  args.score = magnitude ? Score::kMagnitude : Score::kValue;
  args.rows = rows.rows;
  args.n = rows.n;
  args.k.on_device = k.untyped_data();
  args.k.is_int64 = k.element_type() == ffi::S64;
  args.separation = FactorOf(separation);
  args.suppression = FactorOf(suppression);
  args.x = x.untyped_data();
  args.y = y->untyped_data();
  args.selected = static_cast<uint8_t*>(selected->untyped_data());
  const int64_t bytes = cuda::SeparateScratchBytes(args.dtype, rows.rows, rows.n, device);
  if (ffi::Error error = AllocateScratch(allocator, bytes, &args.scratch); error.failure()) return error;
  return ErrorOf(cuda::Separate(args, device, stream));
}

ffi::Error ScaleSelectedCuda(cudaStream_t stream, ffi::AnyBuffer v, ffi::AnyBuffer selected, ffi::AnyBuffer separation,
                             ffi::AnyBuffer suppression, ffi::Result<ffi::AnyBuffer> out) {
  if (v.element_count() == 0) return ffi::Error::Success();
  cuda::Device device;
  if (ffi::Error error = CurrentDevice(&device); error.failure()) return error;
  const Rows rows = RowsOf(v);
  cuda::ScaleSelectedArgs args{};
  args.dtype = DTypeOf(v);
  args.rows = rows.rows;
  args.n = rows.n;
  args.separation = FactorOf(separation);
  args.suppression = FactorOf(suppression);
  args.v = v.untyped_data();
  args.selected = static_cast<const uint8_t*>(selected.untyped_data());
  args.out = out->untyped_data();
  return ErrorOf(cuda::ScaleSelected(args, device, stream));
}

ffi::Error SumSelectedCuda(cudaStream_t stream, ffi::ScratchAllocator allocator, ffi::AnyBuffer u, ffi::AnyBuffer v,
                           ffi::AnyBuffer selected, ffi::Result<ffi::AnyBuffer> selected_sum,
                           ffi::Result<ffi::AnyBuffer> others_sum) {
  cuda::Device device;
  if (ffi::Error error = CurrentDevice(&device); error.failure()) return error;
  const Rows rows = RowsOf(u);
  cuda::SumSelectedArgs args{};
  args.dtype = DTypeOf(u);
  args.rows = rows.rows;
  args.n = rows.n;
  args.u = u.untyped_data();
  args.v = v.untyped_data();
  args.selected = static_cast<const uint8_t*>(selected.untyped_data());
  args.selected_sum = selected_sum->untyped_data();
  args.others_sum = others_sum->untyped_data();
  const int64_t bytes = cuda::SumSelectedScratchBytes(rows.rows, rows.n);
  if (ffi::Error error = AllocateScratch(allocator, bytes, &args.scratch); error.failure()) return error;
  return ErrorOf(cuda::SumSelected(args, device, stream));
}

XLA_FFI_DEFINE_HANDLER(kSeparateCuda, SeparateCuda,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::PlatformStream<cudaStream_t>>()
                           .Ctx<ffi::ScratchAllocator>()
                           .Arg<ffi::AnyBuffer>()  // x
                           .Arg<ffi::AnyBuffer>()  // k
                           .Arg<ffi::AnyBuffer>()  // separation
                           .Arg<ffi::AnyBuffer>()  // suppression
                           .Ret<ffi::AnyBuffer>()  // y
                           .Ret<ffi::AnyBuffer>()  // selected
                           .Attr<bool>("magnitude"));
XLA_FFI_DEFINE_HANDLER(kScaleSelectedCuda, ScaleSelectedCuda,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::PlatformStream<cudaStream_t>>()
                           .Arg<ffi::AnyBuffer>()    // v
                           .Arg<ffi::AnyBuffer>()    // selected
                           .Arg<ffi::AnyBuffer>()    // separation
                           .Arg<ffi::AnyBuffer>()    // suppression
                           .Ret<ffi::AnyBuffer>());  // out
XLA_FFI_DEFINE_HANDLER(kSumSelectedCuda, SumSelectedCuda,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::PlatformStream<cudaStream_t>>()
                           .Ctx<ffi::ScratchAllocator>()
                           .Arg<ffi::AnyBuffer>()    // u
                           .Arg<ffi::AnyBuffer>()    // v
                           .Arg<ffi::AnyBuffer>()    // selected
                           .Ret<ffi::AnyBuffer>()    // selected_sum
                           .Ret<ffi::AnyBuffer>());  // others_sum

XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSeparateHandler, "CUDA", kSeparateCuda);
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kScaleSelectedHandler, "CUDA", kScaleSelectedCuda);
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSumSelectedHandler, "CUDA", kSumSelectedCuda);

}  // namespace
}  // namespace separationfactor
