// Compares the core with the oracle on every instruction set. Ends at the first failure and prints its state.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/cpu/instruction_set.h"
#include "core/separate.h"
#include "core/types.h"
#include "core_oracle.h"

namespace separationfactor {
namespace {

ParallelFor Threads(int threads) {
  return [threads](int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
    std::vector<std::thread> pool;
    for (int64_t part = 1; part < threads; ++part) {
      const int64_t begin = total * part / threads, end = total * (part + 1) / threads;
      if (begin < end) pool.emplace_back(work, begin, end);
    }
    if (total / threads > 0) work(0, total / threads);
    for (std::thread& thread : pool) thread.join();
  };
}

template <class T>
using Rows = std::vector<typename T::Bits>;

struct Factors {
  double separation, suppression;
};

// Runs the rows on every instruction set, in place and out of place, and compares with the oracle.
template <class T>
void CheckRows(const std::string& what, Buffer<T>& x, int64_t rows, int64_t n, int64_t k, Score score, Factors factors,
               const std::vector<std::vector<int64_t>>& orders, int threads, std::mt19937_64& rng) {
  const char* name = what.c_str();
  const int64_t bytes = BitmaskBytes(n);
  std::vector<uint8_t> expected(rows * bytes);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = 0; j < k; ++j) {
      const int64_t i = orders[row][j];
      expected[row * bytes + i / 8] |= static_cast<uint8_t>(1 << i % 8);
    }
  }
  Buffer<T> first(rows * n, 0);
  bool is_first = true;
  for (const InstructionSet set : SupportedInstructionSets()) {
    CHECK(SetInstructionSet(set), "%s", InstructionSetName(set));
    for (const bool in_place : {false, true}) {
      Buffer<T> y(rows * n, rng() % 16);
      std::vector<uint8_t> selected(rows * bytes + 1, 0xAA);
      if (in_place) std::copy(x.data(), x.data() + rows * n, y.data());
      Separate({T::kDType, score, rows, n, k, factors.separation, factors.suppression, in_place ? y.data() : x.data(),
                y.data(), selected.data(), threads},
               Threads(threads));
      CHECK(y.IsCleanAround() && selected.back() == 0xAA, "%s %s n=%ld k=%ld", InstructionSetName(set), name, n, k);
      for (int64_t byte = 0; byte < rows * bytes; ++byte) {
        const int64_t row = byte / bytes, i = byte % bytes * 8;
        CHECK(selected[byte] == expected[byte],
              "%s %s n=%ld k=%ld magnitude=%d in_place=%d threads=%d row=%ld of %ld, entries %ld-: %02x, not %02x",
              InstructionSetName(set), name, n, k, score == Score::kMagnitude, in_place, threads, row, rows, i,
              selected[byte], expected[byte]);
      }
      if (is_first) {
        for (int64_t j = 0; j < rows * n; ++j) {
          const int64_t row = j / n, i = j % n;
          const bool bit = expected[row * bytes + i / 8] >> i % 8 & 1;
          const double factor = bit ? factors.separation : factors.suppression;
          CHECK(IsProduct<T>(y[j], x[j], factor), "%s %s n=%ld k=%ld row=%ld i=%ld x=%g factor=%g y=%g",
                InstructionSetName(set), name, n, k, row, i, ToDouble<T>(x[j]), factor, ToDouble<T>(y[j]));
        }
        first = y;
        is_first = false;
      }
      for (int64_t j = 0; j < rows * n; ++j) {
        CHECK(y[j] == first[j], "%s %s n=%ld k=%ld in_place=%d entry %ld: %llx, but baseline's %llx",
              InstructionSetName(set), name, n, k, in_place, j, static_cast<unsigned long long>(y[j]),
              static_cast<unsigned long long>(first[j]));
      }

      Buffer<T> scaled(rows * n, rng() % 16);
      if (in_place) std::copy(x.data(), x.data() + rows * n, scaled.data());
      ScaleSelected({T::kDType, rows, n, factors.separation, factors.suppression, in_place ? scaled.data() : x.data(),
                     selected.data(), scaled.data(), threads},
                    Threads(threads));
      CHECK(scaled == first && scaled.IsCleanAround(), "scaling: %s %s n=%ld k=%ld", InstructionSetName(set), name, n,
            k);
    }
  }
}

template <class T>
void CheckDistribution(const char* dtype, const Distribution<T>& distribution, int64_t rows, int64_t n,
                       const std::vector<int64_t>& ks, std::mt19937_64& rng) {
  Buffer<T> x(rows * n, rng() % 16);
  for (int64_t i = 0; i < rows * n; ++i) x[i] = distribution.entry(rng, i % n);
  for (const Score score : {Score::kValue, Score::kMagnitude}) {
    std::vector<std::vector<int64_t>> orders;
    for (int64_t row = 0; row < rows; ++row) orders.push_back(OrderOracle<T>(x.data() + row * n, n, score));
    for (const int64_t k : ks) {
      if (k < 0 || k > n) continue;
      const Factors factors{rng() % 8 ? 1.5 : 0.0, rng() % 2 ? -0.25 : 0.0};
      const int threads = 1 + static_cast<int>(rng() % 3);
      CheckRows<T>(std::string(dtype) + " " + distribution.name, x, rows, n, k, score, factors, orders, threads, rng);
    }
  }
}

template <class T>
void TestSeparate(const char* dtype) {
  std::mt19937_64 rng(1);
  for (const auto& distribution : Distributions<T>()) {
    for (const int64_t n : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 255, 256, 257, 500}) {
      CheckDistribution<T>(dtype, distribution, 3, n, {0, 1, n / 3, n / 2, n - 1, n}, rng);
    }
  }
}

// The kernels for short rows process several rows at a time.
template <class T>
void TestManyShortRows(const char* dtype) {
  std::mt19937_64 rng(2);
  for (const auto& distribution : LongDistributions<T>(40)) {
    for (const int64_t rows : {1, 5, 15, 16, 17, 31, 32, 33, 50}) {
      const auto n = static_cast<int64_t>(1 + rng() % (rng() % 2 ? 40 : 300));
      CheckDistribution<T>(dtype, distribution, rows, n, {0, 1, 2, static_cast<int64_t>(rng() % (n + 1)), n - 1, n},
                           rng);
    }
  }
  // RowsInRegisters has a kernel for each number of columns.
  for (int64_t n = 3; n <= 17; ++n) {
    std::vector<int64_t> ks(n - 1);
    std::iota(ks.begin(), ks.end(), 1);
    for (const auto& distribution : Distributions<T>()) CheckDistribution<T>(dtype, distribution, 35, n, ks, rng);
  }
  for (int64_t n = 1; n <= 80; ++n) {
    const auto distributions = Distributions<T>();
    for (int i = 0; i < 3; ++i) {
      CheckDistribution<T>(dtype, distributions[rng() % distributions.size()], 35, n,
                           {1, static_cast<int64_t>(rng() % (n + 1))}, rng);
    }
  }
}

template <class T>
void TestLongRows(const char* dtype) {
  std::mt19937_64 rng(3);
  for (const int64_t n : {600, 1000, 1025, 2047, 4095, 4097, 5000, 10007, 16384}) {
    for (const auto& distribution : LongDistributions<T>(n)) {
      std::vector<int64_t> ks = {1, 2, 31, 32, 33, n / 16, n / 2, n - 1, static_cast<int64_t>(1 + rng() % n)};
      if (n > 5000) ks = {1 + static_cast<int64_t>(rng() % 16), 64, n / 64, static_cast<int64_t>(1 + rng() % n)};
      CheckDistribution<T>(dtype, distribution, 2, n, ks, rng);
    }
  }
  const int64_t n = 131072 + 3;
  for (const auto& distribution : LongDistributions<T>(n)) {
    CheckDistribution<T>(dtype, distribution, 1, n, {64, static_cast<int64_t>(rng() % n)}, rng);
  }
}

// With fewer rows than threads, long rows are split among threads.
template <class T>
void TestSplitRows(const char* dtype) {
  std::mt19937_64 rng(5);
  const int64_t n = 262144 + 4096 + 77;
  for (const auto& distribution : LongDistributions<T>(n)) {
    Buffer<T> x(n, rng() % 16);
    for (int64_t i = 0; i < n; ++i) x[i] = distribution.entry(rng, i);
    const Score score = rng() % 2 ? Score::kValue : Score::kMagnitude;
    const std::vector<std::vector<int64_t>> orders = {OrderOracle<T>(x.data(), n, score)};
    const int64_t ks[] = {1, 1000, static_cast<int64_t>(rng() % n), rng() % 2 ? 0 : n};
    const int threads[] = {2, 3, 7, 40};
    for (int i = 0; i < 4; ++i) {
      CheckRows<T>(std::string(dtype) + " split " + distribution.name, x, 1, n, ks[i], score,
                   {1.5, rng() % 2 ? 0.25 : 0.0}, orders, threads[rng() % 4], rng);
    }
  }
}

// Factors and entries with all special values give the same bits on all instruction sets.
template <class T>
void TestFactors(const char* dtype) {
  std::mt19937_64 rng(4);
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (const auto& distribution : Distributions<T>()) {
    for (const int64_t n : {10, 100, 700, 5000}) {
      const int64_t rows = n < 100 ? 17 : 1;
      Buffer<T> x(rows * n, 3);
      for (int64_t i = 0; i < rows * n; ++i) x[i] = distribution.entry(rng, i % n);
      std::vector<std::vector<int64_t>> orders;
      for (int64_t row = 0; row < rows; ++row) orders.push_back(OrderOracle<T>(x.data() + row * n, n, Score::kValue));
      for (const double separation : {1.0, -2.5, 0.0, -0.0, nan, inf, 1e-310, 1e-30}) {
        for (const double suppression : {0.0, -0.0, 0.25, nan, -inf, 1e-310}) {
          const auto k = static_cast<int64_t>(1 + rng() % (n / 4));
          CheckRows<T>(std::string(dtype) + " factors " + distribution.name, x, rows, n, k, Score::kValue,
                       {separation, suppression}, orders, 1, rng);
        }
      }
    }
  }
}

// The documented order of additions, one level at a time.
double SumOracle(std::vector<double> numbers) {
  while (numbers.size() > 1) {
    numbers.resize((numbers.size() + 63) / 64 * 64);
    std::vector<double> sums;
    for (size_t begin = 0; begin < numbers.size(); begin += 64) {
      for (size_t half = 32; half > 0; half /= 2) {
        for (size_t i = 0; i < half; ++i) numbers[begin + i] += numbers[begin + i + half];
      }
      sums.push_back(numbers[begin]);
    }
    numbers = sums;
  }
  return numbers.empty() ? 0 : numbers[0] + 0.0;
}

bool IsSameSum(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Sizes around a group of 64 and a block of 64 groups, rows that start at any bit of a group, and numbers that are not
// finite.
template <class T>
void TestSumSelected(const char* dtype) {
  using Bits = typename T::Bits;
  std::mt19937_64 rng(2);
  const auto normal = Distributions<T>()[0].entry;
  const Bits sign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  const Bits specials[] = {T::kExponent, static_cast<Bits>(T::kExponent | sign), static_cast<Bits>(T::kExponent + 1)};
  for (const auto& [rows, n] : std::vector<std::pair<int64_t, int64_t>>{{0, 5},
                                                                        {1, 1},
                                                                        {1, 63},
                                                                        {1, 64},
                                                                        {1, 65},
                                                                        {7, 9},
                                                                        {500, 1},
                                                                        {64, 64},
                                                                        {65, 63},
                                                                        {1, 4095},
                                                                        {1, 4096},
                                                                        {1, 4097},
                                                                        {3, 5000},
                                                                        {1000, 271}}) {
    for (const int special_every : {0, 100000, 500, 3}) {
      Rows<T> u(rows * n), v(rows * n), y(rows * n);
      std::vector<uint8_t> selected(rows * BitmaskBytes(n));
      for (auto* numbers : {&u, &v}) {
        for (auto& entry : *numbers) {
          entry = special_every > 0 && rng() % special_every == 0 ? specials[rng() % 3] : normal(rng, 0);
        }
      }
      const int64_t k = n / 3;
      Separate({T::kDType, Score::kValue, rows, n, k, 1, 0, v.data(), y.data(), selected.data()}, Threads(1));
      std::vector<double> in(rows * n), out(rows * n);
      for (int64_t i = 0; i < rows * n; ++i) {
        const double product = ToDouble<T>(u[i]) * ToDouble<T>(v[i]);
        const bool bit = selected[i / n * BitmaskBytes(n) + i % n / 8] >> i % n % 8 & 1;
        (bit ? in : out)[i] = product;
      }
      const double in_sum = SumOracle(in), out_sum = SumOracle(out);
      for (const InstructionSet set : SupportedInstructionSets()) {
        CHECK(SetInstructionSet(set), "%s", InstructionSetName(set));
        for (const int threads : {1, 2, 5}) {
          const SelectedSums sums =
              SumSelected({T::kDType, rows, n, u.data(), v.data(), selected.data()}, Threads(threads));
          CHECK(IsSameSum(sums.selected, in_sum) && IsSameSum(sums.others, out_sum),
                "%s %s rows=%ld n=%ld threads=%d special_every=%d: %.17g %.17g, not %.17g %.17g", dtype,
                InstructionSetName(set), rows, n, threads, special_every, sums.selected, sums.others, in_sum, out_sum);
        }
      }
    }
  }
}

// Every number of a half type converts to float32 and back unchanged. A number between two neighbours rounds to the
// nearer one, and the midpoint to the even one.
template <class T>
void TestHalfConversions(const char* dtype) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float number = T::ToNumber(half);
    if (std::isnan(number)) {
      const uint16_t back = T::FromNumber(number);
      CHECK(std::isnan(T::ToNumber(back)) && back >> 15 == half >> 15, "%s %04x -> %04x", dtype, half, back);
      continue;
    }
    CHECK(T::FromNumber(number) == half, "%s %04x -> %g -> %04x", dtype, half, number, T::FromNumber(number));
    const bool is_finite = (half & 0x7FFF) < T::kExponent;
    if (!is_finite || bits >> 15) continue;
    const auto next = static_cast<uint16_t>(half + 1);
    // Beyond the greatest finite number the step continues as if there were a next number.
    const bool next_is_finite = next < T::kExponent;
    const double step = next_is_finite ? ToDouble<T>(next) - ToDouble<T>(half)
                                       : ToDouble<T>(half) - ToDouble<T>(static_cast<uint16_t>(half - 1));
    const auto middle = static_cast<float>(ToDouble<T>(half) + step / 2);
    if (middle < std::numeric_limits<float>::min()) continue;  // a denormal float32 may be flushed
    const uint16_t even = half % 2 == 0 ? half : next;
    CHECK(T::FromNumber(middle) == even, "%s between %04x and %04x: %04x", dtype, half, next, T::FromNumber(middle));
    CHECK(T::FromNumber(std::nextafter(middle, 0.0f)) == half, "%s below the middle above %04x", dtype, half);
    CHECK(T::FromNumber(std::nextafter(middle, INFINITY)) == next, "%s above the middle above %04x", dtype, half);
    CHECK(T::FromNumber(-middle) == (even | 0x8000), "%s between %04x and %04x, negative", dtype, half, next);
  }
}

template <class T>
void TestDType(const char* dtype) {
  if constexpr (sizeof(typename T::Bits) == 2) TestHalfConversions<T>(dtype);
  TestSeparate<T>(dtype);
  TestManyShortRows<T>(dtype);
  TestLongRows<T>(dtype);
  TestSplitRows<T>(dtype);
  TestFactors<T>(dtype);
  TestSumSelected<T>(dtype);
}

}  // namespace
}  // namespace separationfactor

int main(int argc, char** argv) {
  using namespace separationfactor;
  const std::string dtype = argc > 1 ? argv[1] : "all";
  bool is_known = false;
  const auto is_asked_for = [&](const char* name) {
    const bool asked = dtype == name || dtype == "all";
    is_known |= asked;
    return asked;
  };
  if (is_asked_for("float32")) TestDType<Float32>("float32");
  if (is_asked_for("float64")) TestDType<Float64>("float64");
  if (is_asked_for("bfloat16")) TestDType<BFloat16>("bfloat16");
  if (is_asked_for("float16")) TestDType<Float16>("float16");
  CHECK(is_known, "no dtype is called %s", dtype.c_str());
  std::printf("core_test %s: all passed\n", dtype.c_str());
}
