// Helpers for bindings: they fill and check the arguments of separate.h and cuda/separate_cuda.h.

#ifndef SEPARATIONFACTOR_CORE_ARGUMENTS_H_
#define SEPARATIONFACTOR_CORE_ARGUMENTS_H_

#include <cstdint>
#include <string>

#include "core/separate.h"

namespace separationfactor {

// The dtype and shape of rows without gaps.
struct RowsSpec {
  DType dtype;
  int64_t rows;
  int64_t n;  // entries in a row
};

// Returns an empty string if k is in [0, n], else the error message.
inline std::string CheckK(int64_t k, int64_t n) {
  if (0 <= k && k <= n) return "";
  return "k must be in [0, n]. Received: k = " + std::to_string(k) + ", n = " + std::to_string(n);
}

// Returns an empty string if all indices are in [0, n), else the error message.
template <class Index>
std::string CheckIndices(const Index* indices, int64_t count, int64_t n) {
  Index least = 0, greatest = -1;
  for (int64_t i = 0; i < count; ++i) {
    least = indices[i] < least ? indices[i] : least;
    greatest = indices[i] > greatest ? indices[i] : greatest;
  }
  if (least >= 0 && greatest < n) return "";
  return "indices must be in [0, n). Received: index " + std::to_string(least < 0 ? least : greatest) +
         ", n = " + std::to_string(n);
}

// Returns an empty string if latents are ascending, without repetition and in [0, n), else the error message.
inline std::string CheckLatents(const int32_t* latents, int64_t count, int64_t n) {
  for (int64_t i = 0; i < count; ++i) {
    if (latents[i] > (i == 0 ? int64_t{-1} : latents[i - 1]) && latents[i] < n) continue;
    return "latents must be ascending, without repetition and in [0, " + std::to_string(n) +
           "). Received: " + std::to_string(latents[i]) + " at " + std::to_string(i);
  }
  return "";
}

// The structs of both headers have the same fields, so the functions below fill either: `Args` is SeparateArgs or
// cuda::SeparateArgs, and so on. The fields `threads` (CPU) and `scratch` (CUDA) keep their defaults, 1 and null.

template <class Args, class K, class Factor>
Args MakeSeparateArgs(const RowsSpec& rows, Score score, const K& k, const Factor& separation,
                      const Factor& suppression, const void* x, void* y, void* selected) {
  Args args{};
  args.dtype = rows.dtype;
  args.score = score;
  args.rows = rows.rows;
  args.n = rows.n;
  args.k = k;
  args.separation = separation;
  args.suppression = suppression;
  args.x = x;
  args.y = y;
  args.selected = static_cast<uint8_t*>(selected);
  return args;
}

template <class Args, class Factor>
Args MakeScaleSelectedArgs(const RowsSpec& rows, const Factor& separation, const Factor& suppression, const void* v,
                           const void* selected, void* out) {
  Args args{};
  args.dtype = rows.dtype;
  args.rows = rows.rows;
  args.n = rows.n;
  args.separation = separation;
  args.suppression = suppression;
  args.v = v;
  args.selected = static_cast<const uint8_t*>(selected);
  args.out = out;
  return args;
}

template <class Args>
Args MakeSumSelectedArgs(const RowsSpec& rows, const void* u, const void* v, const void* selected) {
  Args args{};
  args.dtype = rows.dtype;
  args.rows = rows.rows;
  args.n = rows.n;
  args.u = u;
  args.v = v;
  args.selected = static_cast<const uint8_t*>(selected);
  return args;
}

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_ARGUMENTS_H_
