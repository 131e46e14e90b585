// Compares core/sparse.h with obvious loops on every instruction set.
//
// Weights and activations are small integers, so that every sum of products is exact in any order of additions, and so
// that there are many ties. Results must then be equal, bit for bit.

#include "core/sparse.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "core/cpu/instruction_set.h"
#include "core/separate.h"
#include "core/types.h"
#include "core_oracle.h"
#include "named_tests.h"
#include "threads.h"

namespace separationfactor {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class T>
using BitsOf = typename T::Bits;

template <class T>
BitsOf<T> FromDouble(double number) {
  return T::FromNumber(static_cast<typename T::Number>(number));
}

template <class T>
std::vector<BitsOf<T>> Integers(int64_t count, int greatest, std::mt19937_64& rng) {
  std::vector<BitsOf<T>> numbers(count);
  for (auto& number : numbers) number = FromDouble<T>(static_cast<double>(rng() % (2 * greatest + 1)) - greatest);
  return numbers;
}

// Whether two results are the same number, or both NaN. The sign of a zero may differ.
template <class T>
bool IsSame(BitsOf<T> a, double b) {
  const double x = ToDouble<T>(a);
  return std::isnan(b) ? std::isnan(x) : x == ToDouble<T>(FromDouble<T>(b));
}

// Calls check(kernel traits) for the dtypes that a kernel may have.
template <class T, class Check>
void ForEachKernelDType(Check check) {
  check(T{});
  if constexpr (sizeof(BitsOf<T>) == 2) check(Float32{});
}

template <class Check>
void OnEachInstructionSet(Check check) {
  for (const InstructionSet set : SupportedInstructionSets()) {
    CHECK(SetInstructionSet(set), "%s", InstructionSetName(set));
    check(InstructionSetName(set));
  }
}

// ---- Top k ---------------------------------------------------------------------------------------------------

template <class T>
void TopKIsTheSelectionOfSeparate(const char* dtype) {
  std::mt19937_64 rng(1);
  for (const int64_t rows : {1, 3, 35}) {
    for (const int64_t n : {1, 2, 7, 8, 9, 31, 33, 64, 65, 255, 1001}) {
      for (const auto& distribution : Distributions<T>()) {
        std::vector<BitsOf<T>> x(rows * n);
        for (int64_t i = 0; i < rows * n; ++i) x[i] = distribution.entry(rng, i % n);
        for (const int64_t k : {int64_t{0}, int64_t{1}, n / 3, n - 1, n}) {
          const Score score = rng() % 2 ? Score::kValue : Score::kMagnitude;
          const int threads = 1 + static_cast<int>(rng() % 7);
          OnEachInstructionSet([&](const char* set) {
            std::vector<BitsOf<T>> values(rows * k);
            std::vector<int32_t> indices(rows * k);
            TopK({T::kDType, score, rows, n, k, x.data(), values.data(), indices.data(), threads}, Threads(threads));
            for (int64_t row = 0; row < rows; ++row) {
              std::vector<int64_t> order = OrderOracle<T>(x.data() + row * n, n, score);
              std::sort(order.begin(), order.begin() + k);
              for (int64_t j = 0; j < k; ++j) {
                CHECK(indices[row * k + j] == order[j] && values[row * k + j] == x[row * n + order[j]],
                      "%s %s %s n=%ld k=%ld row=%ld j=%ld: index %d, not %ld", set, dtype, distribution.name, n, k, row,
                      j, indices[row * k + j], order[j]);
              }
            }
          });
        }
      }
    }
  }
}

template <class T>
void TopKOfALongRow(const char* dtype) {
  std::mt19937_64 rng(2);
  const int64_t n = 1 << 20, k = 37;
  const std::vector<BitsOf<T>> x = Integers<T>(n, 100, rng);
  std::vector<int64_t> order = OrderOracle<T>(x.data(), n, Score::kValue);
  std::sort(order.begin(), order.begin() + k);
  OnEachInstructionSet([&](const char* set) {
    for (const int threads : {1, 4}) {
      std::vector<BitsOf<T>> values(k);
      std::vector<int32_t> indices(k);
      TopK({T::kDType, Score::kValue, 1, n, k, x.data(), values.data(), indices.data(), threads}, Threads(threads));
      CHECK(std::equal(indices.begin(), indices.end(), order.begin()), "%s %s threads=%d", set, dtype, threads);
    }
  });
}

// ---- Encode --------------------------------------------------------------------------------------------------

// Encodes on every instruction set and compares with all sums. A bias that is empty is none.
template <class T, class Kernel>
void CheckEncode(const std::string& what, int64_t rows, int64_t d, int64_t n, int64_t k,
                 const std::vector<BitsOf<T>>& x, const std::vector<BitsOf<Kernel>>& kernel,
                 const std::vector<BitsOf<Kernel>>& bias, int threads) {
  std::vector<double> expected;
  std::vector<int64_t> selected;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<double> sums(n);
    for (int64_t i = 0; i < n; ++i) {
      sums[i] = bias.empty() ? 0 : ToDouble<Kernel>(bias[i]);
      for (int64_t j = 0; j < d; ++j) sums[i] += ToDouble<T>(x[row * d + j]) * ToDouble<Kernel>(kernel[i * d + j]);
    }
    std::vector<uint64_t> bits(n);
    for (int64_t i = 0; i < n; ++i) bits[i] = BitCast<uint64_t>(sums[i]);
    std::vector<int64_t> order = OrderOracle<Float64>(bits.data(), n, Score::kValue);
    std::sort(order.begin(), order.begin() + k);
    for (int64_t j = 0; j < k; ++j) {
      selected.push_back(order[j]);
      expected.push_back(sums[order[j]]);
    }
  }
  OnEachInstructionSet([&](const char* set) {
    std::vector<BitsOf<T>> values(rows * k + 1, 0x55);
    std::vector<int32_t> indices(rows * k + 1, -7);
    Encode({T::kDType, Kernel::kDType, rows, d, n, k, x.data(), kernel.data(), bias.empty() ? nullptr : bias.data(),
            values.data(), indices.data(), threads},
           Threads(threads));
    CHECK(values.back() == 0x55 && indices.back() == -7, "%s %s wrote past the end", set, what.c_str());
    for (int64_t j = 0; j < rows * k; ++j) {
      CHECK(indices[j] == selected[j] && IsSame<T>(values[j], expected[j]),
            "%s %s rows=%ld d=%ld n=%ld k=%ld threads=%d entry %ld: index %d, not %ld; value %g, not %g", set,
            what.c_str(), rows, d, n, k, threads, j, indices[j], selected[j], ToDouble<T>(values[j]), expected[j]);
    }
  });
}

template <class T>
void EncodeAnySize(const char* dtype) {
  std::mt19937_64 rng(3);
  ForEachKernelDType<T>([&](auto traits) {
    using Kernel = decltype(traits);
    for (const int64_t rows : {1, 2, 15, 16, 17, 31, 33, 70}) {
      for (const int64_t d : {1, 2, 3, 15, 16, 17, 33, 100}) {
        const int64_t n = 1 + static_cast<int64_t>(rng() % 300);
        for (const int64_t k : {int64_t{0}, int64_t{1}, static_cast<int64_t>(rng() % (n + 1)), n}) {
          const auto x = Integers<T>(rows * d, 3, rng);
          const auto kernel = Integers<Kernel>(n * d, 2, rng);
          const auto bias = Integers<Kernel>(rng() % 2 ? n : 0, 3, rng);
          CheckEncode<T, Kernel>(dtype, rows, d, n, k, x, kernel, bias, 1 + static_cast<int>(rng() % 7));
        }
      }
    }
  });
}

template <class T>
void EncodeLongRows(const char* dtype) {
  std::mt19937_64 rng(4);
  ForEachKernelDType<T>([&](auto traits) {
    using Kernel = decltype(traits);
    for (const int64_t d : {1000, 5000}) {
      const int64_t rows = 9, n = 301;
      const auto x = Integers<T>(rows * d, 3, rng);
      const auto kernel = Integers<Kernel>(n * d, 2, rng);
      CheckEncode<T, Kernel>(dtype, rows, d, n, 20, x, kernel, {}, 3);
    }
    // Latents in ranges for many threads.
    const int64_t rows = 40, d = 8, n = 5000;
    const auto x = Integers<T>(rows * d, 3, rng);
    const auto kernel = Integers<Kernel>(n * d, 3, rng);
    for (const int threads : {1, 2, 7}) CheckEncode<T, Kernel>(dtype, rows, d, n, 10, x, kernel, {}, threads);
  });
}

template <class T>
void EncodeAllEqual(const char* dtype) {
  const int64_t rows = 5, d = 4, n = 1000;
  const std::vector<BitsOf<T>> x(rows * d, FromDouble<T>(1)), kernel(n * d, FromDouble<T>(2));
  for (const int64_t k : {1, 30, 999}) CheckEncode<T, T>(dtype, rows, d, n, k, x, kernel, {}, 2);
}

// Each latent is greater than all before it, so that every one is a candidate.
template <class T>
void EncodeAscending(const char* dtype) {
  const int64_t rows = 3, n = 255;
  const std::vector<BitsOf<T>> x(rows, FromDouble<T>(1));
  std::vector<BitsOf<T>> kernel(n);
  for (int64_t i = 0; i < n; ++i) kernel[i] = FromDouble<T>(static_cast<double>(i));
  for (const int64_t k : {1, 16, 40, 254}) CheckEncode<T, T>(dtype, rows, 1, n, k, x, kernel, {}, 1);
}

template <class T>
void EncodeNaNsAndInfinities(const char* dtype) {
  std::mt19937_64 rng(5);
  const int64_t rows = 37, d = 20, n = 200;
  for (int round = 0; round < 20; ++round) {
    auto x = Integers<T>(rows * d, 3, rng);
    auto kernel = Integers<T>(n * d, 2, rng);
    const auto bias = Integers<T>(n, 2, rng);
    for (const double special : {std::nan(""), -std::nan(""), kInfinity, -kInfinity}) {
      for (int i = 0; i < 3; ++i) x[rng() % (rows * d)] = FromDouble<T>(special);
      if (round % 2) kernel[rng() % (n * d)] = FromDouble<T>(special);
    }
    CheckEncode<T, T>(dtype, rows, d, n, 1 + static_cast<int64_t>(rng() % n), x, kernel, bias, 1 + round % 3);
  }
}

// ---- Decode, GatherDot and SumRows ---------------------------------------------------------------------------

struct Code {
  int64_t rows, k, n;
  std::vector<int32_t> indices;
};

// Codes of all kinds: latents that all rows use, that none uses, and that a row uses more than once.
Code RandomCode(int64_t rows, int64_t k, int64_t n, std::mt19937_64& rng) {
  Code code{rows, k, n, std::vector<int32_t>(rows * k)};
  const uint64_t most = 1 + rng() % n;
  for (auto& index : code.indices) index = static_cast<int32_t>(rng() % most);
  return code;
}

template <class T, class Kernel>
void CheckDecode(const char* dtype, const Code& code, int64_t d, const std::vector<BitsOf<T>>& values,
                 const std::vector<BitsOf<Kernel>>& kernel, const std::vector<BitsOf<Kernel>>& bias, int threads) {
  std::vector<double> expected(code.rows * d);
  for (int64_t row = 0; row < code.rows; ++row) {
    for (int64_t i = 0; i < d; ++i) {
      double& sum = expected[row * d + i] = bias.empty() ? 0 : ToDouble<Kernel>(bias[i]);
      for (int64_t j = row * code.k; j < (row + 1) * code.k; ++j) {
        const double value = ToDouble<T>(values[j]);
        if (std::abs(value) < Tiny<T>() || value == 0) continue;
        sum += value * ToDouble<Kernel>(kernel[code.indices[j] * d + i]);
      }
    }
  }
  OnEachInstructionSet([&](const char* set) {
    std::vector<BitsOf<T>> y(code.rows * d + 1, 0x55);
    Decode({T::kDType, Kernel::kDType, code.rows, code.k, d, values.data(), code.indices.data(), kernel.data(),
            bias.empty() ? nullptr : bias.data(), y.data()},
           Threads(threads));
    CHECK(y.back() == 0x55, "%s %s wrote past the end", set, dtype);
    for (int64_t i = 0; i < code.rows * d; ++i) {
      CHECK(IsSame<T>(y[i], expected[i]), "%s %s rows=%ld k=%ld d=%ld entry %ld: %g, not %g", set, dtype, code.rows,
            code.k, d, i, ToDouble<T>(y[i]), expected[i]);
    }
  });
}

template <class T, class Kernel>
void CheckGatherDot(const char* dtype, const Code& code, int64_t d, const std::vector<BitsOf<T>>& x,
                    const std::vector<BitsOf<Kernel>>& kernel, int threads) {
  OnEachInstructionSet([&](const char* set) {
    std::vector<BitsOf<T>> s(code.rows * code.k + 1, 0x55);
    GatherDot({T::kDType, Kernel::kDType, code.rows, code.k, d, x.data(), kernel.data(), code.indices.data(), s.data()},
              Threads(threads));
    CHECK(s.back() == 0x55, "%s %s wrote past the end", set, dtype);
    for (int64_t j = 0; j < code.rows * code.k; ++j) {
      double expected = 0;
      for (int64_t i = 0; i < d; ++i) {
        expected += ToDouble<T>(x[j / code.k * d + i]) * ToDouble<Kernel>(kernel[code.indices[j] * d + i]);
      }
      CHECK(IsSame<T>(s[j], expected), "%s %s rows=%ld k=%ld d=%ld entry %ld: %g, not %g", set, dtype, code.rows,
            code.k, d, j, ToDouble<T>(s[j]), expected);
    }
  });
}

template <class T, class Kernel>
void CheckSumRows(const char* dtype, const Code& code, int64_t d, const std::vector<BitsOf<T>>& values,
                  const std::vector<BitsOf<T>>& x, int threads) {
  std::vector<double> expected(code.n * d);
  std::vector<bool> is_used(code.n);
  for (int64_t j = 0; j < code.rows * code.k; ++j) {
    const double value = ToDouble<T>(values[j]);
    if (std::abs(value) < Tiny<T>() || value == 0) continue;
    is_used[code.indices[j]] = true;
    for (int64_t i = 0; i < d; ++i) expected[code.indices[j] * d + i] += value * ToDouble<T>(x[j / code.k * d + i]);
  }
  OnEachInstructionSet([&](const char* set) {
    const TransposedCode transposed =
        Transpose({T::kDType, code.rows, code.k, code.n, values.data(), code.indices.data()});
    const auto used = static_cast<int64_t>(transposed.latents.size());
    CHECK(used == std::count(is_used.begin(), is_used.end(), true), "%s %s: %ld latents", set, dtype, used);
    std::vector<BitsOf<Kernel>> sums(used * d + 1, 0x55);
    SumRows({T::kDType, Kernel::kDType, d, &transposed, x.data(), sums.data()}, Threads(threads));
    CHECK(sums.back() == 0x55, "%s %s wrote past the end", set, dtype);
    for (int64_t i = 0; i < used; ++i) {
      const int32_t latent = transposed.latents[i];
      CHECK(is_used[latent] && (i == 0 || transposed.latents[i - 1] < latent), "%s %s latent %d", set, dtype, latent);
      for (int64_t column = 0; column < d; ++column) {
        CHECK(IsSame<Kernel>(sums[i * d + column], expected[latent * d + column]),
              "%s %s rows=%ld k=%ld d=%ld latent %d column %ld: %g, not %g", set, dtype, code.rows, code.k, d, latent,
              column, ToDouble<Kernel>(sums[i * d + column]), expected[latent * d + column]);
      }
    }
  });
}

template <class T>
void CodesOfAnySize(const char* dtype) {
  std::mt19937_64 rng(6);
  ForEachKernelDType<T>([&](auto traits) {
    using Kernel = decltype(traits);
    for (const int64_t d : {1, 3, 4, 15, 16, 17, 64, 100, 257, 512, 784, 5000}) {
      for (const int64_t rows : {0, 1, 5, 33}) {
        for (const int64_t k : {0, 1, 4, 7, 20}) {
          if (d == 5000 && rows * k > 50) continue;
          const int64_t n = 1 + static_cast<int64_t>(rng() % 40);
          const int threads = 1 + static_cast<int>(rng() % 7);
          const Code code = RandomCode(rows, k, n, rng);
          const auto values = Integers<T>(rows * k, 2, rng), x = Integers<T>(rows * d, 2, rng);
          const auto kernel = Integers<Kernel>(n * d, 3, rng);
          const auto bias = Integers<Kernel>(rng() % 2 ? d : 0, 3, rng);
          CheckDecode<T, Kernel>(dtype, code, d, values, kernel, bias, threads);
          CheckGatherDot<T, Kernel>(dtype, code, d, x, kernel, threads);
          CheckSumRows<T, Kernel>(dtype, code, d, values, x, threads);
        }
      }
    }
  });
}

// A value of zero adds nothing, whatever the row holds. A NaN or an infinity stays in its example.
template <class T>
void ZerosNaNsAndInfinities(const char* dtype) {
  std::mt19937_64 rng(7);
  const auto specials = {std::nan(""), kInfinity, -kInfinity, 0.0, -0.0};
  for (int round = 0; round < 40; ++round) {
    const int64_t rows = 6, k = 5, n = 9, d = 1 + static_cast<int64_t>(rng() % 70);
    const Code code = RandomCode(rows, k, n, rng);
    auto values = Integers<T>(rows * k, 2, rng), x = Integers<T>(rows * d, 2, rng), kernel = Integers<T>(n * d, 2, rng);
    if (T::kDenormalsAreZero) values[rng() % values.size()] = 1;  // a denormal
    for (const double special : specials) {
      if (round % 2) values[rng() % values.size()] = FromDouble<T>(special);
      if (round % 3) x[rng() % x.size()] = FromDouble<T>(special);
      if (round % 5) kernel[rng() % kernel.size()] = FromDouble<T>(special);
    }
    CheckDecode<T, T>(dtype, code, d, values, kernel, {}, 2);
    CheckGatherDot<T, T>(dtype, code, d, x, kernel, 2);
    CheckSumRows<T, T>(dtype, code, d, values, x, 2);
  }
}

// ---- Adam ----------------------------------------------------------------------------------------------------

template <class T>
struct AdamState {
  using Number = typename T::Number;
  std::vector<Number> variable, m, v;

  AdamState(int64_t count, std::mt19937_64& rng) : variable(count), m(count), v(count) {
    std::normal_distribution<Number> normal;
    for (int64_t i = 0; i < count; ++i) {
      variable[i] = normal(rng);
      m[i] = normal(rng);
      v[i] = normal(rng);
      v[i] = v[i] * v[i] + Number{0.01f};  // a small one magnifies the errors of m
    }
  }
  AdamArgs Args(int64_t n, int64_t d) {
    return {T::kDType, n, d, variable.data(), m.data(), v.data(), 0.01, 0.9, 0.999, 1e-7, nullptr, 0, nullptr};
  }
  bool operator==(const AdamState& other) const { return variable == other.variable && m == other.m && v == other.v; }
};

// Unused rows have a gradient of zero: their moments decay, and the variable moves on.
template <class T>
void AdamOfSomeRows(const char* dtype) {
  if constexpr (sizeof(BitsOf<T>) == 2) return;
  using Number = typename T::Number;
  std::mt19937_64 rng(8);
  std::normal_distribution<Number> normal;
  const double tolerance = sizeof(Number) == 8 ? 1e-14 : 1e-5;
  for (const int64_t d : {1, 5, 16, 33, 100, 5000}) {
    for (const int64_t n : {1, 2, 17}) {
      const AdamState<T> start(n * d, rng);
      std::vector<int32_t> latents;
      for (int64_t i = 0; i < n; ++i) {
        if (rng() % 2) latents.push_back(static_cast<int32_t>(i));
      }
      const auto used = static_cast<int64_t>(latents.size());
      std::vector<Number> gradient(used * d), dense(n * d);
      for (auto& g : gradient) g = normal(rng);
      for (int64_t i = 0; i < used; ++i) {
        std::copy(gradient.begin() + i * d, gradient.begin() + (i + 1) * d, dense.begin() + latents[i] * d);
      }
      OnEachInstructionSet([&](const char* set) {
        AdamState<T> first = start;
        for (const int threads : {1, 2, 7}) {
          AdamState<T> state = start, whole = start;
          AdamArgs args = state.Args(n, d);
          static constexpr int32_t kNone = 0;
          args.latents = used > 0 ? latents.data() : &kNone;
          args.used = used;
          args.gradient = gradient.data();
          Adam(args, Threads(threads));
          AdamArgs all = whole.Args(n, d);
          all.gradient = dense.data();
          Adam(all, Threads(threads));
          CHECK(state == whole, "%s %s n=%ld d=%ld: some rows and all rows differ", set, dtype, n, d);
          if (threads == 1) first = state;
          CHECK(state == first, "%s %s n=%ld d=%ld: the result depends on the threads", set, dtype, n, d);
          for (int64_t i = 0; i < n * d; ++i) {
            const double g = dense[i], m = start.m[i] + (g - start.m[i]) * (1 - args.beta_1);
            const double v = start.v[i] + (g * g - start.v[i]) * (1 - args.beta_2);
            const double expected = start.variable[i] - m * args.alpha / (std::sqrt(v) + args.epsilon);
            CHECK(std::abs(state.variable[i] - expected) <= tolerance * (1 + std::abs(expected)) &&
                      std::abs(state.m[i] - m) <= tolerance * (1 + std::abs(m)) &&
                      std::abs(state.v[i] - v) <= tolerance * (1 + v),
                  "%s %s n=%ld d=%ld entry %ld: %g, not %g", set, dtype, n, d, i, double(state.variable[i]), expected);
          }
        }
      });
    }
  }
}

template <class T>
void SumRowsAdamIsSumRowsThenAdam(const char* dtype) {
  if constexpr (sizeof(BitsOf<T>) != 2) {
    std::mt19937_64 rng(9);
    for (const int64_t d : {1, 7, 100, 300}) {
      const Code code = RandomCode(20, 3, 50, rng);
      const auto values = Integers<T>(60, 2, rng), x = Integers<T>(20 * d, 3, rng);
      const AdamState<T> start(50 * d, rng);
      OnEachInstructionSet([&](const char* set) {
        const TransposedCode transposed = Transpose({T::kDType, 20, 3, 50, values.data(), code.indices.data()});
        const auto used = static_cast<int64_t>(transposed.latents.size());
        std::vector<BitsOf<T>> sums(used * d);
        const SumRowsArgs rows{T::kDType, T::kDType, d, &transposed, x.data(), sums.data()};
        AdamState<T> apart = start, together = start;
        SumRows(rows, Threads(3));
        AdamArgs args = apart.Args(50, d);
        args.latents = transposed.latents.data();
        args.used = used;
        args.gradient = sums.data();
        Adam(args, Threads(3));
        SumRowsAdam(together.Args(50, d), rows, Threads(2));
        CHECK(apart == together, "%s %s d=%ld", set, dtype, d);
      });
    }
  }
}

template <class T>
std::vector<NamedTest> Tests() {
  return {{"TopKIsTheSelectionOfSeparate", TopKIsTheSelectionOfSeparate<T>},
          {"TopKOfALongRow", TopKOfALongRow<T>},
          {"EncodeAnySize", EncodeAnySize<T>},
          {"EncodeLongRows", EncodeLongRows<T>},
          {"EncodeAllEqual", EncodeAllEqual<T>},
          {"EncodeAscending", EncodeAscending<T>},
          {"EncodeNaNsAndInfinities", EncodeNaNsAndInfinities<T>},
          {"CodesOfAnySize", CodesOfAnySize<T>},
          {"ZerosNaNsAndInfinities", ZerosNaNsAndInfinities<T>},
          {"AdamOfSomeRows", AdamOfSomeRows<T>},
          {"SumRowsAdamIsSumRowsThenAdam", SumRowsAdamIsSumRowsThenAdam<T>}};
}

}  // namespace
}  // namespace separationfactor

int main(int argc, char** argv) {
  return separationfactor::RunNamedTests(argc, argv,
                                         [](auto traits) { return separationfactor::Tests<decltype(traits)>(); });
}
