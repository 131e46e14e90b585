// The sparse kernels of one instruction set. sparse.cc splits the work among threads and calls them.

#ifndef SEPARATIONFACTOR_CORE_CPU_SPARSE_KERNELS_H_
#define SEPARATIONFACTOR_CORE_CPU_SPARSE_KERNELS_H_

#include <cstdint>

#include "core/separate.h"
#include "core/sparse.h"

namespace separationfactor {

// Sums of a table's rows, each with a coefficient: out[i] = base + the sum over j in [begins[i], begins[i + 1]) of
// coefficients[j] * table[rows[j]]. Coefficients are float or, for float64, double.
struct GatherSumArgs {
  DType table_dtype;
  DType out_dtype;
  int64_t d;
  const int64_t* begins;  // null: begins[i] = i * k
  int64_t k;
  const void* coefficients;
  const int32_t* rows;
  const void* table;  // [., d]
  const void* base;   // [d] of the table's dtype, or null
  void* out;          // [., d]
};

// Finds candidates for the k greatest entries of examples among latents. Numbers are float or, for float64, double.
struct FindCandidatesArgs {
  const EncodeArgs* encode;
  int64_t example_begin, example_end;
  int64_t latent_begin, latent_end;
  void* panels;       // numbers [examples, d], the examples rounded up to full panels
  void* thresholds;   // numbers [examples], likewise
  void* latent_rows;  // for half kernels: numbers [latents_per_tile, d]
  void* numbers;      // [examples, capacity]: the candidates, ascending by latent
  int32_t* latents;   // [examples, capacity]
  int64_t* counts;    // [examples]
  int64_t capacity;   // > k
};

struct AdamStep {
  DType dtype;
  int64_t count;
  void* variable;
  void* m;
  void* v;
  const void* gradient;  // null: zeros
  double alpha, beta_1, beta_2, epsilon;
};

// The caller sets flush-to-zero and denormals-are-zero.
struct SparseKernels {
  int64_t panel_bytes;       // of one feature in a panel of examples
  int64_t latents_per_tile;  // that find_candidates computes at a time
  void (*gather_sum)(const GatherSumArgs& args, int64_t begin, int64_t end);
  // For the rows [begin, end). Scratch: d floats, for the half types.
  void (*gather_dot)(const GatherDotArgs& args, int64_t begin, int64_t end, void* scratch);
  void (*find_candidates)(const FindCandidatesArgs& args);
  // Moves the k greatest of `count` >= k candidates to the front, in the order in which they are.
  void (*keep_greatest)(DType dtype, void* numbers, int32_t* latents, int64_t count, int64_t k);
  void (*adam)(const AdamStep& step);
};

extern const SparseKernels kBaselineSparseKernels;
#if defined(__x86_64__)
extern const SparseKernels kAvx2SparseKernels;
extern const SparseKernels kAvx512SparseKernels;
#endif

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPARSE_KERNELS_H_
