// The Python module separationfactor_core: the core on NumPy arrays, without TensorFlow. Validates all arguments.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/arguments.h"
#include "core/cpu/instruction_set.h"
#include "core/separate.h"

namespace py = pybind11;

namespace separationfactor {
namespace {

std::string Str(const py::handle& object) { return py::cast<std::string>(py::str(object)); }

// NumPy has no bfloat16. ml_dtypes registers the bfloat16 that TensorFlow and JAX use.
DType DTypeOf(const char* name, const py::array& array) {
  const std::string dtype = Str(array.dtype());
  if (dtype == "float32") return DType::kFloat32;
  if (dtype == "float64") return DType::kFloat64;
  if (dtype == "float16") return DType::kFloat16;
  if (dtype == "bfloat16") return DType::kBFloat16;
  throw py::type_error(std::string(name) +
                       " must be of dtype float32, float64, float16 or bfloat16. Received: " + dtype);
}

std::string ShapeOf(const py::array& array) { return Str(array.attr("shape")); }

void CheckRows(const char* name, const py::array& array) {
  if (array.ndim() < 1) {
    throw py::value_error(std::string(name) + " must have at least one axis. Received: a scalar");
  }
  if ((array.flags() & py::array::c_style) == 0) {
    throw py::value_error(std::string(name) +
                          " must be C-contiguous, because arrays are not copied. Received: strides " +
                          Str(array.attr("strides")) + " with shape " + ShapeOf(array) +
                          ". numpy.ascontiguousarray makes a contiguous copy");
  }
  if (!array.dtype().attr("isnative").cast<bool>()) {
    throw py::type_error(std::string(name) + " must be in native byte order. Received: " + Str(array.dtype()));
  }
  if (array.shape(array.ndim() - 1) > std::numeric_limits<int32_t>::max()) {
    throw py::value_error("rows of " + std::string(name) + " must have at most 2^31 - 1 entries. Received: shape " +
                          ShapeOf(array));
  }
}

void CheckLike(const char* name, const py::array& array, const char* other_name, const py::array& other) {
  CheckRows(name, array);
  if (!array.dtype().equal(other.dtype()) || !array.attr("shape").equal(other.attr("shape"))) {
    throw py::value_error(std::string(name) + " must have the dtype and shape of " + other_name + ", " +
                          Str(other.dtype()) + " " + ShapeOf(other) + ". Received: " + Str(array.dtype()) + " " +
                          ShapeOf(array));
  }
}

std::vector<py::ssize_t> BitmaskShape(const py::array& rows) {
  std::vector<py::ssize_t> shape(rows.shape(), rows.shape() + rows.ndim());
  shape.back() = BitmaskBytes(shape.back());
  return shape;
}

void CheckBitmask(const py::array& selected, const py::array& rows) {
  CheckRows("selected", selected);
  const std::vector<py::ssize_t> shape = BitmaskShape(rows);
  const bool fits = selected.ndim() == rows.ndim() && std::equal(shape.begin(), shape.end(), selected.shape());
  if (Str(selected.dtype()) != "uint8" || !fits) {
    throw py::value_error("selected must be uint8 with one byte for every 8 entries of a row, shape " +
                          Str(py::tuple(py::cast(shape))) + " for rows of shape " + ShapeOf(rows) +
                          ". Received: " + Str(selected.dtype()) + " " + ShapeOf(selected));
  }
}

Score ScoreOf(const std::string& by) {
  if (by == "value") return Score::kValue;
  if (by == "magnitude") return Score::kMagnitude;
  throw py::value_error("by must be 'value' or 'magnitude'. Received: '" + by + "'");
}

// Returns `out` if it is given and fits `like`, else a new array with the shape and dtype of `like`.
py::array OutputLike(const py::array& like, const std::optional<py::array>& out) {
  if (!out) return py::array(like.dtype(), std::vector<py::ssize_t>(like.shape(), like.shape() + like.ndim()));
  CheckLike("out", *out, "its input", like);
  if (!out->writeable()) throw py::value_error("out must be writeable. Received: a read-only array");
  return *out;
}

// The output may be the input itself. With a partial overlap, a row would overwrite entries that are still to be read.
void CheckOverlap(const py::array& in, const py::array& out) {
  const auto* first = static_cast<const char*>(in.data());
  const auto* second = static_cast<const char*>(out.data());
  if (first != second && first < second + out.nbytes() && second < first + in.nbytes()) {
    throw py::value_error("out must be the input itself or not overlap it. Received: arrays that overlap partially");
  }
}

RowsSpec RowsOf(const char* name, const py::array& array) {
  RowsSpec rows{DTypeOf(name, array), 1, array.shape(array.ndim() - 1)};
  for (py::ssize_t axis = 0; axis < array.ndim() - 1; ++axis) rows.rows *= array.shape(axis);
  return rows;
}

// A ParallelFor that splits the work evenly over `threads` new threads. For tests and benchmarks: TensorFlow's ops use
// TensorFlow's thread pool.
ParallelFor Threads(int threads) {
  if (threads < 1) throw py::value_error("threads must be at least 1. Received: " + std::to_string(threads));
  return [threads](int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
    const int64_t parts = std::min<int64_t>(threads, total);
    std::vector<std::thread> others;
    for (int64_t part = 1; part < parts; ++part) {
      others.emplace_back(work, total * part / parts, total * (part + 1) / parts);
    }
    if (total > 0) work(0, total / parts);
    for (std::thread& other : others) other.join();
  };
}

py::tuple SeparateArray(const py::array& x, int64_t k, double separation, double suppression, const std::string& by,
                        const std::optional<py::array>& out, int threads) {
  CheckRows("x", x);
  const RowsSpec rows = RowsOf("x", x);
  const Score score = ScoreOf(by);
  const std::string error = CheckK(k, rows.n);
  if (!error.empty()) throw py::value_error(error);
  py::array y = OutputLike(x, out);
  CheckOverlap(x, y);
  py::array_t<uint8_t> selected(BitmaskShape(x));
  auto args = MakeSeparateArgs<SeparateArgs>(rows, score, k, separation, suppression, x.data(), y.mutable_data(),
                                             selected.mutable_data());
  args.threads = threads;
  const ParallelFor parallel_for = Threads(threads);
  if (x.size() > 0) {
    py::gil_scoped_release release;
    Separate(args, parallel_for);
  }
  return py::make_tuple(y, selected);
}

py::array ScaleSelectedArray(const py::array& v, const py::array& selected, double separation, double suppression,
                             const std::optional<py::array>& out, int threads) {
  CheckRows("v", v);
  CheckBitmask(selected, v);
  const RowsSpec rows = RowsOf("v", v);
  py::array result = OutputLike(v, out);
  CheckOverlap(v, result);
  auto args = MakeScaleSelectedArgs<ScaleSelectedArgs>(rows, separation, suppression, v.data(), selected.data(),
                                                       result.mutable_data());
  args.threads = threads;
  const ParallelFor parallel_for = Threads(threads);
  if (v.size() > 0) {
    py::gil_scoped_release release;
    ScaleSelected(args, parallel_for);
  }
  return result;
}

py::tuple SumSelectedArrays(const py::array& u, const py::array& v, const py::array& selected, int threads) {
  CheckRows("u", u);
  CheckLike("v", v, "u", u);
  CheckBitmask(selected, u);
  const auto args = MakeSumSelectedArgs<SumSelectedArgs>(RowsOf("u", u), u.data(), v.data(), selected.data());
  const ParallelFor parallel_for = Threads(threads);
  SelectedSums sums;
  {
    py::gil_scoped_release release;
    sums = SumSelected(args, parallel_for);
  }
  return py::make_tuple(sums.selected, sums.others);
}

std::vector<std::string> InstructionSetNames() {
  std::vector<std::string> names;
  for (const InstructionSet set : SupportedInstructionSets()) names.push_back(InstructionSetName(set));
  return names;
}

std::string SetInstructionSetByName(const std::string& name) {
  const std::string before = InstructionSetName(CurrentInstructionSet());
  for (const InstructionSet set : SupportedInstructionSets()) {
    if (name == InstructionSetName(set)) {
      SetInstructionSet(set);
      return before;
    }
  }
  throw py::value_error("name must be one of " + Str(py::cast(InstructionSetNames())) + ". Received: '" + name + "'");
}

}  // namespace

PYBIND11_MODULE(separationfactor_core, module) {
  module.doc() =
      "The kernels of separationfactor on NumPy arrays, without TensorFlow. Rows lie along the last axis. Arrays must "
      "be C-contiguous and of dtype float32, float64, float16 or bfloat16 (ml_dtypes). They are never copied.";
  using namespace py::literals;
  module.def("separate", &SeparateArray, "x"_a.noconvert(), py::kw_only(), "k"_a = 1, "separation"_a = 1.0,
             "suppression"_a = 0.0, "by"_a = "value", "out"_a = py::none(), "threads"_a = 1, R"doc(
Multiplies the k greatest entries of each row by `separation` and the others by `suppression`.

Args:
    x: Array of at least one axis. Rows lie along the last axis, which has n entries.
    k: The number of selected entries per row, in [0, n].
    separation: The factor of the selected entries.
    suppression: The factor of the others.
    by: The score that ranks entries, "value" or "magnitude".
    out: The array that receives the result. May be `x`.
    threads: The number of threads.

Returns:
    The result, of x's shape and dtype, and the bitmask of the selected entries, uint8 of shape
    x.shape[:-1] + (ceil(n / 8),). Entry i is bit i % 8 of byte i // 8.

Raises:
    TypeError: If the dtype is not float32, float64, float16 or bfloat16.
    ValueError: If an array is not C-contiguous, k is out of range, or `out` does not fit.
)doc");
  module.def("scale_selected", &ScaleSelectedArray, "v"_a.noconvert(), "selected"_a.noconvert(), py::kw_only(),
             "separation"_a = 1.0, "suppression"_a = 0.0, "out"_a = py::none(), "threads"_a = 1, R"doc(
Multiplies the selected entries of each row by `separation` and the others by `suppression`.

With v as the gradient of the result of `separate`, this is its gradient with respect to x.

Args:
    v: Array of at least one axis. Rows lie along the last axis.
    selected: The bitmask that `separate` returned.
    separation: The factor of the selected entries.
    suppression: The factor of the others.
    out: The array that receives the result. May be `v`.
    threads: The number of threads.

Returns:
    The result, of v's shape and dtype.

Raises:
    TypeError: If `separate` does not accept the dtype.
    ValueError: If an array is not C-contiguous or does not fit the others.
)doc");
  module.def("sum_selected", &SumSelectedArrays, "u"_a.noconvert(), "v"_a.noconvert(), "selected"_a.noconvert(),
             py::kw_only(), "threads"_a = 1, R"doc(
Sums u * v over the selected entries and over the others, in float64 and in a fixed order.

With u as the gradient of the result of `separate` and v as x, these are its gradients with respect to the factors.

Args:
    u: Array of at least one axis; rows lie along the last.
    v: Array of u's shape and dtype.
    selected: The bitmask that `separate` returned.
    threads: The number of threads.

Returns:
    Both sums, as floats.

Raises:
    TypeError: If `separate` does not accept the dtype.
    ValueError: If an array is not C-contiguous or does not fit the others.
)doc");
  module.def("instruction_set", [] { return std::string(InstructionSetName(CurrentInstructionSet())); }, R"doc(
Returns the name of the instruction set that this module uses. Results do not depend on it.

Returns:
    The last of `instruction_sets()`, unless the environment variable SEPARATIONFACTOR_INSTRUCTION_SET names another.
)doc");
  module.def("instruction_sets", &InstructionSetNames, R"doc(
Lists the instruction sets that this build contains and this CPU supports.

Returns:
    Names, slowest first: "baseline" and, on x86-64, "avx2" and "avx512".
)doc");
  module.def("set_instruction_set", &SetInstructionSetByName, "name"_a, R"doc(
Switches this module to another instruction set, for tests and benchmarks.

This does not affect TensorFlow's ops, which follow only the environment variable.

Args:
    name: One of `instruction_sets()`.

Returns:
    The name of the previous instruction set.

Raises:
    ValueError: If the name is not one of them.
)doc");
}

}  // namespace separationfactor
