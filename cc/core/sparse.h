// The sparse path of a k-sparse layer: a code of which all but k entries are zero, as k values and k indices a row.
//
// A kernel has one contiguous row of d numbers for each of n latents, the encoder's as well as the decoder's:
//
//     Encode      the k greatest entries of x kernel^T + bias, without ever holding all of them
//     Decode      y[b] = bias + the sum over j of values[b][j] * kernel[indices[b][j]]
//     GatherDot   s[b][j] = <x[b], kernel[indices[b][j]]>, the gradient of Decode with respect to the values
//     SumRows     rows[i] = the sum over all uses (b, j) of latent i of values[b][j] * x[b], the gradient of Decode and
//                 of GatherDot with respect to the kernel
//     Adam        the step of Kingma and Ba, 2014 (arXiv 1412.6980), given the gradient of some rows
//
// Gao et al., 2024 (arXiv 2406.04093) describe the same products for GPUs.
//
// Numbers: the dtype of x, values, s and y is `dtype`, that of kernels, biases and gradient rows is `kernel_dtype`. The
// two are equal, or `dtype` is a half type and `kernel_dtype` is float32. Sums of the half types are float32. Denormals
// are zeros, as in separate.h.
//
// An entry whose value is zero adds nothing, whatever the kernel's row holds. A NaN or an infinity in one example does
// not reach another.
//
// Contract: as in separate.h, with these differences.
//
//   * Indices must be in [0, n). The bindings check that.
//   * Allocation: Encode allocates, for each thread, up to 1 MB for packed examples and 4k candidates an example. It
//     never allocates rows * n. The other functions allocate up to 16 bytes for each entry of a code and for each
//     latent.
//   * Determinism: results do not depend on the number of threads. Sums of products depend on the instruction set: with
//     FMA a product and its addition round once. The order of additions is that of `Encode`'s features, of a code's
//     entries, and of the examples. For sums of m products, |error| <= (m + 1) * 2^-24 * the sum of the magnitudes of
//     the products (2^-53 for float64), as for any order of additions.

#ifndef SEPARATIONFACTOR_CORE_SPARSE_H_
#define SEPARATIONFACTOR_CORE_SPARSE_H_

#include <cstdint>
#include <vector>

#include "core/separate.h"

namespace separationfactor {

struct TopKArgs {
  DType dtype;
  Score score;
  int64_t rows;
  int64_t n;         // entries in a row, at most 2^31 - 1
  int64_t k;         // 0 <= k <= n
  const void* x;     // [rows, n]
  void* values;      // [rows, k]
  int32_t* indices;  // [rows, k]
  int threads = 1;   // as in SeparateArgs
};

// Computes the selection of Separate as values and indices, ascending in each row.
void TopK(const TopKArgs& args, const ParallelFor& parallel_for);

struct EncodeArgs {
  DType dtype;
  DType kernel_dtype;
  int64_t rows;
  int64_t d;
  int64_t n;           // at most 2^31 - 1
  int64_t k;           // 0 <= k <= n
  const void* x;       // [rows, d]
  const void* kernel;  // [n, d]
  const void* bias;    // [n], or null
  void* values;        // [rows, k]
  int32_t* indices;    // [rows, k]
  int threads = 1;     // threads of parallel_for
};

// Computes the k greatest entries of each row of x kernel^T + bias, in the order of scores of separate.h, ascending by
// index. The half types are selected before they are rounded.
void Encode(const EncodeArgs& args, const ParallelFor& parallel_for);

struct DecodeArgs {
  DType dtype;
  DType kernel_dtype;
  int64_t rows;
  int64_t k;
  int64_t d;
  const void* values;      // [rows, k]
  const int32_t* indices;  // [rows, k]
  const void* kernel;      // [n, d]
  const void* bias;        // [d], or null
  void* y;                 // [rows, d]
};

void Decode(const DecodeArgs& args, const ParallelFor& parallel_for);

struct GatherDotArgs {
  DType dtype;
  DType kernel_dtype;
  int64_t rows;
  int64_t k;
  int64_t d;
  const void* x;           // [rows, d]
  const void* kernel;      // [n, d]
  const int32_t* indices;  // [rows, k]
  void* s;                 // [rows, k]
};

void GatherDot(const GatherDotArgs& args, const ParallelFor& parallel_for);

// A code by latents: for each latent that is in use, the examples that use it, ascending, and their values.
struct TransposedCode {
  std::vector<int32_t> latents;   // ascending; only those with an entry that is not zero
  std::vector<int64_t> begins;    // the uses of latents[i] are [begins[i], begins[i + 1])
  std::vector<int32_t> examples;  // of each use
  std::vector<char> values;       // of each use: float or, for float64, double
};

struct TransposeArgs {
  DType dtype;
  int64_t rows;
  int64_t k;
  int64_t n;
  const void* values;      // [rows, k]
  const int32_t* indices;  // [rows, k]
};

// A counting sort over latents. Time and memory are linear in rows * k + n.
TransposedCode Transpose(const TransposeArgs& args);

struct SumRowsArgs {
  DType dtype;
  DType kernel_dtype;
  int64_t d;
  const TransposedCode* code;
  const void* x;  // [rows, d], of `dtype`
  void* sums;     // [latents, d], of `kernel_dtype`
};

void SumRows(const SumRowsArgs& args, const ParallelFor& parallel_for);

// A step of Adam: m += (g - m) (1 - beta_1), v += (g^2 - v) (1 - beta_2), variable -= alpha m / (sqrt(v) + epsilon).
// alpha holds the learning rate and the corrections of the moments' bias. A row without gradient has g = 0.
struct AdamArgs {
  DType dtype;  // float32 or float64
  int64_t n;
  int64_t d;
  void* variable;  // [n, d]
  void* m;         // [n, d]
  void* v;         // [n, d]
  double alpha;
  double beta_1;
  double beta_2;
  double epsilon;
  const int32_t* latents;  // [used], ascending: the rows with a gradient; null for all rows
  int64_t used;
  const void* gradient;  // [used, d], or [n, d] if `latents` is null
};

void Adam(const AdamArgs& args, const ParallelFor& parallel_for);

// SumRows and Adam in one pass, without holding the gradient. `latents`, `used` and `gradient` of `adam` are not read.
void SumRowsAdam(const AdamArgs& adam, const SumRowsArgs& rows, const ParallelFor& parallel_for);

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_SPARSE_H_
