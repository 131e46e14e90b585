// Registers the ops: names, types, shapes and documentation. core/separate.h defines what they compute.

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/scalars.h"

namespace separationfactor {
namespace {

using ::tensorflow::shape_inference::DimensionHandle;
using ::tensorflow::shape_inference::InferenceContext;
using ::tensorflow::shape_inference::ShapeHandle;

absl::Status Scalars(InferenceContext* c, int first, int last) {
  ShapeHandle unused;
  for (int input = first; input <= last; ++input) TF_RETURN_IF_ERROR(c->WithRank(c->input(input), 0, &unused));
  return absl::OkStatus();
}

// Sets `bitmask` to the shape of the bitmask: the leading dimensions of x, then one byte for every 8 entries.
absl::Status BitmaskShape(InferenceContext* c, ShapeHandle x, ShapeHandle* bitmask) {
  if (!c->RankKnown(x)) {
    *bitmask = c->UnknownShape();
    return absl::OkStatus();
  }
  DimensionHandle padded, bytes;
  TF_RETURN_IF_ERROR(c->Add(c->Dim(x, -1), 7, &padded));
  TF_RETURN_IF_ERROR(c->Divide(padded, 8, /*evenly_divisible=*/false, &bytes));
  return c->ReplaceDim(x, -1, bytes, bitmask);
}

// Returns an error if `selected` cannot be the bitmask of rows of shape `x`.
absl::Status MatchBitmask(InferenceContext* c, ShapeHandle x, ShapeHandle selected) {
  ShapeHandle bitmask;
  TF_RETURN_IF_ERROR(BitmaskShape(c, x, &bitmask));
  return c->Merge(bitmask, selected, &bitmask);
}

absl::Status SeparateShape(InferenceContext* c) {
  ShapeHandle x;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &x));
  TF_RETURN_IF_ERROR(Scalars(c, 1, 3));
  if (const ::tensorflow::Tensor* k_tensor = c->input_tensor(1); k_tensor != nullptr && c->RankKnown(x)) {
    const int64_t k =
        k_tensor->dtype() == ::tensorflow::DT_INT32 ? k_tensor->scalar<int32_t>()() : k_tensor->scalar<int64_t>()();
    const DimensionHandle n = c->Dim(x, -1);
    if (k < 0 || (c->ValueKnown(n) && k > c->Value(n))) {
      return absl::InvalidArgumentError(
          absl::StrCat("k must be in [0, n]. Received: k = ", k, ", n = ", c->DebugString(n)));
    }
  }
  ShapeHandle bitmask;
  TF_RETURN_IF_ERROR(BitmaskShape(c, x, &bitmask));
  c->set_output(0, x);
  c->set_output(1, bitmask);
  return absl::OkStatus();
}

absl::Status SeparateWithoutGradientShape(InferenceContext* c) {
  ShapeHandle x, scalars;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &x));
  TF_RETURN_IF_ERROR(c->Merge(c->input(1), c->Vector(kScalarsSize), &scalars));
  c->set_output(0, x);
  return absl::OkStatus();
}

absl::Status ScaleSelectedShape(InferenceContext* c) {
  ShapeHandle v;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &v));
  TF_RETURN_IF_ERROR(MatchBitmask(c, v, c->input(1)));
  TF_RETURN_IF_ERROR(Scalars(c, 2, 3));
  c->set_output(0, v);
  return absl::OkStatus();
}

absl::Status SumSelectedShape(InferenceContext* c) {
  ShapeHandle v;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 1, &v));
  TF_RETURN_IF_ERROR(c->Merge(v, c->input(1), &v));
  TF_RETURN_IF_ERROR(MatchBitmask(c, v, c->input(2)));
  c->set_output(0, c->Scalar());
  c->set_output(1, c->Scalar());
  return absl::OkStatus();
}

}  // namespace

REGISTER_OP("SeparationFactor>Separate")
    .Input("x: T")
    .Input("k: K")
    .Input("separation: T")
    .Input("suppression: T")
    .Output("y: T")
    .Output("selected: uint8")
    .Attr("T: {float, double, bfloat16, half}")
    .Attr("K: {int32, int64} = DT_INT32")
    .Attr("by: {'value', 'magnitude'} = 'value'")
    .Attr("factor_gradients: bool = true")
    .SetShapeFn(SeparateShape)
    .Doc(R"doc(
Multiplies the k greatest entries of each row by one factor and the others by another.

x: Rows along the last axis.
k: The number of selected entries per row, a scalar in [0, n].
separation: The factor of the selected entries, a scalar.
suppression: The factor of the others, a scalar.
y: The rows, each entry multiplied by its factor.
selected: A bitmask of the selected entries: entry i of a row is bit i % 8 of the row's byte i / 8.
by: The score that ranks entries: their value or their magnitude.
factor_gradients: Whether to compute gradients with respect to the factors. If false, backward keeps only the
  bitmask.
)doc");

// For small tensors, dispatch dominates an eager call, and each input and output adds to it. This op has few of them.
REGISTER_OP("SeparationFactor>SeparateWithoutGradient")
    .Input("x: T")
    .Input("scalars: double")
    .Output("y: T")
    .Attr("T: {float, double, bfloat16, half}")
    .SetShapeFn(SeparateWithoutGradientShape)
    .Doc(R"doc(
Computes y as Separate does, by value, without outputs for a gradient.

x: Rows along the last axis.
scalars: k, then separation and suppression once for each type T, rounded to that type, in the order of T above.
y: The rows, each entry multiplied by its factor.
)doc");

REGISTER_OP("SeparationFactor>ScaleSelected")
    .Input("v: T")
    .Input("selected: uint8")
    .Input("separation: T")
    .Input("suppression: T")
    .Output("out: T")
    .Attr("T: {float, double, bfloat16, half}")
    .Attr("factor_gradients: bool = true")
    .SetShapeFn(ScaleSelectedShape)
    .Doc(R"doc(
Multiplies the selected entries of each row by one factor and the others by another.

The gradient of Separate with respect to x, and of ScaleSelected with respect to v.

v: Rows along the last axis.
selected: The bitmask that Separate returned.
separation: The factor of the selected entries, a scalar.
suppression: The factor of the others, a scalar.
out: The rows, each entry multiplied by its factor.
factor_gradients: Whether to compute gradients with respect to the factors.
)doc");

REGISTER_OP("SeparationFactor>SumSelected")
    .Input("u: T")
    .Input("v: T")
    .Input("selected: uint8")
    .Output("selected_sum: T")
    .Output("others_sum: T")
    .Attr("T: {float, double, bfloat16, half}")
    .SetShapeFn(SumSelectedShape)
    .Doc(R"doc(
Sums u * v over the selected entries and over the others.

The gradient of Separate and of ScaleSelected with respect to the factors.

u: Rows along the last axis.
v: Rows of the same shape.
selected: The bitmask that Separate returned.
selected_sum: The sum of u * v over the selected entries, a scalar.
others_sum: The sum of u * v over the others, a scalar.
)doc");

}  // namespace separationfactor
