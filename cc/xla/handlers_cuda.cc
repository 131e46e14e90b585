// The handlers for CUDA: typed-FFI functions that pass device pointers, scratch from XLA's allocator and XLA's stream
// to the core.
//
// The lowering has checked shapes and dtypes. k is in device memory, so it cannot be checked here: if it is out of
// range, the kernels write NaN (core/cuda/separate_cuda.h).

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "core/arguments.h"
#include "core/cuda/current_device.h"
#include "core/cuda/separate_cuda.h"
#include "xla/buffers-inl.h"
#include "xla/handlers.h"

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

// The allocator frees the memory when the handler returns. This is safe, because its next user runs later on the
// stream.
ffi::Error AllocateScratch(ffi::ScratchAllocator& allocator, int64_t bytes, void** scratch) {
  if (bytes == 0) return ffi::Error::Success();
  const auto allocated = allocator.Allocate(static_cast<size_t>(bytes), /*alignment=*/16);
  if (!allocated.has_value()) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "cannot allocate " + std::to_string(bytes) + " bytes of scratch");
  }
  *scratch = *allocated;
  return ffi::Error::Success();
}

ffi::Error SeparateCuda(cudaStream_t stream, ffi::ScratchAllocator allocator, ffi::AnyBuffer x, ffi::AnyBuffer k,
                        ffi::AnyBuffer separation, ffi::AnyBuffer suppression, ffi::Result<ffi::AnyBuffer> y,
                        ffi::Result<ffi::AnyBuffer> selected, bool magnitude) {
  if (x.element_count() == 0) return ffi::Error::Success();
  cuda::Device device;
  if (ffi::Error error = ErrorOf(cuda::CurrentDevice(&device)); error.failure()) return error;
  const RowsSpec rows = RowsOf(x);
  auto args = MakeSeparateArgs<cuda::SeparateArgs>(
      rows, magnitude ? Score::kMagnitude : Score::kValue, cuda::K{k.untyped_data(), k.element_type() == ffi::S64},
      FactorOf(separation), FactorOf(suppression), x.untyped_data(), y->untyped_data(), selected->untyped_data());
  const int64_t bytes = cuda::SeparateScratchBytes(rows.dtype, rows.rows, rows.n, device);
  if (ffi::Error error = AllocateScratch(allocator, bytes, &args.scratch); error.failure()) return error;
  return ErrorOf(cuda::Separate(args, device, stream));
}

ffi::Error ScaleSelectedCuda(cudaStream_t stream, ffi::AnyBuffer v, ffi::AnyBuffer selected, ffi::AnyBuffer separation,
                             ffi::AnyBuffer suppression, ffi::Result<ffi::AnyBuffer> out) {
  if (v.element_count() == 0) return ffi::Error::Success();
  cuda::Device device;
  if (ffi::Error error = ErrorOf(cuda::CurrentDevice(&device)); error.failure()) return error;
  const auto args =
      MakeScaleSelectedArgs<cuda::ScaleSelectedArgs>(RowsOf(v), FactorOf(separation), FactorOf(suppression),
                                                     v.untyped_data(), selected.untyped_data(), out->untyped_data());
  return ErrorOf(cuda::ScaleSelected(args, device, stream));
}

ffi::Error SumSelectedCuda(cudaStream_t stream, ffi::ScratchAllocator allocator, ffi::AnyBuffer u, ffi::AnyBuffer v,
                           ffi::AnyBuffer selected, ffi::Result<ffi::AnyBuffer> selected_sum,
                           ffi::Result<ffi::AnyBuffer> others_sum) {
  cuda::Device device;
  if (ffi::Error error = ErrorOf(cuda::CurrentDevice(&device)); error.failure()) return error;
  const RowsSpec rows = RowsOf(u);
  auto args =
      MakeSumSelectedArgs<cuda::SumSelectedArgs>(rows, u.untyped_data(), v.untyped_data(), selected.untyped_data());
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
