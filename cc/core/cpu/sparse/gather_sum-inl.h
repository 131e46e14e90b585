// Sums of a table's rows, each with a coefficient.

#ifndef SEPARATIONFACTOR_CORE_CPU_SPARSE_GATHER_SUM_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_SPARSE_GATHER_SUM_INL_H_

#include <cstdint>

#include "core/cpu/sparse/elements-inl.h"
#include "core/cpu/sparse/kernels.h"

namespace separationfactor {
namespace {

template <class Table, class Out>
class GatherSum {
  using In = Elements<Table>;
  using To = Elements<Out>;
  using S = typename In::S;
  using Vec = typename S::Vec;
  using Number = typename Table::Number;
  using TableBits = typename Table::Bits;
  using OutBits = typename Out::Bits;

  // Accumulators: half of the registers.
  static constexpr int kVectors = kVectorBytes == 64 ? 16 : 8;
  // How many rows ahead memory is prefetched.
  static constexpr int kAhead = 2;

 public:
  struct Sum {
    const Number* coefficients;
    const int32_t* rows;
    int64_t count;
  };

  static void Run(const Sum& sum, const TableBits* table, const TableBits* base, int64_t d, OutBits* out) {
    int64_t column = 0;
    for (; column + kVectors * S::kLanes <= d; column += kVectors * S::kLanes) {
      Columns<kVectors>(sum, table, base, d, column, out);
    }
    for (; column + 4 * S::kLanes <= d; column += 4 * S::kLanes) Columns<4>(sum, table, base, d, column, out);
    for (; column + S::kLanes <= d; column += S::kLanes) Columns<1>(sum, table, base, d, column, out);
    if (column < d) LastColumns(sum, table, base, d, column, out);
  }

 private:
  template <int kCount>
  static void Columns(const Sum& sum, const TableBits* table, const TableBits* base, int64_t d, int64_t column,
                      OutBits* out) {
    Vec sums[kCount];
    for (int i = 0; i < kCount; ++i) sums[i] = base != nullptr ? In::Load(base + column + i * S::kLanes) : Vec{};
    for (int64_t j = 0; j < sum.count; ++j) {
      if (j + kAhead < sum.count) {
        const char* ahead = reinterpret_cast<const char*>(table + sum.rows[j + kAhead] * d + column);
        for (int64_t byte = 0; byte < static_cast<int64_t>(kCount * S::kLanes * sizeof(TableBits)); byte += 64) {
          __builtin_prefetch(ahead + byte);
        }
      }
      if (sum.coefficients[j] == 0) continue;
      const Vec coefficient = S::Set(sum.coefficients[j]);
      const TableBits* row = table + sum.rows[j] * d + column;
#pragma GCC unroll 16
      for (int i = 0; i < kCount; ++i) sums[i] += coefficient * In::Load(row + i * S::kLanes);
    }
    for (int i = 0; i < kCount; ++i) To::Store(out + column + i * S::kLanes, sums[i]);
  }

  static void LastColumns(const Sum& sum, const TableBits* table, const TableBits* base, int64_t d, int64_t column,
                          OutBits* out) {
    const int count = static_cast<int>(d - column);
    Vec total = base != nullptr ? In::LoadFirst(base + column, count) : Vec{};
    for (int64_t j = 0; j < sum.count; ++j) {
      if (sum.coefficients[j] == 0) continue;
      total += S::Set(sum.coefficients[j]) * In::LoadFirst(table + sum.rows[j] * d + column, count);
    }
    To::StoreFirst(out + column, total, count);
  }
};

template <class Table, class Out>
void GatherSums(const GatherSumArgs& args, int64_t begin, int64_t end) {
  using Number = typename Table::Number;
  const auto* coefficients = static_cast<const Number*>(args.coefficients);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = args.begins != nullptr ? args.begins[i] : i * args.k;
    const int64_t last = args.begins != nullptr ? args.begins[i + 1] : first + args.k;
    GatherSum<Table, Out>::Run({coefficients + first, args.rows + first, last - first},
                               static_cast<const typename Table::Bits*>(args.table),
                               static_cast<const typename Table::Bits*>(args.base), args.d,
                               static_cast<typename Out::Bits*>(args.out) + i * args.d);
  }
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_SPARSE_GATHER_SUM_INL_H_
