// Top-k masking of rows, its gradient, and the sums for the gradients of its factors.
//
// For every row x[0..n):
//
//     selected = the k entries with the greatest score     (score = x, or |x|)
//     y[i]     = x[i] * (separation if i is selected else suppression)
//
// With separation = 1 and suppression = 0 this is the k-sparse activation of Makhzani & Frey 2013 (arXiv 1312.5663).
//
// Example: the two greatest entries of each of two rows.
//
//     #include <cstdint>
//     #include <vector>
//
//     #include "core/separate.h"
//
//     namespace sf = separationfactor;
//
//     std::vector<float> x = {0.5f, 3, -1, 2,   4, 1, 0, -2};
//     std::vector<float> y(x.size());
//     std::vector<uint8_t> selected(2 * sf::BitmaskBytes(4));
//
//     sf::SeparateArgs args{};
//     args.dtype = sf::DType::kFloat32;
//     args.score = sf::Score::kValue;
//     args.rows = 2;
//     args.n = 4;
//     args.k = 2;
//     args.separation = 1;
//     args.suppression = 0;
//     args.x = x.data();
//     args.y = y.data();
//     args.selected = selected.data();
//     const sf::ParallelFor on_this_thread = [](int64_t total, int64_t, const auto& work) { work(0, total); };
//     sf::Separate(args, on_this_thread);
//     // y        = {0, 3, 0, 2,   4, 1, 0, 0}
//     // selected = {0b1010, 0b0011}
//
// Order of scores, the same for every dtype, floating-point mode and instruction set:
//
//   * NaN ranks above +inf, with either sign. All NaNs tie.
//   * Ties go to the lowest index. -0 and +0 tie.
//   * A float32, float64 or bfloat16 denormal counts as zero. float16 denormals are ordinary numbers.
//
// Products: a factor that is zero or denormal writes +0 for any x, NaN and infinities included. The half types multiply
// in float32 and round once, to nearest even. Every function sets flush-to-zero and denormals-are-zero while it
// computes and then restores the caller's mode.
//
// Contract:
//
//   * Memory: rows lie one after another without gaps. Pointers need no alignment beyond that of the dtype. An output
//     may be the input itself. Otherwise they must not overlap.
//   * Allocation: Separate allocates one row of scratch per range of `parallel_for`, unless 8 KB of stack are enough.
//     A row that is split among threads also allocates a list of candidates. ScaleSelected needs no scratch.
//     SumSelected allocates two doubles for every 4,096 elements.
//   * Stack: short rows use a few dozen kilobytes.
//   * Threads: the functions start no thread. They run on the calling thread and on those of `parallel_for`. Several
//     threads may call them at the same time.
//   * Errors: arguments are not validated; the bindings do that. Separate and SumSelected throw
//     std::bad_alloc when memory runs out.
//   * Determinism: results do not depend on the number of threads or on the instruction set
//     (cpu/instruction_set.h).
//   * Time: linear in the number of elements in the worst case.

#ifndef SEPARATIONFACTOR_CORE_SEPARATE_H_
#define SEPARATIONFACTOR_CORE_SEPARATE_H_

#include <cstdint>
#include <functional>

// The CUDA kernels call some of these functions too.
#if defined(__CUDACC__)
#define SEPARATIONFACTOR_HOST_DEVICE __host__ __device__
#else
#define SEPARATIONFACTOR_HOST_DEVICE
#endif

namespace separationfactor {

enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };

// The score that ranks entries: x or |x|.
enum class Score { kValue, kMagnitude };

// Calls work(begin, end) for disjoint ranges that cover [0, total), possibly in parallel, and returns when all calls
// have returned. `cost` is the approximate time of one unit in nanoseconds.
using ParallelFor = std::function<void(int64_t total, int64_t cost, const std::function<void(int64_t, int64_t)>& work)>;

// The bytes of one row of the bitmask. Entry i is bit i % 8 of byte i / 8. Unused bits are zero.
SEPARATIONFACTOR_HOST_DEVICE constexpr int64_t BitmaskBytes(int64_t n) { return (n + 7) / 8; }

struct SeparateArgs {
  DType dtype;
  Score score;
  int64_t rows;
  int64_t n;  // entries in a row, at most 2^31 - 1
  int64_t k;  // 0 <= k <= n
  double separation;
  double suppression;
  const void* x;      // [rows, n]
  void* y;            // [rows, n]; may be x
  uint8_t* selected;  // [rows, BitmaskBytes(n)]
  int threads = 1;    // threads of parallel_for: with fewer rows than threads, long rows are split among them
};

// Computes y and the bitmask of the selected entries.
void Separate(const SeparateArgs& args, const ParallelFor& parallel_for);

struct ScaleSelectedArgs {
  DType dtype;
  int64_t rows;
  int64_t n;
  double separation;
  double suppression;
  const void* v;            // [rows, n]
  const uint8_t* selected;  // [rows, BitmaskBytes(n)]
  void* out;                // [rows, n]; may be v
  int threads = 1;          // as in SeparateArgs
};

// Computes out[i] = v[i] * (separation if i is selected else suppression).
//
// With v = dy this is the gradient of Separate with respect to x. It is also its own gradient with respect to v.
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

// Returns the sums of u * v over the selected entries and over the others.
//
// With u = dy and v = x these are the gradients of Separate with respect to separation and suppression.
//
// Products and sums are float64. The order of additions depends on the number of elements only: consecutive groups of
// 64 elements, the last one padded with zeros, are each reduced by adding the upper half to the lower half until one
// number is left. The sums of the groups are reduced in the same way until one number is left.
SelectedSums SumSelected(const SumSelectedArgs& args, const ParallelFor& parallel_for);

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_SEPARATE_H_
