// The ops' gradients for TensorFlow's C++ and C interfaces: AddSymbolicGradients and TF_AddGradients.
//
// Python's own stand in ops.py; these make the same nodes.

#include "tensorflow/cc/framework/gradients.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tensorflow/cc/framework/grad_op_registry.h"
#include "tensorflow/cc/framework/ops.h"
#include "tensorflow/cc/framework/scope.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/graph/node_builder.h"

namespace separationfactor {
namespace {

using ::tensorflow::Node;
using ::tensorflow::NodeBuilder;
using ::tensorflow::NoGradient;
using ::tensorflow::Operation;
using ::tensorflow::Output;
using ::tensorflow::Scope;

// Adds a node of the op; where that fails, the scope has the reason and the result means nothing.
Operation Add(const Scope& scope, const std::string& op, const std::vector<Output>& inputs,
              const std::vector<std::pair<std::string, bool>>& attributes = {}) {
  if (!scope.ok()) return Operation();
  NodeBuilder builder(scope.GetUniqueNameForOp(op.substr(op.find('>') + 1)), op);
  for (const Output& input : inputs) builder.Input(NodeBuilder::NodeOut(input.node(), input.index()));
  for (const auto& [name, value] : attributes) builder.Attr(name, value);
  scope.UpdateBuilder(&builder);
  Node* node = nullptr;
  scope.UpdateStatus(builder.Finalize(scope.graph(), &node));
  if (!scope.ok()) return Operation();
  scope.UpdateStatus(scope.DoShapeInference(node));
  return Operation(node);
}

Output ScaleSelected(const Scope& scope, const Output& v, const Output& selected, const Output& separation,
                     const Output& suppression, bool factor_gradients) {
  return Output(Add(scope, "SeparationFactor>ScaleSelected", {v, selected, separation, suppression},
                    {{"factor_gradients", factor_gradients}}),
                0);
}

// The gradients of v * factor: by v and, where the op was told they are wanted, by the factors.
absl::Status ScaleAndSum(const Scope& scope, const Operation& op, const Output& d_out, const Output& v,
                         const Output& selected, std::vector<Output>* d_inputs) {
  bool factor_gradients;
  TF_RETURN_IF_ERROR(::tensorflow::GetNodeAttr(op.node()->attrs(), "factor_gradients", &factor_gradients));
  const Output separation = op.input(2), suppression = op.input(3);
  const Output d_v = ScaleSelected(scope, d_out, selected, separation, suppression, factor_gradients);
  *d_inputs = {d_v, NoGradient(), NoGradient(), NoGradient()};
  if (factor_gradients) {
    const Operation sums = Add(scope, "SeparationFactor>SumSelected", {d_out, v, selected});
    (*d_inputs)[2] = Output(sums, 0);
    (*d_inputs)[3] = Output(sums, 1);
  }
  return scope.status();
}

absl::Status SeparateGradient(const Scope& scope, const Operation& op, const std::vector<Output>& d_outputs,
                              std::vector<Output>* d_inputs) {
  return ScaleAndSum(scope, op, d_outputs[0], op.input(0), op.output(1), d_inputs);
}

absl::Status ScaleSelectedGradient(const Scope& scope, const Operation& op, const std::vector<Output>& d_outputs,
                                   std::vector<Output>* d_inputs) {
  return ScaleAndSum(scope, op, d_outputs[0], op.input(0), op.input(1), d_inputs);
}

absl::Status SumSelectedGradient(const Scope& scope, const Operation& op, const std::vector<Output>& d_outputs,
                                 std::vector<Output>* d_inputs) {
  // A sum that nothing depends on has no gradient, which is one of zero.
  std::vector<Output> d_sums;
  for (int output = 0; output < 2; ++output) {
    const bool none = d_outputs[output] == NoGradient();
    d_sums.push_back(none ? Output(Add(scope, "ZerosLike", {op.output(output)}), 0) : d_outputs[output]);
  }
  const Output u = op.input(0), v = op.input(1), selected = op.input(2);
  *d_inputs = {ScaleSelected(scope, v, selected, d_sums[0], d_sums[1], true),
               ScaleSelected(scope, u, selected, d_sums[0], d_sums[1], true), NoGradient()};
  return scope.status();
}

REGISTER_GRADIENT_OP("SeparationFactor>Separate", SeparateGradient);
REGISTER_GRADIENT_OP("SeparationFactor>ScaleSelected", ScaleSelectedGradient);
REGISTER_GRADIENT_OP("SeparationFactor>SumSelected", SumSelectedGradient);

}  // namespace
}  // namespace separationfactor
