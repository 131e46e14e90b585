// Registers the ops of the sparse path: names, types, shapes and documentation. core/sparse.h defines what they
// compute.

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace separationfactor {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

// Sets `k` to the attribute k, after checking it against the length of rows.
absl::Status ReadK(InferenceContext* c, DimensionHandle n, DimensionHandle* k) {
  int64_t value;
  TF_RETURN_IF_ERROR(c->GetAttr("k", &value));
  if (value < 0 || (c->ValueKnown(n) && value > c->Value(n))) {
    return absl::InvalidArgumentError(
        absl::StrCat("k must be in [0, n]. Received: k = ", value, ", n = ", c->DebugString(n)));
  }
  *k = c->MakeDim(value);
  return absl::OkStatus();
}

absl::Status ReplaceLast(InferenceContext* c, ShapeHandle shape, DimensionHandle last, ShapeHandle* replaced) {
  if (!c->RankKnown(shape)) {
    *replaced = c->UnknownShape();
    return absl::OkStatus();
  }
  return c->ReplaceDim(shape, -1, last, replaced);
}

// Returns an error if a bias is neither empty nor a vector of the given size.
absl::Status CheckBias(InferenceContext* c, ShapeHandle bias, DimensionHandle size) {
  TF_RETURN_IF_ERROR(c->WithRank(bias, 1, &bias));
  if (c->ValueKnown(c->Dim(bias, 0)) && c->Value(c->Dim(bias, 0)) == 0) return absl::OkStatus();
  DimensionHandle unused;
  return c->Merge(c->Dim(bias, 0), size, &unused);
}

absl::Status TopKShape(InferenceContext* c) {
  ShapeHandle x, code;
  DimensionHandle k;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &x));
  TF_RETURN_IF_ERROR(ReadK(c, c->RankKnown(x) ? c->Dim(x, -1) : c->UnknownDim(), &k));
  TF_RETURN_IF_ERROR(ReplaceLast(c, x, k, &code));
  c->set_output(0, code);
  c->set_output(1, code);
  return absl::OkStatus();
}

absl::Status EncodeShape(InferenceContext* c) {
  ShapeHandle x, kernel, code;
  DimensionHandle k, d;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &kernel));
  if (c->RankKnown(x)) TF_RETURN_IF_ERROR(c->Merge(c->Dim(x, -1), c->Dim(kernel, 1), &d));
  TF_RETURN_IF_ERROR(CheckBias(c, c->input(2), c->Dim(kernel, 0)));
  TF_RETURN_IF_ERROR(ReadK(c, c->Dim(kernel, 0), &k));
  TF_RETURN_IF_ERROR(ReplaceLast(c, x, k, &code));
  c->set_output(0, code);
  c->set_output(1, code);
  return absl::OkStatus();
}

absl::Status DecodeShape(InferenceContext* c) {
  ShapeHandle code, kernel, y;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &code));
  TF_RETURN_IF_ERROR(c->Merge(code, c->input(1), &code));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 2, &kernel));
  TF_RETURN_IF_ERROR(CheckBias(c, c->input(3), c->Dim(kernel, 1)));
  TF_RETURN_IF_ERROR(ReplaceLast(c, code, c->Dim(kernel, 1), &y));
  c->set_output(0, y);
  return absl::OkStatus();
}

absl::Status GatherDotShape(InferenceContext* c) {
  ShapeHandle x, kernel, indices, x_rows, index_rows;
  DimensionHandle d;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &kernel));
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(2), 1, &indices));
  if (c->RankKnown(x)) TF_RETURN_IF_ERROR(c->Merge(c->Dim(x, -1), c->Dim(kernel, 1), &d));
  if (c->RankKnown(x) && c->RankKnown(indices)) {
    TF_RETURN_IF_ERROR(c->Subshape(x, 0, -1, &x_rows));
    TF_RETURN_IF_ERROR(c->Subshape(indices, 0, -1, &index_rows));
    TF_RETURN_IF_ERROR(c->Merge(x_rows, index_rows, &x_rows));
  }
  c->set_output(0, indices);
  return absl::OkStatus();
}

absl::Status RowsShape(InferenceContext* c) {
  ShapeHandle code, x, n;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &code));
  TF_RETURN_IF_ERROR(c->Merge(code, c->input(1), &code));
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(2), 1, &x));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 0, &n));
  c->set_output(0, c->Matrix(c->UnknownDim(), c->RankKnown(x) ? c->Dim(x, -1) : c->UnknownDim()));
  c->set_output(1, c->Vector(c->UnknownDim()));
  return absl::OkStatus();
}

absl::Status AdamShape(InferenceContext* c) {
  ShapeHandle unused;
  for (int input = c->num_inputs() - 4; input < c->num_inputs(); ++input) {
    TF_RETURN_IF_ERROR(c->WithRank(c->input(input), 0, &unused));
  }
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("SeparationFactor>SparseTopK")
    .Input("x: T")
    .Output("values: T")
    .Output("indices: int32")
    .Attr("T: {float, double, bfloat16, half}")
    .Attr("k: int")
    .Attr("by: {'value', 'magnitude'} = 'value'")
    .SetShapeFn(TopKShape)
    .Doc(R"doc(
Returns the k greatest entries of each row as values and indices, ascending by index.

x: Rows along the last axis.
values: The selected entries.
indices: Their places in the row.
k: The number of selected entries per row, in [0, n].
by: The score that ranks entries: their value or their magnitude.
)doc");

REGISTER_OP("SeparationFactor>SparseEncode")
    .Input("x: T")
    .Input("kernel: W")
    .Input("bias: W")
    .Output("values: T")
    .Output("indices: int32")
    .Attr("T: {float, double, bfloat16, half}")
    .Attr("W: {float, double, bfloat16, half}")
    .Attr("k: int")
    .Attr("screen: {'none', 'bfloat16'} = 'none'")
    .SetShapeFn(EncodeShape)
    .Doc(R"doc(
Returns the k greatest entries of each row of x kernel^T + bias, ascending by index.

x: Examples of d features along the last axis.
kernel: A row of d weights for each of n latents.
bias: A vector of n numbers, or an empty one.
values: The selected entries.
indices: Their latents.
T: The type of examples and values.
W: The type of the weights: T, or float for the half types.
k: The number of selected entries per row, in [0, n].
screen: Whether a bfloat16 product may find candidates. The selection is that of the kernel's type in any case.
)doc");

REGISTER_OP("SeparationFactor>SparseDecode")
    .Input("values: T")
    .Input("indices: I")
    .Input("kernel: W")
    .Input("bias: W")
    .Output("y: T")
    .Attr("T: {float, double, bfloat16, half}")
    .Attr("W: {float, double, bfloat16, half}")
    .Attr("I: {int32, int64} = DT_INT32")
    .SetShapeFn(DecodeShape)
    .Doc(R"doc(
Sums the rows of a kernel that a code selects: y = bias + the sum over j of values[j] * kernel[indices[j]].

values: The entries of a code along the last axis.
indices: Their latents, in [0, n).
kernel: A row of d weights for each of n latents.
bias: A vector of d numbers, or an empty one.
y: Rows of d features.
)doc");

REGISTER_OP("SeparationFactor>SparseGatherDot")
    .Input("x: T")
    .Input("kernel: W")
    .Input("indices: I")
    .Output("s: T")
    .Attr("T: {float, double, bfloat16, half}")
    .Attr("W: {float, double, bfloat16, half}")
    .Attr("I: {int32, int64} = DT_INT32")
    .SetShapeFn(GatherDotShape)
    .Doc(R"doc(
Multiplies examples by the rows of a kernel that a code selects: s[j] = <x, kernel[indices[j]]>.

The gradient of SparseDecode with respect to the values.

x: Rows of d features along the last axis.
kernel: A row of d weights for each of n latents.
indices: Latents, in [0, n).
s: A product for each index.
)doc");

REGISTER_OP("SeparationFactor>SparseRows")
    .Input("values: T")
    .Input("indices: I")
    .Input("x: T")
    .Input("n: int64")
    .Output("rows: W")
    .Output("latents: int32")
    .Attr("T: {float, double, bfloat16, half}")
    .Attr("W: {float, double, bfloat16, half}")
    .Attr("I: {int32, int64} = DT_INT32")
    .SetShapeFn(RowsShape)
    .Doc(R"doc(
Sums, for each latent of a code, the examples that use it, each multiplied by its value.

The gradient of SparseDecode and of SparseGatherDot with respect to the kernel, for the latents in use.

values: The entries of a code along the last axis. Those of value zero are not in use.
indices: Their latents, in [0, n).
x: Rows of d features along the last axis, as many as the code's.
n: The number of latents, a scalar.
rows: A row of d sums for each latent in use.
latents: The latents in use, ascending.
)doc");

REGISTER_OP("SeparationFactor>SparseAdam")
    .Input("variable: resource")
    .Input("m: resource")
    .Input("v: resource")
    .Input("gradient: T")
    .Input("latents: int32")
    .Input("alpha: double")
    .Input("beta_1: double")
    .Input("beta_2: double")
    .Input("epsilon: double")
    .Attr("T: {float, double}")
    .Attr("dense: bool = false")
    .SetIsStateful()
    .SetShapeFn(AdamShape)
    .Doc(R"doc(
Makes a step of Adam, given the gradient of some of a variable's rows.

variable: The variable. Its rows are its entries along the first axis.
m: The first moments.
v: The second moments.
gradient: The gradient of the rows `latents`, or of all.
latents: The rows with a gradient, ascending and without repetition. The others' gradient is zero.
alpha: The learning rate times sqrt(1 - beta_2^t) / (1 - beta_1^t), at step t.
dense: Whether `gradient` is that of all rows. Then `latents` is not read.
)doc");

REGISTER_OP("SeparationFactor>SparseRowsAdam")
    .Input("variable: resource")
    .Input("m: resource")
    .Input("v: resource")
    .Input("values: X")
    .Input("indices: I")
    .Input("x: X")
    .Input("alpha: double")
    .Input("beta_1: double")
    .Input("beta_2: double")
    .Input("epsilon: double")
    .Attr("T: {float, double}")
    .Attr("X: {float, double, bfloat16, half}")
    .Attr("I: {int32, int64} = DT_INT32")
    .SetIsStateful()
    .SetShapeFn(AdamShape)
    .Doc(R"doc(
Does SparseAdam with the gradient that SparseRows computes, without holding it.
)doc");

}  // namespace separationfactor
