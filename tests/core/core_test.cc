// The core against an oracle that shares nothing with it: scores in float64, a stable sort, one product at a
// time. Prints the state of the first failure and ends.

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

#include "core/dtypes.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

#define CHECK(condition, ...)                                                            \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: " #condition " does not hold: ", __FILE__, __LINE__); \
      std::fprintf(stderr, __VA_ARGS__);                                                 \
      std::fprintf(stderr, "\n");                                                        \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (false)

ParallelFor Threads(int threads) {
  return [threads](int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
    std::vector<std::thread> pool;
    for (int64_t part = 0; part < threads; ++part) {
      const int64_t begin = total * part / threads, end = total * (part + 1) / threads;
      if (begin < end) pool.emplace_back(work, begin, end);
    }
    for (std::thread& thread : pool) thread.join();
  };
}

template <class T>
constexpr DType kDType = DType::kFloat32;
template <>
constexpr DType kDType<Float64> = DType::kFloat64;
template <>
constexpr DType kDType<BFloat16> = DType::kBFloat16;
template <>
constexpr DType kDType<Float16> = DType::kFloat16;

template <class T>
double ToDouble(typename T::Bits bits) {
  return static_cast<double>(T::ToNumber(bits));
}

// The smallest normal number below which a score is zero.
template <class T>
double Tiny() {
  if (!T::kDenormalsAreZero) return 0;
  return sizeof(typename T::Bits) == 8 ? std::numeric_limits<double>::min()
                                       : static_cast<double>(std::numeric_limits<float>::min());
}

template <class T>
std::vector<bool> SelectOracle(const std::vector<typename T::Bits>& row, int64_t k, Score score) {
  std::vector<int64_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  const auto rank = [&](int64_t i) {
    double x = ToDouble<T>(row[i]);
    if (std::abs(x) < Tiny<T>()) x = 0;
    return score == Score::kMagnitude ? std::abs(x) : x;
  };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const double rank_a = rank(a), rank_b = rank(b);
    if (std::isnan(rank_a) || std::isnan(rank_b)) return std::isnan(rank_a) && !std::isnan(rank_b);
    return rank_a > rank_b;
  });
  std::vector<bool> selected(row.size());
  for (int64_t i = 0; i < k; ++i) selected[order[i]] = true;
  return selected;
}

// The product rounded once; the core may flush what is denormal.
template <class T>
bool IsProduct(typename T::Bits actual, typename T::Bits x, double factor) {
  using Number = typename T::Number;
  using Bits = typename T::Bits;
  if (factor == 0) return actual == 0;
  const Number product = T::ToNumber(x) * static_cast<Number>(factor);
  if (std::isnan(product)) return std::isnan(T::ToNumber(actual));
  if (actual == T::FromNumber(product)) return true;
  const bool may_flush = std::abs(ToDouble<T>(x)) < Tiny<T>() || std::abs(static_cast<double>(product)) < Tiny<T>();
  return may_flush && actual == static_cast<Bits>(std::signbit(product) ? Bits{1} << (8 * sizeof(Bits) - 1) : 0);
}

template <class T>
using Rows = std::vector<typename T::Bits>;

template <class T>
struct Distribution {
  const char* name;
  std::function<typename T::Bits(std::mt19937_64&, int64_t i)> entry;
};

template <class T>
std::vector<Distribution<T>> Distributions() {
  using Bits = typename T::Bits;
  using Number = typename T::Number;
  const auto number = [](double x) { return T::FromNumber(static_cast<Number>(x)); };
  const Bits sign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  const std::vector<Bits> specials = {0,
                                      sign,
                                      T::kExponent,
                                      static_cast<Bits>(T::kExponent | sign),
                                      static_cast<Bits>(T::kExponent + 1),
                                      static_cast<Bits>(~Bits{0}),
                                      1,
                                      static_cast<Bits>(sign | 1),
                                      number(1),
                                      number(-1),
                                      static_cast<Bits>(T::kExponent - 1),
                                      static_cast<Bits>((T::kExponent - 1) | sign)};
  return {
      {"normal", [=](auto& rng, int64_t) { return number(std::normal_distribution<double>()(rng)); }},
      {"ascending", [=](auto&, int64_t i) { return number(static_cast<double>(i)); }},
      {"descending", [=](auto&, int64_t i) { return number(-static_cast<double>(i)); }},
      {"constant", [=](auto&, int64_t) { return number(0.5); }},
      {"four values", [=](auto& rng, int64_t) { return number(static_cast<double>(rng() % 4) - 1); }},
      {"half zeros",
       [=](auto& rng, int64_t) { return number(std::max(0.0, std::normal_distribution<double>()(rng))); }},
      {"both zeros", [=](auto& rng, int64_t) { return rng() % 2 ? sign : Bits{0}; }},
      {"sawtooth", [=](auto&, int64_t i) { return number(static_cast<double>(i % 7)); }},
      {"specials", [=](auto& rng, int64_t) { return specials[rng() % specials.size()]; }},
      {"any bits", [=](auto& rng, int64_t) { return static_cast<Bits>(rng()); }},
  };
}

template <class T>
void TestSeparate(const char* dtype) {
  using Bits = typename T::Bits;
  std::mt19937_64 rng(1);
  for (const auto& distribution : Distributions<T>()) {
    for (const int64_t n : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 500}) {
      for (const int64_t k : {int64_t{0}, int64_t{1}, n / 3, n / 2, n - 1, n}) {
        for (const Score score : {Score::kValue, Score::kMagnitude}) {
          const int64_t rows = 3;
          const int threads = 1 + static_cast<int>(rng() % 3);
          const double separation = rng() % 4 ? 1.5 : 0.0, suppression = rng() % 2 ? -0.25 : 0.0;
          Rows<T> x(rows * n);
          for (int64_t i = 0; i < rows * n; ++i) x[i] = distribution.entry(rng, i % n);
          // Outputs hold garbage, as freshly allocated ones do; every other time the input is the output.
          Rows<T> y(rows * n, static_cast<Bits>(0xDEADBEEFDEADBEEF));
          std::vector<uint8_t> selected(rows * BitmaskBytes(n), 0xAA);
          const bool in_place = rng() % 2;
          if (in_place) y = x;
          Separate({kDType<T>, score, rows, n, k, separation, suppression, in_place ? y.data() : x.data(), y.data(),
                    selected.data()},
                   Threads(threads));

          Rows<T> scaled(rows * n, static_cast<Bits>(0xDEADBEEFDEADBEEF));
          ScaleSelected({kDType<T>, rows, n, separation, suppression, x.data(), selected.data(), scaled.data()},
                        Threads(threads));
          CHECK(scaled == y, "%s %s n=%ld k=%ld", dtype, distribution.name, n, k);

          for (int64_t row = 0; row < rows; ++row) {
            const std::vector<bool> expected =
                SelectOracle<T>(Rows<T>(x.begin() + row * n, x.begin() + (row + 1) * n), k, score);
            for (int64_t i = 0; i < 8 * BitmaskBytes(n); ++i) {
              const bool bit = selected[row * BitmaskBytes(n) + i / 8] >> i % 8 & 1;
              CHECK(bit == (i < n && expected[i]), "%s %s n=%ld k=%ld magnitude=%d row=%ld i=%ld bit=%d", dtype,
                    distribution.name, n, k, score == Score::kMagnitude, row, i, bit);
              if (i >= n) continue;
              const double factor = bit ? separation : suppression;
              CHECK(IsProduct<T>(y[row * n + i], x[row * n + i], factor),
                    "%s %s n=%ld k=%ld row=%ld i=%ld x=%g factor=%g y=%g", dtype, distribution.name, n, k, row, i,
                    ToDouble<T>(x[row * n + i]), factor, ToDouble<T>(y[row * n + i]));
            }
          }
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

template <class T>
void TestSumSelected(const char* dtype) {
  std::mt19937_64 rng(2);
  const auto normal = Distributions<T>()[0].entry;
  for (const auto& [rows, n] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 5}, {1, 1}, {1, 63}, {1, 64}, {1, 65}, {7, 9}, {64, 64}, {65, 63}, {3, 5000}, {1000, 271}}) {
    Rows<T> u(rows * n), v(rows * n), y(rows * n);
    std::vector<uint8_t> selected(rows * BitmaskBytes(n));
    for (auto& entry : u) entry = normal(rng, 0);
    for (auto& entry : v) entry = normal(rng, 0);
    const int64_t k = n / 3;
    Separate({kDType<T>, Score::kValue, rows, n, k, 1, 0, v.data(), y.data(), selected.data()}, Threads(1));
    std::vector<double> in(rows * n), out(rows * n);
    for (int64_t i = 0; i < rows * n; ++i) {
      const double product = ToDouble<T>(u[i]) * ToDouble<T>(v[i]);
      const bool bit = selected[i / n * BitmaskBytes(n) + i % n / 8] >> i % n % 8 & 1;
      (bit ? in : out)[i] = product;
    }
    for (const int threads : {1, 2, 5}) {
      const SelectedSums sums =
          SumSelected({kDType<T>, rows, n, u.data(), v.data(), selected.data()}, Threads(threads));
      CHECK(sums.selected == SumOracle(in) && sums.others == SumOracle(out),
            "%s rows=%ld n=%ld threads=%d: %.17g %.17g, not %.17g %.17g", dtype, rows, n, threads, sums.selected,
            sums.others, SumOracle(in), SumOracle(out));
    }
  }
}

// Every number of a half type survives the way to float32 and back, and whatever lies between two neighbours
// rounds to the nearer, or to the even one.
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
    // Above the greatest finite number lies what would be the next one, were there one.
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

}  // namespace
}  // namespace separationfactor

int main() {
  using namespace separationfactor;
  TestHalfConversions<BFloat16>("bfloat16");
  TestHalfConversions<Float16>("float16");
  TestSeparate<Float32>("float32");
  TestSeparate<Float64>("float64");
  TestSeparate<BFloat16>("bfloat16");
  TestSeparate<Float16>("float16");
  TestSumSelected<Float32>("float32");
  TestSumSelected<Float64>("float64");
  TestSumSelected<BFloat16>("bfloat16");
  TestSumSelected<Float16>("float16");
  std::puts("core_test: all passed");
}
