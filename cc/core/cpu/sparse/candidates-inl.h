// The product of examples and latents, which keeps only candidates for each example's k greatest entries.
//
// Examples lie in lanes: a panel holds two vectors of examples for each feature. A tile of latents times a panel stays
// in registers over all features. What passes an example's threshold, its k-th greatest entry when its list was last
// pruned, joins its list. The entries that pass are few: of random ones k (1 + log(n / k)).

#ifndef SEPARATIONFACTOR_CORE_CPU_SPARSE_CANDIDATES_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SPARSE_CANDIDATES_INL_H_

#include <cstdint>

#include "core/cpu/bisection-inl.h"
#include "core/cpu/cut-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/cpu/sparse/elements-inl.h"
#include "core/cpu/sparse/kernels.h"

namespace separationfactor {
namespace {

// The accumulators, two vectors for each latent of a tile, fill the registers that the operands leave: 24 of 32 with
// AVX-512, 12 of 16 with AVX2, 8 of 16 where a product needs a register of its own.
constexpr int kTileLatents = kVectorBytes == 64 ? 12 : kVectorBytes == 32 ? 6 : 4;
constexpr int kPanelVectors = 2;

// Moves the k greatest of `count` > k candidates to the front and returns their cut. Keeps their order, so ties go to
// the lowest latent.
template <class Number>
Cut<Number> CutCandidates(Number* numbers, int32_t* latents, int64_t count, int64_t k) {
  const Cut<Number> cut = SelectByBisection<Lanes<Number>>(numbers, count, k);
  int64_t kept = 0, quota = cut.quota;
  for (int64_t i = 0; i < count; ++i) {
    // Without branches, which would be unpredictable.
    const Number number = numbers[i];
    const int32_t latent = latents[i];
    const bool is_equal = cut.IsEqual(number) & (quota > 0);
    quota -= is_equal;
    numbers[kept] = number;
    latents[kept] = latent;
    kept += cut.IsAbove(number) | is_equal;
  }
  return cut;
}

template <class T, class Kernel>
class FindCandidates {
  using Number = typename T::Number;
  using S = Simd<Number>;
  using Vec = typename S::Vec;
  using Mask = typename S::Mask;
  using KernelBits = typename Kernel::Bits;
  static constexpr int kPanel = kPanelVectors * S::kLanes;  // examples
  static constexpr bool kConvertsKernel = sizeof(KernelBits) == 2;

 public:
  static void Run(const FindCandidatesArgs& args) { FindCandidates(args).Run(); }

 private:
  explicit FindCandidates(const FindCandidatesArgs& args)
      : args_(args),
        encode_(*args.encode),
        d_(encode_.d),
        examples_(args.example_end - args.example_begin),
        panels_(static_cast<Number*>(args.panels)),
        thresholds_(static_cast<Number*>(args.thresholds)),
        numbers_(static_cast<Number*>(args.numbers)) {}

  void Run() {
    PackExamples();
    for (int64_t example = 0; example < examples_; ++example) {
      args_.counts[example] = 0;
      thresholds_[example] = static_cast<Number>(__builtin_nanf(""));  // every number is above NaN
    }
    for (int64_t example = examples_; example % kPanel != 0; ++example) thresholds_[example] = 0;
    int64_t latent = args_.latent_begin;
    for (; latent + kTileLatents <= args_.latent_end; latent += kTileLatents) Latents<kTileLatents>(latent);
    for (; latent < args_.latent_end; ++latent) Latents<1>(latent);
  }

  // Transposes the examples to panels of [d][kPanel], the last one padded with zeros.
  void PackExamples() {
    const auto* x = static_cast<const typename T::Bits*>(encode_.x) + args_.example_begin * d_;
    for (int64_t first = 0; first < examples_; first += kPanel) {
      Number* panel = panels_ + first * d_;
      for (int64_t block = 0; block < d_; block += 16) {
        const int64_t block_end = block + 16 < d_ ? block + 16 : d_;
        for (int lane = 0; lane < kPanel; ++lane) {
          const int64_t example = first + lane;
          for (int64_t i = block; i < block_end; ++i) {
            panel[i * kPanel + lane] = example < examples_ ? T::ToNumber(x[example * d_ + i]) : Number{0};
          }
        }
      }
    }
  }

  template <int kLatents>
  void Latents(int64_t latent) {
    const auto* kernel = static_cast<const KernelBits*>(encode_.kernel) + latent * d_;
    const Number* rows;
    if constexpr (kConvertsKernel) {
      auto* numbers = static_cast<Number*>(args_.latent_rows);
      using K = Elements<Kernel>;
      int64_t i = 0;
      for (; i + S::kLanes <= kLatents * d_; i += S::kLanes) S::Store(numbers + i, K::Load(kernel + i));
      for (; i < kLatents * d_; ++i) numbers[i] = Kernel::ToNumber(kernel[i]);
      rows = numbers;
    } else {
      rows = reinterpret_cast<const Number*>(kernel);
    }
    Number bias[kLatents];
    for (int r = 0; r < kLatents; ++r) {
      bias[r] = encode_.bias == nullptr ? Number{0}
                                        : Kernel::ToNumber(static_cast<const KernelBits*>(encode_.bias)[latent + r]);
    }
    for (int64_t first = 0; first < examples_; first += kPanel) {
      PrefetchNext<kLatents>(latent, first);
      Vec sums[kLatents][kPanelVectors];
      Multiply<kLatents>(rows, panels_ + first * d_, bias, sums);
      for (int part = 0; part < kPanelVectors; ++part) {
        const int64_t example = first + part * S::kLanes;
        if (example >= examples_) break;
        const int64_t left = examples_ - example;
        const uint64_t live = left >= S::kLanes ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
        const Vec threshold = S::Load(thresholds_ + example);
#pragma GCC unroll 12
        for (int r = 0; r < kLatents; ++r) {
          const uint64_t above = S::BitsOf(S::Above(sums[r][part], threshold)) & live;
          if (__builtin_expect(above != 0, 0)) Add(above, sums[r][part], example, latent + r);
        }
      }
    }
  }

  // Asks for a part of the next tile's rows: while all panels pass by this tile, all of them.
  template <int kLatents>
  void PrefetchNext(int64_t latent, int64_t first) {
    const int64_t bytes = kLatents * d_ * static_cast<int64_t>(sizeof(KernelBits));
    const int64_t panels = (examples_ + kPanel - 1) / kPanel, panel = first / kPanel;
    if (latent + 2 * kLatents > args_.latent_end) return;
    const char* next = static_cast<const char*>(encode_.kernel) + (latent + kLatents) * d_ * sizeof(KernelBits);
    const int64_t end = bytes * (panel + 1) / panels;
    for (int64_t byte = bytes * panel / panels / 64 * 64; byte < end; byte += 64) __builtin_prefetch(next + byte, 0, 2);
  }

  template <int kLatents>
  void Multiply(const Number* rows, const Number* panel, const Number* bias, Vec (&sums)[kLatents][kPanelVectors]) {
    Vec total[kLatents][kPanelVectors];
#pragma GCC unroll 12
    for (int r = 0; r < kLatents; ++r) total[r][0] = total[r][1] = S::Set(bias[r]);
    for (int64_t i = 0; i < d_; ++i) {
      const Vec x0 = S::Load(panel + i * kPanel), x1 = S::Load(panel + i * kPanel + S::kLanes);
#pragma GCC unroll 12
      for (int r = 0; r < kLatents; ++r) {
        const Vec weight = S::Set(rows[r * d_ + i]);
        total[r][0] += weight * x0;
        total[r][1] += weight * x1;
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kLatents; ++r) sums[r][0] = total[r][0], sums[r][1] = total[r][1];
  }

  __attribute__((noinline)) void Add(uint64_t above, Vec sums, int64_t first, int64_t latent) {
    Number numbers[S::kLanes];
    S::Store(numbers, sums);
    for (; above != 0; above &= above - 1) {
      const int lane = __builtin_ctzll(above);
      const int64_t example = first + lane;
      // The list may have been pruned since the comparison.
      if (numbers[lane] <= thresholds_[example]) continue;
      Number* const list = numbers_ + example * args_.capacity;
      int32_t* const latents = args_.latents + example * args_.capacity;
      int64_t& count = args_.counts[example];
      list[count] = numbers[lane];
      latents[count++] = static_cast<int32_t>(latent);
      if (count < args_.capacity) continue;
      const Cut<Number> cut = CutCandidates(list, latents, count, encode_.k);
      count = encode_.k;
      thresholds_[example] = cut.is_nan ? kHighest<Number> : cut.threshold;
    }
  }

  const FindCandidatesArgs& args_;
  const EncodeArgs& encode_;
  const int64_t d_;
  const int64_t examples_;
  Number* const panels_;
  Number* const thresholds_;
  Number* const numbers_;
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPARSE_CANDIDATES_INL_H_
