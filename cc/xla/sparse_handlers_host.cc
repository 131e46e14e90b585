// The handlers of the sparse path for the CPU. The lowering has checked shapes and dtypes. Indices are known only at
// run time, so they are checked here.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/arguments.h"
#include "core/sparse.h"
#include "xla/buffers-inl.h"
#include "xla/handlers.h"
#include "xla/host_pool.h"

namespace separationfactor {
namespace {

using Result = ffi::Result<ffi::AnyBuffer>;

int64_t LastOf(const ffi::AnyBuffer& buffer) { return buffer.dimensions().back(); }

int32_t* Int32Of(const ffi::AnyBuffer& buffer) { return static_cast<int32_t*>(buffer.untyped_data()); }

// An empty bias is none.
const void* BiasOf(const ffi::AnyBuffer& bias) { return bias.element_count() == 0 ? nullptr : bias.untyped_data(); }

// The indices of a code as int32. Sets `error` if one is not in [0, n).
class Indices {
 public:
  Indices(const ffi::AnyBuffer& buffer, int64_t n, std::string* error) {
    const auto count = static_cast<int64_t>(buffer.element_count());
    if (buffer.element_type() == ffi::S32) {
      data_ = Int32Of(buffer);
      *error = CheckIndices(data_, count, n);
      return;
    }
    const auto* wide = static_cast<const int64_t*>(buffer.untyped_data());
    *error = CheckIndices(wide, count, n);
    if (!error->empty()) return;
    narrow_.assign(wide, wide + count);
    data_ = narrow_.data();
  }
  const int32_t* data() const { return data_; }

 private:
  const int32_t* data_ = nullptr;
  std::vector<int32_t> narrow_;
};

ffi::Error TopKHost(ffi::ThreadPool pool, ffi::AnyBuffer x, Result values, Result indices, bool magnitude) {
  const RowsSpec rows = RowsOf(x);
  TopKArgs args{};
  args.dtype = rows.dtype;
  args.score = magnitude ? Score::kMagnitude : Score::kValue;
  args.rows = rows.rows;
  args.n = rows.n;
  args.k = LastOf(*values);
  args.x = x.untyped_data();
  args.values = values->untyped_data();
  args.indices = Int32Of(*indices);
  args.threads = ThreadsOf(pool);
  if (values->element_count() > 0) TopK(args, PoolOf(pool, args.threads));
  return ffi::Error::Success();
}

ffi::Error EncodeHost(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::AnyBuffer bias, Result values,
                      Result indices) {
  EncodeArgs args{};
  args.dtype = DTypeOf(x);
  args.kernel_dtype = DTypeOf(kernel);
  args.rows = RowsOf(x).rows;
  args.d = LastOf(x);
  args.n = kernel.dimensions()[0];
  args.k = LastOf(*values);
  args.x = x.untyped_data();
  args.kernel = kernel.untyped_data();
  args.bias = BiasOf(bias);
  args.values = values->untyped_data();
  args.indices = Int32Of(*indices);
  args.threads = ThreadsOf(pool);
  Encode(args, PoolOf(pool, args.threads));
  return ffi::Error::Success();
}

ffi::Error DecodeHost(ffi::ThreadPool pool, ffi::AnyBuffer values, ffi::AnyBuffer index_buffer, ffi::AnyBuffer kernel,
                      ffi::AnyBuffer bias, Result y) {
  std::string error;
  const Indices indices(index_buffer, kernel.dimensions()[0], &error);
  if (!error.empty()) return ffi::Error::InvalidArgument(error);
  DecodeArgs args{};
  args.dtype = DTypeOf(values);
  args.kernel_dtype = DTypeOf(kernel);
  args.rows = RowsOf(values).rows;
  args.k = LastOf(values);
  args.d = LastOf(kernel);
  args.values = values.untyped_data();
  args.indices = indices.data();
  args.kernel = kernel.untyped_data();
  args.bias = BiasOf(bias);
  args.y = y->untyped_data();
  Decode(args, PoolOf(pool, ThreadsOf(pool)));
  return ffi::Error::Success();
}

ffi::Error GatherDotHost(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::AnyBuffer index_buffer,
                         Result s) {
  std::string error;
  const Indices indices(index_buffer, kernel.dimensions()[0], &error);
  if (!error.empty()) return ffi::Error::InvalidArgument(error);
  GatherDotArgs args{};
  args.dtype = DTypeOf(x);
  args.kernel_dtype = DTypeOf(kernel);
  args.rows = RowsOf(index_buffer).rows;
  args.k = LastOf(index_buffer);
  args.d = LastOf(x);
  args.x = x.untyped_data();
  args.kernel = kernel.untyped_data();
  args.indices = indices.data();
  args.s = s->untyped_data();
  GatherDot(args, PoolOf(pool, ThreadsOf(pool)));
  return ffi::Error::Success();
}

// Transposes a code of n latents. Sets `error` if an index is not in [0, n).
TransposedCode TransposeCode(const ffi::AnyBuffer& values, const ffi::AnyBuffer& index_buffer, int64_t n,
                             std::string* error) {
  const Indices indices(index_buffer, n, error);
  if (!error->empty()) return {};
  TransposeArgs args{};
  args.dtype = DTypeOf(values);
  args.rows = RowsOf(values).rows;
  args.k = LastOf(values);
  args.n = n;
  args.values = values.untyped_data();
  args.indices = indices.data();
  return Transpose(args);
}

// Adds latents that are not in use, the first ones, until there are `count`. XLA's shapes are static, so there are as
// many rows as latents could be in use. Distinct latents make the gradient of rows that are not there zero.
void AddUnusedLatents(int64_t count, TransposedCode* code) {
  auto unused = count - static_cast<int64_t>(code->latents.size());
  std::vector<int32_t> latents;
  std::vector<int64_t> begins;
  size_t used = 0;
  for (int32_t latent = 0; static_cast<int64_t>(latents.size()) < count; ++latent) {
    if (used < code->latents.size() && code->latents[used] == latent) {
      begins.push_back(code->begins[used++]);
    } else if (unused > 0) {
      begins.push_back(code->begins[used]);
      --unused;
    } else {
      continue;
    }
    latents.push_back(latent);
  }
  begins.push_back(code->begins.back());
  code->latents = std::move(latents);
  code->begins = std::move(begins);
}

ffi::Error RowsHost(ffi::ThreadPool pool, ffi::AnyBuffer values, ffi::AnyBuffer indices, ffi::AnyBuffer x, Result rows,
                    Result latents, int64_t n) {
  std::string error;
  TransposedCode code = TransposeCode(values, indices, n, &error);
  if (!error.empty()) return ffi::Error::InvalidArgument(error);
  AddUnusedLatents(rows->dimensions()[0], &code);
  std::copy(code.latents.begin(), code.latents.end(), Int32Of(*latents));
  SumRowsArgs args{};
  args.dtype = DTypeOf(x);
  args.kernel_dtype = DTypeOf(*rows);
  args.d = LastOf(x);
  args.code = &code;
  args.x = x.untyped_data();
  args.sums = rows->untyped_data();
  SumRows(args, PoolOf(pool, ThreadsOf(pool)));
  return ffi::Error::Success();
}

// The arguments of a step, which are the same for both forms of Adam. XLA may give the results other memory.
AdamArgs MakeAdamArgs(const ffi::AnyBuffer& variable, const ffi::AnyBuffer& m, const ffi::AnyBuffer& v,
                      const ffi::AnyBuffer& numbers, const ffi::AnyBuffer& variable_result,
                      const ffi::AnyBuffer& m_result, const ffi::AnyBuffer& v_result) {
  const std::pair<const ffi::AnyBuffer*, const ffi::AnyBuffer*> pairs[] = {
      {&variable, &variable_result}, {&m, &m_result}, {&v, &v_result}};
  for (const auto& [from, to] : pairs) {
    if (from->untyped_data() != to->untyped_data()) {
      std::memcpy(to->untyped_data(), from->untyped_data(), from->size_bytes());
    }
  }
  AdamArgs args{};
  args.dtype = DTypeOf(variable);
  const auto shape = variable.dimensions();
  args.n = shape.size() == 0 ? 1 : shape[0];
  args.d = args.n == 0 ? 0 : static_cast<int64_t>(variable.element_count()) / args.n;
  args.variable = variable_result.untyped_data();
  args.m = m_result.untyped_data();
  args.v = v_result.untyped_data();
  const auto* values = static_cast<const double*>(numbers.untyped_data());
  args.alpha = values[0];
  args.beta_1 = values[1];
  args.beta_2 = values[2];
  args.epsilon = values[3];
  return args;
}

ffi::Error AdamHost(ffi::ThreadPool pool, ffi::AnyBuffer variable, ffi::AnyBuffer m, ffi::AnyBuffer v,
                    ffi::AnyBuffer gradient, ffi::AnyBuffer latents, ffi::AnyBuffer numbers, Result variable_result,
                    Result m_result, Result v_result, bool dense) {
  AdamArgs args = MakeAdamArgs(variable, m, v, numbers, *variable_result, *m_result, *v_result);
  if (!dense) {
    static constexpr int32_t kNone = 0;
    args.used = static_cast<int64_t>(latents.element_count());
    args.latents = args.used > 0 ? Int32Of(latents) : &kNone;
    const std::string error = CheckLatents(args.latents, args.used, args.n);
    if (!error.empty()) return ffi::Error::InvalidArgument(error);
  }
  args.gradient = gradient.untyped_data();
  if (args.n * args.d > 0) Adam(args, PoolOf(pool, ThreadsOf(pool)));
  return ffi::Error::Success();
}

ffi::Error RowsAdamHost(ffi::ThreadPool pool, ffi::AnyBuffer variable, ffi::AnyBuffer m, ffi::AnyBuffer v,
                        ffi::AnyBuffer values, ffi::AnyBuffer indices, ffi::AnyBuffer x, ffi::AnyBuffer numbers,
                        Result variable_result, Result m_result, Result v_result) {
  const AdamArgs args = MakeAdamArgs(variable, m, v, numbers, *variable_result, *m_result, *v_result);
  std::string error;
  const TransposedCode code = TransposeCode(values, indices, args.n, &error);
  if (!error.empty()) return ffi::Error::InvalidArgument(error);
  SumRowsArgs rows{};
  rows.dtype = DTypeOf(x);
  rows.kernel_dtype = args.dtype;
  rows.d = args.d;
  rows.code = &code;
  rows.x = x.untyped_data();
  if (args.n * args.d > 0) SumRowsAdam(args, rows, PoolOf(pool, ThreadsOf(pool)));
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kTopKHost, TopKHost,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()  // x
                           .Ret<ffi::AnyBuffer>()  // values
                           .Ret<ffi::AnyBuffer>()  // indices
                           .Attr<bool>("magnitude"));
XLA_FFI_DEFINE_HANDLER(kEncodeHost, EncodeHost,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()    // x
                           .Arg<ffi::AnyBuffer>()    // kernel
                           .Arg<ffi::AnyBuffer>()    // bias
                           .Ret<ffi::AnyBuffer>()    // values
                           .Ret<ffi::AnyBuffer>());  // indices
XLA_FFI_DEFINE_HANDLER(kDecodeHost, DecodeHost,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()    // values
                           .Arg<ffi::AnyBuffer>()    // indices
                           .Arg<ffi::AnyBuffer>()    // kernel
                           .Arg<ffi::AnyBuffer>()    // bias
                           .Ret<ffi::AnyBuffer>());  // y
XLA_FFI_DEFINE_HANDLER(kGatherDotHost, GatherDotHost,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()    // x
                           .Arg<ffi::AnyBuffer>()    // kernel
                           .Arg<ffi::AnyBuffer>()    // indices
                           .Ret<ffi::AnyBuffer>());  // s
XLA_FFI_DEFINE_HANDLER(kRowsHost, RowsHost,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()  // values
                           .Arg<ffi::AnyBuffer>()  // indices
                           .Arg<ffi::AnyBuffer>()  // x
                           .Ret<ffi::AnyBuffer>()  // rows
                           .Ret<ffi::AnyBuffer>()  // latents
                           .Attr<int64_t>("n"));
XLA_FFI_DEFINE_HANDLER(kAdamHost, AdamHost,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()  // variable
                           .Arg<ffi::AnyBuffer>()  // m
                           .Arg<ffi::AnyBuffer>()  // v
                           .Arg<ffi::AnyBuffer>()  // gradient
                           .Arg<ffi::AnyBuffer>()  // latents
                           .Arg<ffi::AnyBuffer>()  // alpha, beta_1, beta_2, epsilon
                           .Ret<ffi::AnyBuffer>()  // variable
                           .Ret<ffi::AnyBuffer>()  // m
                           .Ret<ffi::AnyBuffer>()  // v
                           .Attr<bool>("dense"));
XLA_FFI_DEFINE_HANDLER(kRowsAdamHost, RowsAdamHost,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()    // variable
                           .Arg<ffi::AnyBuffer>()    // m
                           .Arg<ffi::AnyBuffer>()    // v
                           .Arg<ffi::AnyBuffer>()    // values
                           .Arg<ffi::AnyBuffer>()    // indices
                           .Arg<ffi::AnyBuffer>()    // x
                           .Arg<ffi::AnyBuffer>()    // alpha, beta_1, beta_2, epsilon
                           .Ret<ffi::AnyBuffer>()    // variable
                           .Ret<ffi::AnyBuffer>()    // m
                           .Ret<ffi::AnyBuffer>());  // v

XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSparseTopKHandler, "Host", kTopKHost);
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSparseEncodeHandler, "Host", kEncodeHost);
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSparseDecodeHandler, "Host", kDecodeHost);
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSparseGatherDotHandler, "Host", kGatherDotHost);
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSparseRowsHandler, "Host", kRowsHost);
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSparseAdamHandler, "Host", kAdamHost);
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSparseRowsAdamHandler, "Host", kRowsAdamHost);

}  // namespace
}  // namespace separationfactor
