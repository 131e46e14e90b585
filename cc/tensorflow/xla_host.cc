// What XLA calls on the CPU: typed-FFI handlers that hand raw pointers and XLA's own thread pool to the core.
//
// Shapes and dtypes were checked where the call was made (xla.cc); what is known at run time alone is k.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "core/separate.h"
#include "core/types.h"
#include "tensorflow/arguments.h"
#include "tensorflow/shared_loop.h"
#include "tensorflow/xla_buffers-inl.h"
#include "tensorflow/xla_handlers.h"

namespace separationfactor {
namespace {

// XLA's own pool, as the core borrows it.
ParallelFor PoolOf(ffi::ThreadPool& pool, int64_t threads) {
  return ShareLoops(threads, [&pool](std::function<void()> task) { pool.Schedule(std::move(task)); });
}

int ThreadsOf(const ffi::ThreadPool& pool) { return static_cast<int>(std::max<int64_t>(1, pool.num_threads())); }

double ReadScalar(const ffi::AnyBuffer& scalar) {
  double number = 0;
  WithDType(DTypeOf(scalar), [&](auto traits) {
    using T = decltype(traits);
    number = static_cast<double>(T::ToNumber(*static_cast<const typename T::Bits*>(scalar.untyped_data())));
  });
  return number;
}

int64_t ReadK(const ffi::AnyBuffer& k) {
  if (k.element_type() == ffi::S32) return *static_cast<const int32_t*>(k.untyped_data());
  return *static_cast<const int64_t*>(k.untyped_data());
}

// The half types by way of float32, as a cast to them does in TensorFlow.
void WriteScalar(double number, const ffi::AnyBuffer& scalar) {
  WithDType(DTypeOf(scalar), [&](auto traits) {
    using T = decltype(traits);
    *static_cast<typename T::Bits*>(scalar.untyped_data()) = T::FromNumber(static_cast<typename T::Number>(number));
  });
}

ffi::Error SeparateHost(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer k, ffi::AnyBuffer separation,
                        ffi::AnyBuffer suppression, ffi::Result<ffi::AnyBuffer> y, ffi::Result<ffi::AnyBuffer> selected,
                        bool magnitude) {
  const Rows rows = RowsOf(x);
  SeparateArgs args{};
  args.k = ReadK(k);
  const absl::Status status = CheckK(args.k, rows.n);
  if (!status.ok()) return ffi::Error::InvalidArgument(std::string(status.message()));
  if (x.element_count() == 0) return ffi::Error::Success();
  args.dtype = DTypeOf(x);
  args.score = magnitude ? Score::kMagnitude : Score::kValue;
  args.rows = rows.rows;
  args.n = rows.n;
  args.separation = ReadScalar(separation);
  args.suppression = ReadScalar(suppression);
  args.x = x.untyped_data();
  args.y = y->untyped_data();
  args.selected = static_cast<uint8_t*>(selected->untyped_data());
  args.threads = ThreadsOf(pool);
  Separate(args, PoolOf(pool, args.threads));
  return ffi::Error::Success();
}

ffi::Error ScaleSelectedHost(ffi::ThreadPool pool, ffi::AnyBuffer v, ffi::AnyBuffer selected, ffi::AnyBuffer separation,
                             ffi::AnyBuffer suppression, ffi::Result<ffi::AnyBuffer> out) {
  if (v.element_count() == 0) return ffi::Error::Success();
  const Rows rows = RowsOf(v);
  ScaleSelectedArgs args{};
  args.dtype = DTypeOf(v);
  args.rows = rows.rows;
  args.n = rows.n;
  args.separation = ReadScalar(separation);
  args.suppression = ReadScalar(suppression);
  args.v = v.untyped_data();
  args.selected = static_cast<const uint8_t*>(selected.untyped_data());
  args.out = out->untyped_data();
  args.threads = ThreadsOf(pool);
  ScaleSelected(args, PoolOf(pool, args.threads));
  return ffi::Error::Success();
}

ffi::Error SumSelectedHost(ffi::ThreadPool pool, ffi::AnyBuffer u, ffi::AnyBuffer v, ffi::AnyBuffer selected,
                           ffi::Result<ffi::AnyBuffer> selected_sum, ffi::Result<ffi::AnyBuffer> others_sum) {
  const Rows rows = RowsOf(u);
  SumSelectedArgs args{};
  args.dtype = DTypeOf(u);
  args.rows = rows.rows;
  args.n = rows.n;
  args.u = u.untyped_data();
  args.v = v.untyped_data();
  args.selected = static_cast<const uint8_t*>(selected.untyped_data());
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
