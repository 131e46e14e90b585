// Tests of the stages that the kernels consist of: counts, bisection, the sample, the stream, sorting networks, and
// writing. CMakeLists.txt builds one program per instruction set, with its flags, from this file alone: the headers
// define everything in an unnamed namespace.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "core/cpu/bisection-inl.h"
#include "core/cpu/counts-inl.h"
#include "core/cpu/cut-inl.h"
#include "core/cpu/flush_denormals.h"
#include "core/cpu/path.h"
#include "core/cpu/products-inl.h"
#include "core/cpu/sample-inl.h"
#include "core/cpu/scores-inl.h"
#include "core/cpu/simd-inl.h"
#include "core/cpu/sorting_networks-inl.h"
#include "core/cpu/stream-inl.h"
#include "core/cpu/write_cut-inl.h"
#include "core/separate.h"
#include "core/types.h"
#include "core_oracle.h"
#include "named_tests.h"

namespace separationfactor {
namespace {

// A row, and its scores as lanes.
template <class T, Score kScore>
struct Row {
  using L = Scored<T, kScore>;
  using Lane = typename L::Lane;

  Row(const Distribution<T>& distribution, int64_t n, std::mt19937_64& rng) : name(distribution.name), n(n) {
    for (int64_t i = 0; i < n; ++i) bits.push_back(distribution.entry(rng, i));
    std::vector<typename T::Bits> padded = bits;
    padded.resize(n + L::S::kLanes);
    scores.resize(n + L::S::kLanes);
    for (int64_t i = 0; i < n; i += L::S::kLanes) L::S::Store(scores.data() + i, L::Load(padded.data() + i));
    scores.resize(n);
  }

  // Whether each entry is selected.
  std::vector<bool> Selected(int64_t k) const {
    const std::vector<int64_t> order = OrderOracle<T>(bits.data(), n, kScore);
    std::vector<bool> selected(n);
    for (int64_t j = 0; j < k; ++j) selected[order[j]] = true;
    return selected;
  }
  // Whether a cut selects each entry.
  std::vector<bool> SelectedBy(Cut<Lane> cut) const {
    std::vector<bool> selected(n);
    for (int64_t i = 0; i < n; ++i) {
      const bool is_taken = cut.IsEqual(scores[i]) && cut.quota > 0;
      cut.quota -= is_taken;
      selected[i] = is_taken || cut.IsAbove(scores[i]);
    }
    return selected;
  }

  const char* name;
  int64_t n;
  std::vector<typename T::Bits> bits;
  std::vector<Lane> scores;
};

// Calls check(row, rng) for rows of every distribution and of these sizes.
template <class T, Score kScore, class Check>
void ForEachRow(const std::vector<int64_t>& sizes, Check check) {
  const ScopedFlushDenormals flush;
  std::mt19937_64 rng(1);
  for (const int64_t n : sizes) {
    for (const auto& distribution : LongDistributions<T>(n)) check(Row<T, kScore>(distribution, n, rng), rng);
  }
}

std::vector<int64_t> SomeKs(int64_t n, std::mt19937_64& rng) {
  std::vector<int64_t> ks = {1, 2, n / 16, n / 2, n - 1, 1 + static_cast<int64_t>(rng() % n)};
  ks.erase(std::remove_if(ks.begin(), ks.end(), [n](int64_t k) { return k < 1 || k >= n; }), ks.end());
  return ks;
}

// Functions, because the program checks the CPU before it runs code with the flags of the instruction set.
std::vector<int64_t> AnySizes() { return {1, 2, 3, 7, 15, 17, 33, 64, 100, 257, 1000}; }
std::vector<int64_t> LongSizes() { return {kSample, kSample + 1, 1000, 4099, 10007}; }

template <class Lane>
bool IsNan(Lane lane) {
  return std::is_floating_point<Lane>::value && std::isnan(static_cast<double>(lane));
}

bool BitOf(const std::vector<uint8_t>& bits, int64_t i) { return (bits[i / 8] >> i % 8 & 1) != 0; }

template <class T>
void TestCounts(const char* dtype) {
  using L = Scored<T, Score::kValue>;
  using Lane = typename L::Lane;
  ForEachRow<T, Score::kValue>(AnySizes(), [&](const auto& row, auto& rng) {
    const auto* v = row.bits.data();
    for (int i = 0; i < 5; ++i) {
      const Lane bound = row.scores[rng() % row.n], other = row.scores[rng() % row.n];
      if (IsNan(bound) || IsNan(other)) continue;
      const Lane low = std::min(bound, other), high = std::max(bound, other);
      int64_t above = 0, equal = 0, nans = 0;
      Lane smallest = high, greatest = low;
      for (const Lane score : row.scores) {
        above += !(score <= bound);
        equal += score == bound;
        nans += IsNan(score);
        if (low <= score && score <= high) {
          smallest = std::min(smallest, score);
          greatest = std::max(greatest, score);
        }
      }
      CHECK(CountAbove<L>(v, row.n, bound) == above, "%s %s n=%ld", dtype, row.name, row.n);
      CHECK(CountEqual<L>(v, row.n, bound) == equal, "%s %s n=%ld", dtype, row.name, row.n);
      CHECK(CountNan<L>(v, row.n) == nans, "%s %s n=%ld", dtype, row.name, row.n);
      const auto range = RangeWithin<L>(v, row.n, low, high);
      CHECK(range.low == smallest && range.high == greatest, "%s %s n=%ld", dtype, row.name, row.n);
    }
  });
}

template <class T, Score kScore>
void TestBisectionOf(const char* dtype) {
  using L = Scored<T, kScore>;
  ForEachRow<T, kScore>(AnySizes(), [&](const auto& row, auto& rng) {
    for (const int64_t k : SomeKs(row.n, rng)) {
      const auto cut = SelectByBisection<L>(row.bits.data(), row.n, k);
      CHECK(row.SelectedBy(cut) == row.Selected(k), "%s %s n=%ld k=%ld", dtype, row.name, row.n, k);
      const auto from_lanes = SelectByBisection<typename L::AsLanes>(row.scores.data(), row.n, k);
      CHECK(row.SelectedBy(from_lanes) == row.Selected(k), "%s %s n=%ld k=%ld", dtype, row.name, row.n, k);
    }
  });
}
template <class T>
void TestBisection(const char* dtype) {
  TestBisectionOf<T, Score::kValue>(dtype);
  TestBisectionOf<T, Score::kMagnitude>(dtype);
}

template <class T>
void TestSample(const char* dtype) {
  using L = Scored<T, Score::kValue>;
  using Lane = typename L::Lane;
  ForEachRow<T, Score::kValue>(LongSizes(), [&](const auto& row, auto& rng) {
    const auto* v = row.bits.data();
    std::vector<Lane> between(row.n + L::S::kLanes);
    for (const int64_t k : SomeKs(row.n, rng)) {
      const auto pivots = SamplePivots<L>(v, row.n, k);
      CHECK(pivots.low <= pivots.high, "%s %s n=%ld k=%ld", dtype, row.name, row.n, k);
      // Any pivots: the scores between them are kept in their order.
      const Between kept = KeepBetween<L>(v, row.n, pivots, between.data());
      std::vector<Lane> expected;
      int64_t above = 0;
      for (const Lane score : row.scores) {
        const bool is_above = !(score <= pivots.high);
        above += is_above;
        if (!is_above && !(score <= pivots.low)) expected.push_back(score);
      }
      CHECK(kept.above == above && kept.count == static_cast<int64_t>(expected.size()) &&
                std::equal(expected.begin(), expected.end(), between.begin()),
            "%s %s n=%ld k=%ld: %ld above, not %ld; %ld between, not %zu", dtype, row.name, row.n, k, kept.above, above,
            kept.count, expected.size());
      const auto cut = SelectBySample<L>(v, row.n, k, between.data());
      CHECK(row.SelectedBy(cut) == row.Selected(k), "%s %s n=%ld k=%ld", dtype, row.name, row.n, k);
    }
  });
}

// The pivots from a sample of distinct scores in random order enclose the threshold and few other scores.
template <class T>
void TestSampleEncloses(const char* dtype) {
  using L = Scored<T, Score::kValue>;
  const ScopedFlushDenormals flush;
  std::mt19937_64 rng(2);
  const Row<T, Score::kValue> row(Distributions<T>()[0], 20000, rng);
  std::vector<typename L::Lane> between(row.n + L::S::kLanes);
  for (const int64_t k : {500, 2000, 10000, 19000}) {
    const Between kept =
        KeepBetween<L>(row.bits.data(), row.n, SamplePivots<L>(row.bits.data(), row.n, k), between.data());
    CHECK(kept.above < k && k <= kept.above + kept.count && kept.count < row.n / 4, "%s k=%ld: %ld above, %ld between",
          dtype, k, kept.above, kept.count);
  }
}

template <class T>
void TestStream(const char* dtype) {
  constexpr Score kScore = Score::kValue;
  using L = Scored<T, kScore>;
  using Lane = typename L::Lane;
  using Bits = typename T::Bits;
  const Products<T> products(1.5, -0.25);
  ForEachRow<T, kScore>(LongSizes(), [&](const auto& row, auto& rng) {
    const Bits* x = row.bits.data();
    std::vector<double> scratch((row.n * sizeof(Bits) + kScratchSlack) / sizeof(double) + 1);
    for (const int64_t k : {int64_t{1}, int64_t{2}, row.n / 64, row.n / 8, 1 + static_cast<int64_t>(rng() % 16)}) {
      // The certain bound: k scores reach it.
      const Lane bound = LowerBound<L>(x, row.n, k, true, reinterpret_cast<Lane*>(scratch.data()));
      int64_t reached = 0;
      for (const Lane score : row.scores) reached += !(score < bound);
      CHECK(reached >= k, "%s %s n=%ld k=%ld: %ld scores reach the bound", dtype, row.name, row.n, k, reached);

      // The candidates are the scores above the bound, and y is written as if nothing were selected.
      std::vector<Bits> y(row.n);
      std::vector<uint8_t> selected(BitmaskBytes(row.n));
      Candidates<T, kScore> candidates(scratch.data(), Candidates<T, kScore>::MaxCount(row.n));
      const bool fits = FindCandidates(x, y.data(), selected.data(), row.n, bound, products, candidates);
      int64_t found = 0;
      for (int64_t i = 0; i < row.n; ++i) {
        const bool is_above = !(row.scores[i] <= bound);
        CHECK(BitOf(selected, i) == is_above, "%s %s n=%ld k=%ld i=%ld", dtype, row.name, row.n, k, i);
        CHECK(IsProduct<T>(y[i], x[i], -0.25), "%s %s n=%ld k=%ld i=%ld", dtype, row.name, row.n, k, i);
        if (is_above && fits) {
          CHECK(candidates.indices[found] == i && candidates.bits[found] == x[i], "%s %s n=%ld k=%ld i=%ld", dtype,
                row.name, row.n, k, i);
        }
        found += is_above;
      }
      CHECK(fits == (found <= candidates.max_count), "%s %s n=%ld k=%ld: %ld found", dtype, row.name, row.n, k, found);

      // The whole stage. If it gives up, the row is unchanged.
      for (const bool is_certain : {false, true}) {
        std::vector<Bits> in_place = row.bits;
        if (!SeparateByStream<T, kScore>(in_place.data(), in_place.data(), selected.data(), row.n, k, is_certain,
                                         products, scratch.data())) {
          CHECK(in_place == row.bits, "%s %s n=%ld k=%ld", dtype, row.name, row.n, k);
          continue;
        }
        const std::vector<bool> expected = row.Selected(k);
        for (int64_t i = 0; i < row.n; ++i) {
          CHECK(BitOf(selected, i) == expected[i] && IsProduct<T>(in_place[i], x[i], expected[i] ? 1.5 : -0.25),
                "%s %s n=%ld k=%ld i=%ld", dtype, row.name, row.n, k, i);
        }
      }
    }
  });
}

// A long row of distinct scores in random order is separated in the first attempt.
template <class T>
void TestStreamNeedsNoRetry(const char* dtype) {
  const ScopedFlushDenormals flush;
  std::mt19937_64 rng(3);
  const Products<T> products(1, 0);
  for (const int64_t k : {1, 10, 64}) {
    const Row<T, Score::kValue> row(Distributions<T>()[0], 20000, rng);
    std::vector<typename T::Bits> y(row.n);
    std::vector<uint8_t> selected(BitmaskBytes(row.n));
    std::vector<double> scratch((row.n * sizeof(y[0]) + kScratchSlack) / sizeof(double) + 1);
    CHECK((SeparateByStream<T, Score::kValue>(row.bits.data(), y.data(), selected.data(), row.n, k, false, products,
                                              scratch.data())),
          "%s k=%ld", dtype, k);
  }
}

// A network that sorts all sequences of zeros and ones sorts everything (Knuth, The Art of Computer Programming 5.3.4).
template <int kSize>
void CheckNetwork() {
  constexpr auto kSort = SortingNetwork<kSize>();
  constexpr auto kMerge = BitonicMerge<kSize>();
  const auto apply = [](const auto& network, int entries) {
    for (int i = 0; i < network.count; ++i) {
      const int first = entries >> network.first[i] & 1, second = entries >> network.second[i] & 1;
      if (second > first) entries ^= 1 << network.first[i] | 1 << network.second[i];
    }
    return entries;
  };
  // The greatest come first: ones in the lowest bits.
  for (int entries = 0; entries < 1 << kSize; ++entries) {
    const int sorted = (1 << __builtin_popcount(entries)) - 1;
    CHECK(apply(kSort, entries) == sorted, "sorting %d: %x", kSize, entries);
    // A bitonic sequence of zeros and ones changes at most twice, as a circle.
    const int rotated = (entries >> 1 | entries << (kSize - 1)) & ((1 << kSize) - 1);
    const bool is_bitonic = __builtin_popcount(entries ^ rotated) <= 2;
    if (is_bitonic) CHECK(apply(kMerge, entries) == sorted, "merging %d: %x", kSize, entries);
  }
}

// Ranks from both ends, in columns of numbers and of keys.
template <class T, class Column, class Entry>
void CheckRanks(const char* dtype, std::mt19937_64& rng) {
  using Order = Ranking<typename T::Number>;
  constexpr int kRows = Order::Wide::kLanes, kMost = 40;
  for (int n = 2; n <= kMost; ++n) {
    Entry entries[kMost + kMostSorted][kRows];
    for (auto& column : entries) {
      for (auto& entry : column) entry = static_cast<Entry>(static_cast<int>(rng() % 30) - 15);
    }
    for (int k = 1; k <= n; ++k) {
      if (std::min(k, n - k + 1) > kMostSorted) continue;
      const typename Order::template Rank<Column> rank(n, k);
      Column columns[kMost + kMostSorted];
      for (int j = 0; j < n; ++j) __builtin_memcpy(&columns[j], entries[j], sizeof(Column));
      for (int j = n; j < n + kMostSorted; ++j) columns[j] = rank.padding;
      const Column found = Order::template Ranked<kMostSorted>(columns, n, rank);
      for (int row = 0; row < kRows; ++row) {
        std::vector<Entry> sorted;
        for (int j = 0; j < n; ++j) sorted.push_back(entries[j][row]);
        std::sort(sorted.begin(), sorted.end(), [](Entry a, Entry b) { return a > b; });
        CHECK(found[row] == sorted[k - 1], "%s n=%d k=%d row=%d", dtype, n, k, row);
      }
    }
  }
}

template <class T>
void TestSortingNetworks(const char* dtype) {
  CheckNetwork<2>();
  CheckNetwork<4>();
  CheckNetwork<8>();
  CheckNetwork<16>();
  using Wide = Simd<typename T::Number>;
  std::mt19937_64 rng(4);
  CheckRanks<T, typename Wide::Vec, typename T::Number>(dtype, rng);
  CheckRanks<T, typename Wide::IntVec, typename Wide::Integer>(dtype, rng);
}

// Writes any cut, also one that no search would return.
template <class T>
void TestWriteCut(const char* dtype) {
  constexpr Score kScore = Score::kMagnitude;
  using Lane = typename Scored<T, kScore>::Lane;
  using Bits = typename T::Bits;
  ForEachRow<T, kScore>(AnySizes(), [&](const auto& row, auto& rng) {
    for (int i = 0; i < 6; ++i) {
      Cut<Lane> cut{row.scores[rng() % row.n], static_cast<int64_t>(rng() % (row.n + 1)) * (i % 2)};
      if (IsNan(cut.threshold)) cut = {Lane{}, cut.quota, true};
      const double suppression = i < 3 ? 0 : -0.25;
      const Products<T> products(1.5, suppression);
      const std::vector<bool> expected = row.SelectedBy(cut);
      for (const bool is_in_place : {false, true}) {
        Buffer<T> y(row.n, rng() % 16);
        std::copy(row.bits.begin(), row.bits.end(), y.data());
        std::vector<uint8_t> selected(BitmaskBytes(row.n) + 1, 0xAA);
        WriteCut<T, kScore>(is_in_place ? y.data() : row.bits.data(), y.data(), selected.data(), row.n, cut, products);
        CHECK(y.IsCleanAround() && selected.back() == 0xAA, "%s %s n=%ld", dtype, row.name, row.n);
        for (int64_t j = 0; j < BitmaskBytes(row.n) * 8; ++j) {
          CHECK(BitOf(selected, j) == (j < row.n && expected[j]), "%s %s n=%ld j=%ld", dtype, row.name, row.n, j);
        }
        for (int64_t j = 0; j < row.n; ++j) {
          CHECK(IsProduct<T>(y[j], static_cast<Bits>(row.bits[j]), expected[j] ? 1.5 : suppression),
                "%s %s n=%ld j=%ld", dtype, row.name, row.n, j);
        }
      }
    }
  });
}

// The order keys of scores: the same order, without gaps, and back.
template <class T>
void TestOrderKeys(const char* dtype) {
  ForEachRow<T, Score::kValue>({257}, [&](const auto& row, auto&) {
    using Lane = typename Row<T, Score::kValue>::Lane;
    for (int64_t i = 0; i + 1 < row.n; ++i) {
      const Lane a = row.scores[i], b = row.scores[i + 1];
      if (IsNan(a) || IsNan(b)) continue;
      CHECK(LaneOfKey<Lane>(OrderKey(a)) == a, "%s %s i=%ld", dtype, row.name, i);
      CHECK(!(a > b) || OrderKey(a) > OrderKey(b), "%s %s i=%ld", dtype, row.name, i);
    }
  });
}

template <class T>
std::vector<NamedTest> TestsOf() {
  return {{"OrderKeys", TestOrderKeys<T>},
          {"Counts", TestCounts<T>},
          {"Bisection", TestBisection<T>},
          {"Sample", TestSample<T>},
          {"SampleEncloses", TestSampleEncloses<T>},
          {"Stream", TestStream<T>},
          {"StreamNeedsNoRetry", TestStreamNeedsNoRetry<T>},
          {"SortingNetworks", TestSortingNetworks<T>},
          {"WriteCut", TestWriteCut<T>}};
}

bool IsSupported() {
#if defined(SEPARATIONFACTOR_EMULATED)
  return true;
#elif SEPARATIONFACTOR_AVX512
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif SEPARATIONFACTOR_AVX2
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#else
  return true;
#endif
}

}  // namespace
}  // namespace separationfactor

int main(int argc, char** argv) {
  using namespace separationfactor;
  if (!IsSupported()) {
    std::fprintf(stderr, "this CPU has not the instruction set of these tests\n");
    return 77;
  }
  return RunNamedTests(argc, argv, [](auto traits) { return TestsOf<decltype(traits)>(); });
}
