// An oracle in slow, simple C++: scores in float64, a stable sort, one product at a time. It shares only the
// conversions of types.h with the kernels. Also has distributions of rows that have broken top-k kernels.

#ifndef SEPARATIONFACTOR_TESTS_CORE_CORE_ORACLE_H_
#define SEPARATIONFACTOR_TESTS_CORE_CORE_ORACLE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "core/separate.h"
#include "core/types.h"

#define CHECK(condition, ...)                                                            \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: " #condition " does not hold: ", __FILE__, __LINE__); \
      std::fprintf(stderr, __VA_ARGS__);                                                 \
      std::fprintf(stderr, "\n");                                                        \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (false)

namespace separationfactor {
namespace {

template <class T>
double ToDouble(typename T::Bits bits) {
  return static_cast<double>(T::ToNumber(bits));
}

// Scores with a smaller magnitude count as zero.
template <class T>
double Tiny() {
  if (!T::kDenormalsAreZero) return 0;
  return sizeof(typename T::Bits) == 8 ? std::numeric_limits<double>::min()
                                       : static_cast<double>(std::numeric_limits<float>::min());
}

// Returns the indices of a row's entries, greatest score first.
template <class T>
std::vector<int64_t> OrderOracle(const typename T::Bits* row, int64_t n, Score score) {
  std::vector<double> rank(n);
  for (int64_t i = 0; i < n; ++i) {
    double x = ToDouble<T>(row[i]);
    if (std::abs(x) < Tiny<T>()) x = 0;
    rank[i] = score == Score::kMagnitude ? std::abs(x) : x;
  }
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    if (std::isnan(rank[a]) || std::isnan(rank[b])) return std::isnan(rank[a]) && !std::isnan(rank[b]);
    return rank[a] > rank[b];
  });
  return order;
}

// Whether `actual` is the product, rounded once. The core may flush denormals.
template <class T>
bool IsProduct(typename T::Bits actual, typename T::Bits x, double factor) {
  using Number = typename T::Number;
  using Bits = typename T::Bits;
  // A denormal factor counts as zero.
  if (std::abs(factor) < std::numeric_limits<Number>::min()) return actual == 0;
  // A denormal that counts as zero times infinity is NaN.
  if (std::isinf(factor) && std::abs(ToDouble<T>(x)) < Tiny<T>()) return std::isnan(T::ToNumber(actual));
  const Number product = T::ToNumber(x) * static_cast<Number>(factor);
  if (std::isnan(product)) return std::isnan(T::ToNumber(actual));
  if (actual == T::FromNumber(product)) return true;
  const bool may_flush = std::abs(ToDouble<T>(x)) < Tiny<T>() || std::abs(static_cast<double>(product)) < Tiny<T>();
  return may_flush && actual == static_cast<Bits>(std::signbit(product) ? Bits{1} << (8 * sizeof(Bits) - 1) : 0);
}

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
  const auto tiny = static_cast<Bits>(T::kExponent & (~T::kExponent + 1));  // the smallest normal number
  const std::vector<Bits> specials = {0,
                                      sign,
                                      T::kExponent,
                                      static_cast<Bits>(T::kExponent | sign),
                                      static_cast<Bits>(T::kExponent + 1),
                                      static_cast<Bits>(~Bits{0}),
                                      1,
                                      static_cast<Bits>(sign | 1),
                                      static_cast<Bits>(tiny - 1),
                                      static_cast<Bits>((tiny - 1) | sign),
                                      tiny,
                                      static_cast<Bits>(tiny | sign),
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
      {"any denormals",
       [=](auto& rng, int64_t) {
         // For float16 these are ordinary numbers.
         const auto bits = static_cast<Bits>(rng() & ~T::kExponent);
         return rng() % 5 ? bits : number(std::normal_distribution<double>()(rng));
       }},
      {"any bits", [=](auto& rng, int64_t) { return static_cast<Bits>(rng()); }},
  };
}

// Distributions whose values depend on the position in the row.
template <class T>
std::vector<Distribution<T>> LongDistributions(int64_t n) {
  using Bits = typename T::Bits;
  using Number = typename T::Number;
  auto distributions = Distributions<T>();
  const auto number = [](double x) { return T::FromNumber(static_cast<Number>(x)); };
  const auto normal = [=](auto& rng) { return number(std::normal_distribution<double>()(rng)); };
  const auto add = [&](const char* name, auto entry) { distributions.push_back({name, entry}); };
  add("maximum at the end", [=](auto& rng, int64_t i) { return i == n - 1 ? number(100) : normal(rng); });
  add("every 64th high", [=](auto& rng, int64_t i) { return i % 64 == 0 ? number(50 + i % 1000) : normal(rng); });
  add("every 512th high", [=](auto& rng, int64_t i) { return i % 512 == 5 ? number(50 + i % 1000) : normal(rng); });
  add("high where nobody samples",
      [=](auto& rng, int64_t i) { return i % 64 == 63 ? number(9 + i % 5) : normal(rng); });
  add("last sixteenth high", [=](auto& rng, int64_t i) { return i > n - n / 16 ? number(50) : normal(rng); });
  add("64 values", [=](auto& rng, int64_t) { return number(static_cast<double>(rng() % 64)); });
  add("quantised", [=](auto& rng, int64_t) { return number(std::round(std::normal_distribution<double>()(rng) * 4)); });
  add("quantised relu", [=](auto& rng, int64_t) {
    return number(std::max(0.0, std::round(std::normal_distribution<double>()(rng) * 4)));
  });
  add("identical leading bits", [=](auto& rng, int64_t) {
    return static_cast<Bits>(number(1) + static_cast<Bits>(rng() % (sizeof(Bits) == 2 ? 16 : 256)));
  });
  for (const int percent : {10, 90, 99, 100}) {
    add("infinities",
        [=](auto& rng, int64_t) { return static_cast<int>(rng() % 100) < percent ? T::kExponent : normal(rng); });
    add("negative infinities", [=](auto& rng, int64_t) {
      const auto sign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
      return static_cast<int>(rng() % 100) < percent ? static_cast<Bits>(T::kExponent | sign) : normal(rng);
    });
    add("NaNs", [=](auto& rng, int64_t) {
      const auto sign = static_cast<Bits>(rng() % 2 << (8 * sizeof(Bits) - 1));
      return static_cast<int>(rng() % 100) < percent ? static_cast<Bits>((T::kExponent + 1 + rng() % 3) | sign)
                                                     : normal(rng);
    });
  }
  add("one in a thousand", [=](auto& rng, int64_t) { return rng() % 1000 == 0 ? normal(rng) : Bits{0}; });
  add("all magnitudes", [=](auto& rng, int64_t) {
    return number(std::exp2(static_cast<double>(rng() % 250) - 125) * (rng() % 2 ? 1 : -1));
  });
  add("denormals", [=](auto& rng, int64_t) {
    return rng() % 3 ? static_cast<Bits>(rng() % 64 | rng() % 2 << (8 * sizeof(Bits) - 1)) : normal(rng);
  });
  return distributions;
}

// A buffer at any alignment, with guard elements on both sides.
template <class T>
class Buffer {
 public:
  using Bits = typename T::Bits;
  static constexpr auto kDirt = static_cast<Bits>(0xDEADBEEFDEADBEEF);
  Buffer(int64_t size, int64_t offset) : bits_(size + 16, kDirt), size_(size), offset_(offset) {}
  Bits* data() { return bits_.data() + offset_; }
  Bits& operator[](int64_t i) { return bits_[offset_ + i]; }
  bool IsCleanAround() const {
    for (int64_t i = 0; i < static_cast<int64_t>(bits_.size()); ++i) {
      if ((i < offset_ || i >= offset_ + size_) && bits_[i] != kDirt) return false;
    }
    return true;
  }
  bool operator==(const Buffer& other) const {
    return std::equal(bits_.begin() + offset_, bits_.begin() + offset_ + size_, other.bits_.begin() + other.offset_);
  }

 private:
  std::vector<Bits> bits_;
  int64_t size_, offset_;
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TESTS_CORE_CORE_ORACLE_H_
