// The sparse kernels of one instruction set. sparse.cc splits the work among threads and calls them.

#ifndef SEPARATIONFACTOR_CORE_CPU_SPARSE_KERNELS_H_
#define SEPARATIONFACTOR_CORE_CPU_SPARSE_KERNELS_H_

#include <cstdint>

#include "core/cpu/sparse/candidates.h"
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

// Finds candidates for the k greatest entries of examples among latents.
struct FindCandidatesArgs {
  const EncodeArgs* encode;
  int64_t example_begin, example_end;
  int64_t latent_begin, latent_end;
  void* panels;       // PanelBytes
  void* latent_rows;  // for half kernels: LatentRowsBytes
  void* thresholds;   // room for one number for each example, and one panel
  void* candidates;   // [examples, capacity] of Candidate
  int32_t* counts;    // [examples]
  int64_t capacity;   // > k
  // Moves the k greatest of `count` candidates to the front, the least of them to position k - 1.
  void (*keep_greatest)(void* candidates, int64_t count, int64_t k);
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
  int64_t panel_bytes;     // of one feature in a panel of examples
  int64_t latents_a_tile;  // of latents that FindCandidates computes at a time
  void (*gather_sum)(const GatherSumArgs& args, int64_t begin, int64_t end);
  // For rows [begin, end). Scratch: d floats, for the half types.
  void (*gather_dot)(const GatherDotArgs& args, int64_t begin, int64_t end, void* scratch);
  void (*find_candidates)(const FindCandidatesArgs& args);
  void (*adam)(const AdamStep& step);
};

extern const SparseKernels kBaselineSparseKernels;
#if defined(__x86_64__)
extern const SparseKernels kAvx2SparseKernels;
extern const SparseKernels kAvx512SparseKernels;
#endif

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPARSE_KERNELS_H_
