// The CPU kernels of the sparse path. They validate, allocate and call core/sparse.h.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/arguments.h"
#include "core/separate.h"
#include "core/sparse.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"
#include "tensorflow/pool.h"
#include "tensorflow/sparse_shapes.h"
#include "tensorflow/types.h"
#include "tensorflow/validation.h"

namespace separationfactor {
namespace {

using ::tensorflow::OpKernel;
using ::tensorflow::OpKernelConstruction;
using ::tensorflow::OpKernelContext;
using ::tensorflow::Tensor;
using ::tensorflow::TensorShape;
using ::tensorflow::Var;

// The number of rows. It cannot be the elements divided by the rows' length, which may be 0.
int64_t RowCount(const TensorShape& shape) { return RowsOf(shape, DType::kFloat32).rows; }

// An empty bias is none.
const void* BiasOf(const Tensor& bias) { return bias.NumElements() == 0 ? nullptr : bias.data(); }

absl::Status StatusOf(const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
}

// The indices of a code as int32, in [0, n).
class Indices {
 public:
  absl::Status Read(const Tensor& tensor, int64_t n) {
    const int64_t count = tensor.NumElements();
    if (tensor.dtype() == ::tensorflow::DT_INT32) {
      data_ = tensor.flat<int32_t>().data();
      return StatusOf(CheckIndices(data_, count, n));
    }
    const int64_t* const wide = tensor.flat<int64_t>().data();
    TF_RETURN_IF_ERROR(StatusOf(CheckIndices(wide, count, n)));
    narrow_.assign(wide, wide + count);
    data_ = narrow_.data();
    return absl::OkStatus();
  }
  const int32_t* data() const { return data_; }

 private:
  const int32_t* data_ = nullptr;
  std::vector<int32_t> narrow_;
};

template <class T>
class TopKOp : public OpKernel {
 public:
  explicit TopKOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string by;
    OP_REQUIRES_OK(context, context->GetAttr("k", &k_));
    OP_REQUIRES_OK(context, context->GetAttr("by", &by));
    score_ = by == "magnitude" ? Score::kMagnitude : Score::kValue;
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    OP_REQUIRES_OK(context, CheckRows("x", x.shape()));
    OP_REQUIRES_OK(context, CheckKInRange(k_, LastOf(x.shape())));
    Tensor* values = nullptr;
    Tensor* indices = nullptr;
    const TensorShape code = WithLast(x.shape(), k_);
    OP_REQUIRES_OK(context, context->allocate_output(0, code, &values));
    OP_REQUIRES_OK(context, context->allocate_output(1, code, &indices));
    if (code.num_elements() == 0) return;
    TopKArgs args{};
    args.dtype = kDType<T>;
    args.score = score_;
    args.rows = RowCount(x.shape());
    args.n = LastOf(x.shape());
    args.k = k_;
    args.x = x.data();
    args.values = values->data();
    args.indices = indices->flat<int32_t>().data();
    args.threads = ThreadsOf(context);
    TopK(args, PoolOf(context));
  }

 private:
  int64_t k_;
  Score score_;
};

template <class T, class W>
class EncodeOp : public OpKernel {
 public:
  explicit EncodeOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("k", &k_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& kernel = context->input(1);
    OP_REQUIRES_OK(context, CheckRows("x", x.shape()));
    OP_REQUIRES_OK(context, CheckKernel(kernel.shape(), LastOf(x.shape())));
    EncodeArgs args{};
    args.dtype = kDType<T>;
    args.kernel_dtype = kDType<W>;
    args.rows = RowCount(x.shape());
    args.d = LastOf(x.shape());
    args.n = kernel.dim_size(0);
    args.k = k_;
    OP_REQUIRES_OK(context, CheckBias(context->input(2).shape(), args.n));
    args.bias = BiasOf(context->input(2));
    OP_REQUIRES_OK(context, CheckKInRange(k_, args.n));
    Tensor* values = nullptr;
    Tensor* indices = nullptr;
    const TensorShape code = WithLast(x.shape(), k_);
    OP_REQUIRES_OK(context, context->allocate_output(0, code, &values));
    OP_REQUIRES_OK(context, context->allocate_output(1, code, &indices));
    args.x = x.data();
    args.kernel = kernel.data();
    args.values = values->data();
    args.indices = indices->flat<int32_t>().data();
    args.threads = ThreadsOf(context);
    Encode(args, PoolOf(context));
  }

 private:
  int64_t k_;
};

template <class T, class W>
class DecodeOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& values = context->input(0);
    const Tensor& kernel = context->input(2);
    OP_REQUIRES_OK(context, CheckCode(values.shape(), context->input(1).shape()));
    OP_REQUIRES_OK(context, CheckKernel(kernel.shape(), -1));
    DecodeArgs args{};
    args.dtype = kDType<T>;
    args.kernel_dtype = kDType<W>;
    args.rows = RowCount(values.shape());
    args.k = LastOf(values.shape());
    args.d = kernel.dim_size(1);
    OP_REQUIRES_OK(context, CheckBias(context->input(3).shape(), args.d));
    args.bias = BiasOf(context->input(3));
    Indices indices;
    OP_REQUIRES_OK(context, indices.Read(context->input(1), kernel.dim_size(0)));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, WithLast(values.shape(), args.d), &y));
    args.values = values.data();
    args.indices = indices.data();
    args.kernel = kernel.data();
    args.y = y->data();
    Decode(args, PoolOf(context));
  }
};

template <class T, class W>
class GatherDotOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    const Tensor& kernel = context->input(1);
    const TensorShape& code = context->input(2).shape();
    OP_REQUIRES_OK(context, CheckSameRows(x.shape(), code));
    OP_REQUIRES_OK(context, CheckKernel(kernel.shape(), LastOf(x.shape())));
    Indices indices;
    OP_REQUIRES_OK(context, indices.Read(context->input(2), kernel.dim_size(0)));
    Tensor* s = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, code, &s));
    GatherDotArgs args{};
    args.dtype = kDType<T>;
    args.kernel_dtype = kDType<W>;
    args.rows = RowCount(code);
    args.k = LastOf(code);
    args.d = LastOf(x.shape());
    args.x = x.data();
    args.kernel = kernel.data();
    args.indices = indices.data();
    args.s = s->data();
    GatherDot(args, PoolOf(context));
  }
};

// Transposes a code whose rows are as many as those of x.
template <class T>
absl::Status ReadCode(const Tensor& values, const Tensor& index_tensor, const Tensor& x, int64_t n,
                      TransposedCode* code) {
  TF_RETURN_IF_ERROR(CheckCode(values.shape(), index_tensor.shape()));
  TF_RETURN_IF_ERROR(CheckSameRows(x.shape(), index_tensor.shape()));
  if (n < 0 || n > std::numeric_limits<int32_t>::max()) {
    return InvalidArgument("n must be in [0, 2^31). Received: n = ", n);
  }
  Indices indices;
  TF_RETURN_IF_ERROR(indices.Read(index_tensor, n));
  TransposeArgs args{};
  args.dtype = kDType<T>;
  args.rows = RowCount(values.shape());
  args.k = LastOf(values.shape());
  args.n = n;
  args.values = values.data();
  args.indices = indices.data();
  if (args.rows > std::numeric_limits<int32_t>::max()) {
    return InvalidArgument("values must have at most 2^31 - 1 rows. Received: shape ", values.shape().DebugString());
  }
  *code = Transpose(args);
  return absl::OkStatus();
}

template <class T, class W>
class RowsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(2);
    OP_REQUIRES_OK(context, CheckScalar("n", context->input(3).shape()));
    TransposedCode code;
    OP_REQUIRES_OK(context,
                   ReadCode<T>(context->input(0), context->input(1), x, context->input(3).scalar<int64_t>()(), &code));
    const auto used = static_cast<int64_t>(code.latents.size());
    Tensor* rows = nullptr;
    Tensor* latents = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({used, LastOf(x.shape())}), &rows));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({used}), &latents));
    std::copy(code.latents.begin(), code.latents.end(), latents->flat<int32_t>().data());
    SumRowsArgs args{};
    args.dtype = kDType<T>;
    args.kernel_dtype = kDType<W>;
    args.d = LastOf(x.shape());
    args.code = &code;
    args.x = x.data();
    args.sums = rows->data();
    SumRows(args, PoolOf(context));
  }
};

// A variable and its moments, locked while they are updated.
template <class T>
class Moments {
 public:
  // Reads the variables from the first three inputs.
  absl::Status Read(OpKernelContext* context) {
    static constexpr const char* kNames[] = {"variable", "m", "v"};
    for (int i = 0; i < 3; ++i) {
      TF_RETURN_IF_ERROR(LookupResource(context, ::tensorflow::HandleFromInput(context, i), &variables_[i]));
      order_[i] = variables_[i].get();
    }
    std::sort(order_, order_ + 3);
    if (std::unique(order_, order_ + 3) != order_ + 3) {
      return InvalidArgument("variable, m and v must be three variables. Received: one of them twice");
    }
    for (Var* variable : order_) variable->mu()->lock();
    locked_ = true;
    for (int i = 0; i < 3; ++i) {
      Tensor* tensor = variables_[i]->tensor();
      if (!variables_[i]->is_initialized || tensor->dtype() != ::tensorflow::DataTypeToEnum<T>::value) {
        return InvalidArgument(kNames[i], " must be an initialized variable of the gradient's dtype. Received: ",
                               ::tensorflow::DataTypeString(tensor->dtype()));
      }
      if (tensor->shape() != variables_[0]->tensor()->shape()) {
        return InvalidArgument(kNames[i], " must have the variable's shape, ",
                               variables_[0]->tensor()->shape().DebugString(),
                               ". Received: ", tensor->shape().DebugString());
      }
      // Somebody who has read the variable keeps what was read.
      if (!tensor->RefCountIsOne()) {
        Tensor copy;
        TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
        std::memcpy(copy.data(), tensor->data(), tensor->TotalBytes());
        *tensor = copy;
      }
    }
    return absl::OkStatus();
  }

  ~Moments() {
    if (!locked_) return;
    for (Var* variable : order_) variable->mu()->unlock();
  }

  // Sets what does not depend on the gradient. The last four inputs are the step's numbers.
  absl::Status Fill(OpKernelContext* context, AdamArgs* args) {
    double numbers[4];
    for (int i = 0; i < 4; ++i) {
      const Tensor& number = context->input(context->num_inputs() - 4 + i);
      TF_RETURN_IF_ERROR(CheckScalar("alpha, beta_1, beta_2 and epsilon", number.shape()));
      numbers[i] = number.scalar<double>()();
    }
    args->dtype = kDType<T>;
    args->alpha = numbers[0];
    args->beta_1 = numbers[1];
    args->beta_2 = numbers[2];
    args->epsilon = numbers[3];
    args->n = shape().dims() == 0 ? 1 : shape().dim_size(0);
    args->d = 1;
    for (int axis = 1; axis < shape().dims(); ++axis) args->d *= shape().dim_size(axis);
    args->variable = variables_[0]->tensor()->data();
    args->m = variables_[1]->tensor()->data();
    args->v = variables_[2]->tensor()->data();
    return absl::OkStatus();
  }

  const TensorShape& shape() { return variables_[0]->tensor()->shape(); }

 private:
  ::tensorflow::core::RefCountPtr<Var> variables_[3];
  Var* order_[3];  // in which they are locked
  bool locked_ = false;
};

template <class T>
class AdamOp : public OpKernel {
 public:
  explicit AdamOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("dense", &dense_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& gradient = context->input(3);
    const Tensor& latents = context->input(4);
    Moments<T> moments;
    AdamArgs args{};
    OP_REQUIRES_OK(context, moments.Read(context));
    OP_REQUIRES_OK(context, moments.Fill(context, &args));
    TensorShape expected = moments.shape();
    if (!dense_) {
      OP_REQUIRES_OK(context, CheckLatentsShape(latents.shape(), &expected));
      args.latents = latents.flat<int32_t>().data();
      args.used = latents.dim_size(0);
      OP_REQUIRES_OK(context, StatusOf(CheckLatents(args.latents, args.used, args.n)));
    }
    OP_REQUIRES_OK(context, CheckGradient(gradient.shape(), expected));
    args.gradient = gradient.data();
    // An empty vector may have no data.
    static constexpr int32_t kNone = 0;
    if (!dense_ && args.latents == nullptr) args.latents = &kNone;
    if (args.n * args.d > 0) Adam(args, PoolOf(context));
  }

 private:
  bool dense_;
};

template <class T, class X>
class RowsAdamOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(5);
    Moments<T> moments;
    AdamArgs args{};
    OP_REQUIRES_OK(context, moments.Read(context));
    OP_REQUIRES_OK(context, moments.Fill(context, &args));
    OP_REQUIRES_OK(context, CheckRows("x", x.shape()));
    OP_REQUIRES_OK(context, CheckKernel(moments.shape(), LastOf(x.shape())));
    TransposedCode code;
    OP_REQUIRES_OK(context, ReadCode<X>(context->input(3), context->input(4), x, args.n, &code));
    SumRowsArgs rows{};
    rows.dtype = kDType<X>;
    rows.kernel_dtype = kDType<T>;
    rows.d = args.d;
    rows.code = &code;
    rows.x = x.data();
    if (args.n * args.d > 0) SumRowsAdam(args, rows, PoolOf(context));
  }
};

#define REGISTER(NAME, T, W, OP)                                                                                     \
  REGISTER_KERNEL_BUILDER(                                                                                           \
      Name("SeparationFactor>" NAME).Device(::tensorflow::DEVICE_CPU).TypeConstraint<T>("T").TypeConstraint<W>("W"), \
      OP<T, W>)
#define REGISTER_PAIR(T, W)                       \
  REGISTER("SparseEncode", T, W, EncodeOp);       \
  REGISTER("SparseDecode", T, W, DecodeOp);       \
  REGISTER("SparseGatherDot", T, W, GatherDotOp); \
  REGISTER("SparseRows", T, W, RowsOp)

REGISTER_PAIR(float, float);
REGISTER_PAIR(double, double);
REGISTER_PAIR(::tensorflow::bfloat16, ::tensorflow::bfloat16);
REGISTER_PAIR(::tensorflow::bfloat16, float);
REGISTER_PAIR(Eigen::half, Eigen::half);
REGISTER_PAIR(Eigen::half, float);

#define REGISTER_TOP_K(T)                                                                                              \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>SparseTopK").Device(::tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          TopKOp<T>)
REGISTER_TOP_K(float);
REGISTER_TOP_K(double);
REGISTER_TOP_K(::tensorflow::bfloat16);
REGISTER_TOP_K(Eigen::half);

#define REGISTER_ADAM(T)                                                                                               \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>SparseAdam").Device(::tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
                          AdamOp<T>)
REGISTER_ADAM(float);
REGISTER_ADAM(double);

#define REGISTER_ROWS_ADAM(T, X)                                  \
  REGISTER_KERNEL_BUILDER(Name("SeparationFactor>SparseRowsAdam") \
                              .Device(::tensorflow::DEVICE_CPU)   \
                              .TypeConstraint<T>("T")             \
                              .TypeConstraint<X>("X"),            \
                          RowsAdamOp<T, X>)
REGISTER_ROWS_ADAM(float, float);
REGISTER_ROWS_ADAM(double, double);
REGISTER_ROWS_ADAM(float, ::tensorflow::bfloat16);
REGISTER_ROWS_ADAM(float, Eigen::half);

}  // namespace
}  // namespace separationfactor
