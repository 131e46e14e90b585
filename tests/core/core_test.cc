// Compares the core with the oracle on every instruction set. Ends at the first failure and prints its state. A test is
// named after the edge that it checks.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/cpu/flush_denormals.h"
#include "core/cpu/instruction_set.h"
#include "core/cpu/kernels.h"
#include "core/cpu/path.h"
#include "core/separate.h"
#include "core/types.h"
#include "core_oracle.h"
#include "named_tests.h"
#include "threads.h"

namespace separationfactor {
namespace {

template <class T>
using Rows = std::vector<typename T::Bits>;

struct Factors {
  double separation, suppression;
};

// Separates all rows by a path that handles them, on the calling thread.
void SeparateBy(Path path, const SeparateArgs& args) {
  const ScopedFlushDenormals flush;
  std::vector<double> scratch((ScratchBytes(args) + sizeof(double) - 1) / sizeof(double));
  KernelsOf(CurrentInstructionSet(), args.dtype).separate_by(path, args, 0, args.rows, scratch.data());
}

// Runs the rows on every instruction set, in place and out of place, and compares with the oracle. Uses `path` if there
// is one, and otherwise the path that the core chooses.
template <class T>
void CheckRows(const std::string& what, Buffer<T>& x, int64_t rows, int64_t n, int64_t k, Score score, Factors factors,
               const std::vector<std::vector<int64_t>>& orders, int threads, std::optional<Path> path,
               std::mt19937_64& rng) {
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
      const void* const input = in_place ? y.data() : x.data();
      const SeparateArgs args{T::kDType, score,           rows,   n, k, factors.separation, factors.suppression, input,
                              y.data(),  selected.data(), threads};
      path.has_value() ? SeparateBy(*path, args) : Separate(args, Threads(threads));
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
      CheckRows<T>(std::string(dtype) + " " + distribution.name, x, rows, n, k, score, factors, orders, threads, {},
                   rng);
    }
  }
}

// ---- The content of rows -----------------------------------------------------------------------------------------

const std::vector<int64_t> small_sizes = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 255, 256, 257, 500};
const std::vector<int64_t> large_sizes = {600, 1000, 1025, 2047, 4095, 4097, 5000, 10007, 16384};

// Checks distributions with these names on small, on many short, and on long rows.
template <class T>
void CheckContent(const char* dtype, const std::vector<std::string>& names) {
  std::mt19937_64 rng(1);
  const auto check = [&](int64_t rows, int64_t n, const std::vector<int64_t>& ks) {
    std::set<std::string> found;
    for (const auto& distribution : LongDistributions<T>(n)) {
      if (std::find(names.begin(), names.end(), distribution.name) == names.end()) continue;
      CheckDistribution<T>(dtype, distribution, rows, n, ks, rng);
      found.insert(distribution.name);
    }
    CHECK(found.size() == names.size(), "%zu of %zu names are those of distributions", found.size(), names.size());
  };
  for (const int64_t n : small_sizes) check(3, n, {1, n / 3, n / 2, n - 1});
  // The kernels for short rows process several rows at a time.
  for (const int64_t rows : {1, 5, 15, 16, 17, 31, 32, 33, 50}) {
    const auto n = static_cast<int64_t>(1 + rng() % (rng() % 2 ? 40 : 300));
    check(rows, n, {1, 2, static_cast<int64_t>(rng() % (n + 1)), n - 1});
  }
  for (const int64_t n : large_sizes) {
    std::vector<int64_t> ks = {1, 2, 31, 32, 33, n / 16, n / 2, n - 1, static_cast<int64_t>(1 + rng() % n)};
    if (n > 5000) ks = {1 + static_cast<int64_t>(rng() % 16), 64, n / 64, static_cast<int64_t>(1 + rng() % n)};
    check(2, n, ks);
  }
}

template <class T>
void TestDistinct(const char* dtype) {
  CheckContent<T>(dtype, {"normal", "all magnitudes", "identical leading bits", "maximum at the end"});
}
template <class T>
void TestSorted(const char* dtype) {
  CheckContent<T>(dtype, {"ascending", "descending"});
}
template <class T>
void TestAllEqual(const char* dtype) {
  CheckContent<T>(dtype, {"constant"});
}
template <class T>
void TestTies(const char* dtype) {
  CheckContent<T>(dtype, {"four values", "half zeros", "sawtooth", "64 values", "quantised", "quantised relu",
                          "one in a thousand"});
}
template <class T>
void TestSignedZeros(const char* dtype) {
  CheckContent<T>(dtype, {"both zeros"});
}
template <class T>
void TestDenormals(const char* dtype) {
  CheckContent<T>(dtype, {"any denormals", "denormals"});
}
template <class T>
void TestInfinities(const char* dtype) {
  CheckContent<T>(dtype, {"infinities", "negative infinities"});
}
template <class T>
void TestNaNs(const char* dtype) {
  CheckContent<T>(dtype, {"NaNs"});
}
template <class T>
void TestAnyBits(const char* dtype) {
  CheckContent<T>(dtype, {"specials", "any bits"});
}
template <class T>
void TestMisleadingSamples(const char* dtype) {
  CheckContent<T>(dtype, {"every 64th high", "every 512th high", "high where nobody samples", "last sixteenth high"});
}

// ---- k, and the shape of rows ------------------------------------------------------------------------------------

template <class T>
void CheckK(const char* dtype, int64_t (*k_of)(int64_t n)) {
  std::mt19937_64 rng(7);
  for (const auto& sizes : {small_sizes, large_sizes}) {
    for (const int64_t n : sizes) {
      for (const auto& distribution : Distributions<T>()) {
        CheckDistribution<T>(dtype, distribution, 3, n, {k_of(n)}, rng);
      }
    }
  }
}
template <class T>
void TestKEqualsZero(const char* dtype) {
  CheckK<T>(dtype, [](int64_t) { return int64_t{0}; });
}
template <class T>
void TestKEqualsOne(const char* dtype) {
  CheckK<T>(dtype, [](int64_t) { return int64_t{1}; });
}
template <class T>
void TestKEqualsNMinusOne(const char* dtype) {
  CheckK<T>(dtype, [](int64_t n) { return n - 1; });
}
template <class T>
void TestKEqualsN(const char* dtype) {
  CheckK<T>(dtype, [](int64_t n) { return n; });
}

// RowsInRegisters has a kernel for each number of columns.
template <class T>
void TestEveryKOfShortRows(const char* dtype) {
  std::mt19937_64 rng(2);
  for (int64_t n = 3; n <= 17; ++n) {
    std::vector<int64_t> ks(n - 1);
    std::iota(ks.begin(), ks.end(), 1);
    for (const auto& distribution : Distributions<T>()) CheckDistribution<T>(dtype, distribution, 35, n, ks, rng);
  }
}

template <class T>
void TestOddSizes(const char* dtype) {
  std::mt19937_64 rng(6);
  const auto distributions = Distributions<T>();
  for (int64_t n = 1; n <= 80; ++n) {
    for (int i = 0; i < 3; ++i) {
      CheckDistribution<T>(dtype, distributions[rng() % distributions.size()], 35, n,
                           {1, static_cast<int64_t>(rng() % (n + 1))}, rng);
    }
  }
}

template <class T>
void TestLongRow(const char* dtype) {
  std::mt19937_64 rng(3);
  const int64_t n = 131072 + 3;
  for (const auto& distribution : LongDistributions<T>(n)) {
    CheckDistribution<T>(dtype, distribution, 1, n, {64, static_cast<int64_t>(rng() % n)}, rng);
  }
}

// ChoosePath leaves out shapes that a path would handle. Every path is right there too.
template <class T>
void TestEveryPath(const char* dtype) {
  std::mt19937_64 rng(8);
  for (const int64_t n : {2, 4, 5, 11, 16, 17, 32, 33, 64, 131, 256, 257, 512, 515, 1100, 4099, 9000}) {
    for (const auto& distribution : LongDistributions<T>(n)) {
      const int64_t rows = n <= 256 ? 1 + static_cast<int64_t>(rng() % 40) : 1;
      Buffer<T> x(rows * n, rng() % 16);
      for (int64_t i = 0; i < rows * n; ++i) x[i] = distribution.entry(rng, i % n);
      const Score score = rng() % 2 ? Score::kValue : Score::kMagnitude;
      std::vector<std::vector<int64_t>> orders;
      for (int64_t row = 0; row < rows; ++row) orders.push_back(OrderOracle<T>(x.data() + row * n, n, score));
      for (const int64_t k : {int64_t{0}, int64_t{1}, 1 + static_cast<int64_t>(rng() % 8), n / 16, n / 8, n / 2, n - 1,
                              n, 1 + static_cast<int64_t>(rng() % n)}) {
        if (k > n) continue;
        for (const Path path : kPaths) {
          if (!Handles(path, T::kDType, n, k)) continue;
          CheckRows<T>(std::string(dtype) + " " + distribution.name + " by " + NameOf(path), x, rows, n, k, score,
                       {1.5, rng() % 2 ? -0.25 : 0.0}, orders, 1, path, rng);
        }
      }
    }
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
                   {1.5, rng() % 2 ? 0.25 : 0.0}, orders, threads[rng() % 4], {}, rng);
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
                       {separation, suppression}, orders, 1, {}, rng);
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
std::vector<NamedTest> TestsOf() {
  std::vector<NamedTest> tests = {
      {"Distinct", TestDistinct<T>},
      {"Sorted", TestSorted<T>},
      {"AllEqual", TestAllEqual<T>},
      {"Ties", TestTies<T>},
      {"SignedZeros", TestSignedZeros<T>},
      {"Denormals", TestDenormals<T>},
      {"Infinities", TestInfinities<T>},
      {"NaNs", TestNaNs<T>},
      {"AnyBits", TestAnyBits<T>},
      {"MisleadingSamples", TestMisleadingSamples<T>},
      {"KEqualsZero", TestKEqualsZero<T>},
      {"KEqualsOne", TestKEqualsOne<T>},
      {"KEqualsNMinusOne", TestKEqualsNMinusOne<T>},
      {"KEqualsN", TestKEqualsN<T>},
      {"EveryKOfShortRows", TestEveryKOfShortRows<T>},
      {"OddSizes", TestOddSizes<T>},
      {"LongRow", TestLongRow<T>},
      {"EveryPath", TestEveryPath<T>},
      {"SplitRows", TestSplitRows<T>},
      {"Factors", TestFactors<T>},
      {"SumSelected", TestSumSelected<T>},
  };
  if constexpr (sizeof(typename T::Bits) == 2) tests.push_back({"HalfConversions", TestHalfConversions<T>});
  return tests;
}

}  // namespace
}  // namespace separationfactor

int main(int argc, char** argv) {
  using namespace separationfactor;
  return RunNamedTests(argc, argv, [](auto traits) { return TestsOf<decltype(traits)>(); });
}
