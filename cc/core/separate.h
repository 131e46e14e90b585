// Top-k masking of rows, its gradient and the sums its factors' gradients need.
//
// For every row x[0..n):
//
//     selected = the k entries with the greatest score     (score = x, or |x|)
//     y[i]     = x[i] * (separation if i is selected else suppression)
//
// With separation = 1 and suppression = 0 this is the k-sparse activation of Makhzani & Frey 2013
// (arXiv 1312.5663). The order of scores, the same for every type, mode and instruction set:
//
//   * NaN ranks above +inf, whatever its sign; several NaN tie.
//   * Ties go to the lowest index. -0 and +0 tie.
//   * A float32, float64 or bfloat16 denormal counts as zero. float16 denormals are ordinary numbers.
//
// A factor that is zero writes +0 for any x, NaN and infinities included: masked means gone. The half
// types multiply in float32 and round once, to nearest even. Every function sets flush-to-zero for the
// time it computes, as TensorFlow's own kernels do, so results do not depend on the caller's mode.
//
// Rows lie one after another without gaps. Nothing here knows TensorFlow or owns a thread; the caller
// validates, and lends threads through ParallelFor. Results do not depend on the threads or on the instruction
// set (instruction_set.h). Every function runs in time linear in the number of elements, at worst, and needs per
// thread at most one row of scratch, or a few dozen kilobytes of stack for short rows.

#ifndef SEPARATIONFACTOR_CORE_SEPARATE_H_
#define SEPARATIONFACTOR_CORE_SEPARATE_H_

#include <cstdint>
#include <functional>

// The CUDA kernels use some functions too.
#if defined(__CUDACC__)
#define SEPARATIONFACTOR_HOST_DEVICE __host__ __device__
#else
#define SEPARATIONFACTOR_HOST_DEVICE
#endif

namespace separationfactor {

enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };

// What entries are ranked by.
enum class Score { kValue, kMagnitude };

// Runs work(begin, end) over disjoint ranges that cover [0, total), perhaps at the same time, and returns
// when all are done. `cost` is the rough time of one unit, in nanoseconds.
using ParallelFor = std::function<void(int64_t total, int64_t cost, const std::function<void(int64_t, int64_t)>& work)>;

// Bytes of one row of the bitmask: entry i is bit i % 8 of byte i / 8, unused bits are zero.
SEPARATIONFACTOR_HOST_DEVICE constexpr int64_t BitmaskBytes(int64_t n) { return (n + 7) / 8; }

struct SeparateArgs {
  DType dtype;
  Score score;
  int64_t rows;
  int64_t n;  // entries in a row
  int64_t k;  // 0 <= k <= n
  double separation;
  double suppression;
  const void* x;      // [rows, n]
  void* y;            // [rows, n]; may be x itself
  uint8_t* selected;  // [rows, BitmaskBytes(n)]
  int threads = 1;    // how many parallel_for lends: fewer long rows than that are split among them
};

// y and the bitmask of the selected entries.
void Separate(const SeparateArgs& args, const ParallelFor& parallel_for);

struct ScaleSelectedArgs {
  DType dtype;
  int64_t rows;
  int64_t n;
  double separation;
  double suppression;
  const void* v;            // [rows, n]
  const uint8_t* selected;  // [rows, BitmaskBytes(n)]
  void* out;                // [rows, n]; may be v itself
  int threads = 1;          // as above
};

// out[i] = v[i] * (separation if i is selected else suppression): the gradient of Separate with respect to
// x, where v is dy, and its own gradient with respect to v.
void ScaleSelected(const ScaleSelectedArgs& args, const ParallelFor& parallel_for);

struct SumSelectedArgs {
  DType dtype;
  int64_t rows;
  int64_t n;
  const void* u;            // [rows, n]
  const void* v;            // [rows, n]
  const uint8_t* selected;  // [rows, BitmaskBytes(n)]
};

struct SelectedSums {
  double selected;
  double others;
};

// The sums of u * v over the selected entries and over the others: the gradient of Separate and
// ScaleSelected with respect to the factors.
//
// The products are made and summed in float64, in an order that depends on the number of elements alone, so
// the bits do not depend on the threads: consecutive groups of 64 (the last filled up with zeros) are summed
// by adding the upper half to the lower until one is left; so are those sums, until one number is left.
SelectedSums SumSelected(const SumSelectedArgs& args, const ParallelFor& parallel_for);

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_SEPARATE_H_
