// The handlers for the CPU: typed-FFI functions that pass raw pointers and XLA's thread pool to the core.
//
// The lowering has checked shapes and dtypes. k is known only at run time, so it is checked here.

#include <cstdint>
#include <string>

#include "core/arguments.h"
#include "core/separate.h"
#include "core/types.h"
#include "xla/buffers-inl.h"
#include "xla/handlers.h"
#include "xla/host_pool.h"

namespace separationfactor {
namespace {

int64_t ReadK(const ffi::AnyBuffer& k) {
  if (k.element_type() == ffi::S32) return *static_cast<const int32_t*>(k.untyped_data());
  return *static_cast<const int64_t*>(k.untyped_data());
}

// Rounds a number to the scalar's dtype. The half types round via float32, as TensorFlow's cast does.
void WriteScalar(double number, const ffi::AnyBuffer& scalar) {
  WithDType(DTypeOf(scalar), [&](auto traits) {
    using T = decltype(traits);
    *static_cast<typename T::Bits*>(scalar.untyped_data()) = T::FromNumber(static_cast<typename T::Number>(number));
  });
}

ffi::Error SeparateHost(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer k, ffi::AnyBuffer separation,
                        ffi::AnyBuffer suppression, ffi::Result<ffi::AnyBuffer> y, ffi::Result<ffi::AnyBuffer> selected,
                        bool magnitude) {
  const RowsSpec rows = RowsOf(x);
  const int64_t k_value = ReadK(k);
  const std::string error = CheckK(k_value, rows.n);
  if (!error.empty()) return ffi::Error::InvalidArgument(error);
  if (x.element_count() == 0) return ffi::Error::Success();
  auto args = MakeSeparateArgs<SeparateArgs>(rows, magnitude ? Score::kMagnitude : Score::kValue, k_value,
                                             ReadScalar(separation), ReadScalar(suppression), x.untyped_data(),
                                             y->untyped_data(), selected->untyped_data());
  args.threads = ThreadsOf(pool);
  Separate(args, PoolOf(pool, args.threads));
  return ffi::Error::Success();
}

ffi::Error ScaleSelectedHost(ffi::ThreadPool pool, ffi::AnyBuffer v, ffi::AnyBuffer selected, ffi::AnyBuffer separation,
                             ffi::AnyBuffer suppression, ffi::Result<ffi::AnyBuffer> out) {
  if (v.element_count() == 0) return ffi::Error::Success();
  auto args = MakeScaleSelectedArgs<ScaleSelectedArgs>(RowsOf(v), ReadScalar(separation), ReadScalar(suppression),
                                                       v.untyped_data(), selected.untyped_data(), out->untyped_data());
  args.threads = ThreadsOf(pool);
  ScaleSelected(args, PoolOf(pool, args.threads));
  return ffi::Error::Success();
}

ffi::Error SumSelectedHost(ffi::ThreadPool pool, ffi::AnyBuffer u, ffi::AnyBuffer v, ffi::AnyBuffer selected,
                           ffi::Result<ffi::AnyBuffer> selected_sum, ffi::Result<ffi::AnyBuffer> others_sum) {
  const auto args =
      MakeSumSelectedArgs<SumSelectedArgs>(RowsOf(u), u.untyped_data(), v.untyped_data(), selected.untyped_data());
  const SelectedSums sums = SumSelected(args, PoolOf(pool, ThreadsOf(pool)));
  WriteScalar(sums.selected, *selected_sum);
  WriteScalar(sums.others, *others_sum);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kSeparateHost, SeparateHost,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()  // x
                           .Arg<ffi::AnyBuffer>()  // k
                           .Arg<ffi::AnyBuffer>()  // separation
                           .Arg<ffi::AnyBuffer>()  // suppression
                           .Ret<ffi::AnyBuffer>()  // y
                           .Ret<ffi::AnyBuffer>()  // selected
                           .Attr<bool>("magnitude"));
XLA_FFI_DEFINE_HANDLER(kScaleSelectedHost, ScaleSelectedHost,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()    // v
                           .Arg<ffi::AnyBuffer>()    // selected
                           .Arg<ffi::AnyBuffer>()    // separation
                           .Arg<ffi::AnyBuffer>()    // suppression
                           .Ret<ffi::AnyBuffer>());  // out
XLA_FFI_DEFINE_HANDLER(kSumSelectedHost, SumSelectedHost,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()    // u
                           .Arg<ffi::AnyBuffer>()    // v
                           .Arg<ffi::AnyBuffer>()    // selected
                           .Ret<ffi::AnyBuffer>()    // selected_sum
                           .Ret<ffi::AnyBuffer>());  // others_sum

XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSeparateHandler, "Host", kSeparateHost);
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kScaleSelectedHandler, "Host", kScaleSelectedHost);
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSumSelectedHandler, "Host", kSumSelectedHost);

}  // namespace
}  // namespace separationfactor
