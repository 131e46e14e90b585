// Compares the CUDA kernels with the oracle and, bit for bit, with the CPU's results. cuda_test runs on the emulator
// (tests/simt), cuda_test_on_card on a GPU. Ends at the first failure and prints its state. Exit status 77: no GPU.
//
//     cuda_test [DTYPE [FRACTION]]    only one dtype; about this fraction of the cases

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/core_oracle.h"
#include "core/cuda/plan.h"
#include "core/cuda/separate_cuda.h"
#include "core/separate.h"
#include "core/types.h"
#include "simt/simt.h"

namespace separationfactor {
namespace {

double fraction = 1;
int64_t cases_run = 0;

// The attributes of this GPU, of an H100 (the emulator's), and of GPUs so small that few entries take the paths for
// long rows.
cuda::Device card;
constexpr cuda::Device kH100 = {132, 227 * 1024, INT32_MAX};
constexpr cuda::Device kSmall = {2, 12 * 1024, 3};
constexpr cuda::Device kSmallest = {1, 10 * 1024, 1};

const ParallelFor kThisThread = [](int64_t total, int64_t, const std::function<void(int64_t, int64_t)>& work) {
  if (total > 0) work(0, total);
};

// The memory of a scalar.
enum class Place { kHost, kDevice, kDeviceInt64 };

template <class T>
struct Case {
  std::string what;
  cuda::Device device;
  int64_t rows, n, k;
  Score score;
  double separation, suppression;
  bool in_place;
  Place place;
  int x_offset, y_offset, selected_offset;  // entries, entries, bytes
  uint64_t schedule;

  std::string Describe() const {
    char text[512];
    std::snprintf(
        text, sizeof(text),
        "%s rows=%ld n=%ld k=%ld magnitude=%d factors=%g,%g in_place=%d place=%d offsets=%d,%d,%d schedule=%lu "
        "multiprocessors=%d",
        what.c_str(), rows, n, k, score == Score::kMagnitude, separation, suppression, in_place,
        static_cast<int>(place), x_offset, y_offset, selected_offset, schedule, device.multiprocessors);
    return text;
  }
};

// Rows in device memory.
template <class T>
class DeviceRows {
 public:
  using Bits = typename T::Bits;
  DeviceRows(const char* name, int64_t size, int offset)
      : memory_(name, size * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits),
                offset * static_cast<int>(sizeof(Bits))) {}
  DeviceRows(const char* name, const std::vector<Bits>& rows, int offset)
      : DeviceRows(name, static_cast<int64_t>(rows.size()), offset) {
    std::copy(rows.begin(), rows.end(), data());
    memory_.Initialize();
  }
  Bits* data() { return reinterpret_cast<Bits*>(memory_.data()); }
  simt::Memory& memory() { return memory_; }

 private:
  simt::Memory memory_;
};

template <class T>
struct DeviceFactor {
  DeviceRows<T> memory;
  cuda::Factor factor;
  DeviceFactor(double value, Place place)
      : memory("factor", std::vector<typename T::Bits>{T::FromNumber(static_cast<typename T::Number>(value))}, 0) {
    if (place == Place::kHost) {
      factor.value = T::ToNumber(memory.data()[0]);
    } else {
      factor.on_device = memory.data();
    }
  }
};

struct DeviceK {
  simt::Memory memory = simt::Memory("k", 8, 4);
  cuda::K k;
  DeviceK(int64_t value, Place place) {
    if (place == Place::kHost) {
      k.value = value;
      return;
    }
    k.on_device = memory.data();
    k.is_int64 = place == Place::kDeviceInt64;
    const auto narrow = static_cast<int32_t>(value);
    std::memcpy(memory.data(), k.is_int64 ? static_cast<const void*>(&value) : &narrow, k.is_int64 ? 8 : 4);
    memory.Initialize();
  }
};

// Scratch, uninitialized.
struct Scratch {
  simt::Memory memory;
  explicit Scratch(int64_t bytes) : memory("scratch", bytes, 2) {}
};

#define CHECK_LAUNCHED(call, ...)                                                                         \
  do {                                                                                                    \
    const std::string failure = (call), found = simt::TakeError();                                        \
    CHECK(failure.empty() && found.empty(), "%s: %s; %s", (__VA_ARGS__), failure.c_str(), found.c_str()); \
  } while (false)

// Runs one case. Compares the bitmask with the oracle's, and y and the scaled rows with the CPU's bits.
template <class T>
void Check(const Case<T>& c, const std::vector<typename T::Bits>& rows,
           const std::vector<std::vector<int64_t>>& orders) {
  using Bits = typename T::Bits;
  const std::string state = c.Describe();
  const char* const what = state.c_str();
  const int64_t bytes = BitmaskBytes(c.n), size = c.rows * c.n;
  std::vector<uint8_t> expected(c.rows * bytes);
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t j = 0; j < c.k; ++j) {
      const int64_t i = orders[row][j];
      expected[row * bytes + i / 8] |= static_cast<uint8_t>(1 << i % 8);
    }
  }

  simt::SetSchedule(c.schedule);
  simt::SetSharedLimit(c.device.shared_bytes);
  DeviceRows<T> x("x", rows, c.x_offset), y("y", size, c.y_offset);
  simt::Memory selected("selected", c.rows * bytes, 1, c.selected_offset);
  DeviceK k(c.k, c.place);
  DeviceFactor<T> separation(c.separation, c.place), suppression(c.suppression, c.place);
  Bits* const out = c.in_place ? x.data() : y.data();
  auto* const bitmask = reinterpret_cast<uint8_t*>(selected.data());
  Scratch scratch(cuda::SeparateScratchBytes(T::kDType, c.rows, c.n, c.device));
  CHECK_LAUNCHED(cuda::Separate({T::kDType, c.score, c.rows, c.n, k.k, separation.factor, suppression.factor, x.data(),
                                 out, bitmask, scratch.memory.data()},
                                c.device, nullptr),
                 what);
  CHECK(selected.IsInitialized() && (c.in_place || y.memory().IsInitialized()), "%s", what);
  for (int64_t byte = 0; byte < c.rows * bytes; ++byte) {
    CHECK(bitmask[byte] == expected[byte], "%s: row %ld, entries %ld-: %02x, not %02x", what, byte / bytes,
          byte % bytes * 8, bitmask[byte], expected[byte]);
  }

  // The factors rounded to the dtype.
  const auto rounded = [](double factor) {
    return ToDouble<T>(T::FromNumber(static_cast<typename T::Number>(factor)));
  };
  std::vector<Bits> expected_y(size);
  std::vector<uint8_t> cpu_selected(c.rows * bytes);
  Separate({T::kDType, c.score, c.rows, c.n, c.k, rounded(c.separation), rounded(c.suppression), rows.data(),
            expected_y.data(), cpu_selected.data()},
           kThisThread);
  const auto check_entries = [&](const char* name, const Bits* actual) {
    for (int64_t i = 0; i < size; ++i) {
      CHECK(actual[i] == expected_y[i], "%s: %s of row %ld, entry %ld: x=%llx gave %llx, and on the CPU %llx", what,
            name, i / c.n, i % c.n, static_cast<unsigned long long>(rows[i]),
            static_cast<unsigned long long>(actual[i]), static_cast<unsigned long long>(expected_y[i]));
    }
  };
  check_entries("y", out);
  if (!c.in_place) CHECK(std::equal(rows.begin(), rows.end(), x.data()), "%s: x has changed", what);

  DeviceRows<T> v("v", rows, c.x_offset), scaled("out", size, c.y_offset);
  Bits* const scaled_out = c.in_place ? v.data() : scaled.data();
  CHECK_LAUNCHED(cuda::ScaleSelected(
                     {T::kDType, c.rows, c.n, separation.factor, suppression.factor, v.data(), bitmask, scaled_out},
                     c.device, nullptr),
                 what);
  check_entries("scaled rows", scaled_out);
  ++cases_run;
}

template <class T>
std::vector<typename T::Bits> MakeRows(const Distribution<T>& distribution, int64_t rows, int64_t n,
                                       std::mt19937_64& rng) {
  std::vector<typename T::Bits> x(rows * n);
  for (int64_t i = 0; i < rows * n; ++i) x[i] = distribution.entry(rng, i % n);
  return x;
}

// Runs cases with random k, score, factors, places and alignments.
template <class T>
void CheckDistribution(const char* dtype, const Distribution<T>& distribution, const cuda::Device& device, int64_t rows,
                       int64_t n, std::mt19937_64& rng) {
  if (static_cast<double>(rng() >> 11) * 0x1p-53 >= fraction) return;
  const auto x = MakeRows<T>(distribution, rows, n, rng);
  const Score score = rng() % 2 ? Score::kValue : Score::kMagnitude;
  std::vector<std::vector<int64_t>> orders;
  for (int64_t row = 0; row < rows; ++row) orders.push_back(OrderOracle<T>(x.data() + row * n, n, score));
  const int64_t ks[] = {0, 1, n / 3, n / 2, n - 1, n, static_cast<int64_t>(rng() % (n + 1))};
  const int kinds = n > 1024 ? 2 : 3;
  for (int i = 0; i < kinds; ++i) {
    const bool is_aligned = rng() % 2;
    const auto offset = [&](int range) { return is_aligned ? 0 : static_cast<int>(rng() % range); };
    Check<T>(
        {std::string(dtype) + " " + distribution.name, device, rows, n,
         i == 0 ? static_cast<int64_t>(rng() % (n + 1)) : ks[rng() % 7], score, rng() % 8 ? 1.5 : 0.0,
         rng() % 2 ? -0.25 : 0.0, rng() % 2 == 0, static_cast<Place>(rng() % 3), offset(16 / sizeof(typename T::Bits)),
         offset(16 / sizeof(typename T::Bits)), static_cast<int>(rng() % 4), rng() % 4},
        x, orders);
  }
}

// Runs every length with a few distributions and every distribution with a few lengths, on a device for which they take
// this path.
template <class T>
void CheckPath(const char* dtype, cuda::Path path, const cuda::Device& device, const std::vector<int64_t>& lengths,
               const std::vector<int64_t>& row_counts, int repeats, std::mt19937_64& rng) {
  const auto draw = [&](const auto& from) { return from[rng() % from.size()]; };
  const auto check = [&](const Distribution<T>& distribution, int64_t n) {
    const int64_t rows = draw(row_counts);
    CHECK(cuda::ChoosePath(T::kDType, rows, n, device) == path, "%s rows=%ld n=%ld", dtype, rows, n);
    CheckDistribution<T>(dtype, distribution, device, rows, n, rng);
  };
  for (const int64_t n : lengths) {
    for (int i = 0; i < repeats; ++i) check(draw(LongDistributions<T>(n)), n);
  }
  const size_t count = LongDistributions<T>(1).size();
  for (size_t i = 0; i < count; ++i) {
    for (int j = 0; j < repeats; ++j) {
      const int64_t n = draw(lengths);
      check(LongDistributions<T>(n)[i], n);
    }
  }
}

template <class T>
void TestPaths(const char* dtype) {
  std::mt19937_64 rng(1);
  using cuda::Path;
  std::vector<int64_t> short_lengths;
  for (int64_t n = 1; n <= 32; ++n) short_lengths.push_back(n);
  CheckPath<T>(dtype, Path::kThread, card, short_lengths, {1, 5, 127, 128, 129, 300}, 3, rng);
  CheckPath<T>(dtype, Path::kThread, kSmallest, short_lengths, {127, 128, 129, 300}, 1, rng);
  std::vector<int64_t> warp_lengths = {33,  34,  47,  48,  49,  63,  64,  65,  96,   97,   100,
                                       127, 128, 129, 130, 192, 193, 200, 255, 256,  257,  384,
                                       385, 500, 511, 512, 513, 768, 769, 999, 1000, 1023, 1024};
  std::vector<int64_t> block_lengths = {1025, 1026, 1031, 1500, 2047, 2048, 2049, 3000, 4095, 4097, 5000};
  while (warp_lengths.back() > cuda::LongestWarpRow(T::kDType)) {
    block_lengths.push_back(warp_lengths.back());
    warp_lengths.pop_back();
  }
  CheckPath<T>(dtype, Path::kWarp, card, warp_lengths, {1, 2, 3, 9, 17, 33}, 5, rng);
  CheckPath<T>(dtype, Path::kWarp, kSmallest, warp_lengths, {9, 33, 70}, 1, rng);
  CheckPath<T>(dtype, Path::kBlock, card, block_lengths, {1, 2, 3}, 4, rng);
  CheckPath<T>(dtype, Path::kBlock, {2, card.shared_bytes, 2}, block_lengths, {3, 5}, 1, rng);
  // For every dtype, rows of more than 2,000 entries exceed 12 KB with the counts.
  const std::vector<int64_t> split_lengths = {2001, 2047, 2048, 2049, 3000, 4095, 4096, 4097, 5000, 8191, 8193, 10007};
  CheckPath<T>(dtype, Path::kSplit, kSmall, split_lengths, {1, 2, 3}, 5, rng);
  CheckPath<T>(dtype, Path::kSplit, kSmallest, split_lengths, {5}, 1, rng);
  // Long rows with the attributes of a real GPU, with one block and with several per row, and more than one batch on
  // the smallest.
  for (const auto& distribution : LongDistributions<T>(40961)) {
    if (rng() % 16 == 0) CheckDistribution<T>(dtype, distribution, card, 2, 20001, rng);
    if (rng() % 16 == 0) CheckDistribution<T>(dtype, distribution, card, 2, 40961, rng);
    if (rng() % 6 == 0) CheckDistribution<T>(dtype, distribution, kSmallest, 70, 2001, rng);
  }
}

// Factors and entries with all special values.
template <class T>
void TestFactors(const char* dtype) {
  std::mt19937_64 rng(2);
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (const auto& distribution : Distributions<T>()) {
    for (const double separation : {1.0, -2.5, 0.0, -0.0, nan, -nan, inf, 1e-310, 1e-40, 1e-30}) {
      for (const double suppression : {0.0, -0.0, 0.25, nan, -inf, 1e-310, 1e-40, 1e30}) {
        if (static_cast<double>(rng() >> 11) * 0x1p-53 >= fraction) continue;
        const int64_t lengths[] = {10, 100, 1100, 2050};
        const size_t which = rng() % 4;
        const int64_t n = lengths[which], rows = n < 100 ? 17 : 1;
        const auto x = MakeRows<T>(distribution, rows, n, rng);
        std::vector<std::vector<int64_t>> orders;
        for (int64_t row = 0; row < rows; ++row) {
          orders.push_back(OrderOracle<T>(x.data() + row * n, n, Score::kValue));
        }
        const auto k = static_cast<int64_t>(1 + rng() % (n / 4));
        Check<T>({std::string(dtype) + " factors " + distribution.name, which == 3 ? kSmall : card, rows, n, k,
                  Score::kValue, separation, suppression, false, rng() % 2 ? Place::kHost : Place::kDevice, 0, 0, 0, 2},
                 x, orders);
      }
    }
  }
}

// A k out of range in device memory gives NaN everywhere and an empty bitmask, on every path.
template <class T>
void TestWrongK(const char* dtype) {
  std::mt19937_64 rng(3);
  const auto normal = Distributions<T>()[0];
  for (const auto& [n, device] :
       std::vector<std::pair<int64_t, cuda::Device>>{{10, card}, {100, card}, {1100, card}, {2050, kSmall}}) {
    for (const int64_t k : {int64_t{-1}, n + 1, int64_t{INT32_MIN}, int64_t{1} << 40, INT64_MIN, INT64_MAX}) {
      const bool is_narrow = k == static_cast<int32_t>(k);
      DeviceRows<T> x("x", MakeRows<T>(normal, 3, n, rng), 0), y("y", 3 * n, 0);
      simt::Memory selected("selected", 3 * BitmaskBytes(n), 1);
      Scratch scratch(cuda::SeparateScratchBytes(T::kDType, 3, n, device));
      auto* const bitmask = reinterpret_cast<uint8_t*>(selected.data());
      const auto separate = [&](const cuda::K& k_source) {
        return cuda::Separate({T::kDType,
                               Score::kValue,
                               3,
                               n,
                               k_source,
                               {nullptr, 1},
                               {nullptr, 0},
                               x.data(),
                               y.data(),
                               bitmask,
                               scratch.memory.data()},
                              device, nullptr);
      };
      DeviceK on_device(k, is_narrow ? Place::kDevice : Place::kDeviceInt64);
      CHECK_LAUNCHED(separate(on_device.k), dtype);
      for (int64_t i = 0; i < 3 * n; ++i) {
        CHECK(std::isnan(ToDouble<T>(y.data()[i])), "%s n=%ld k=%ld i=%ld: %g", dtype, n, k, i,
              ToDouble<T>(y.data()[i]));
      }
      for (int64_t i = 0; i < 3 * BitmaskBytes(n); ++i) CHECK(bitmask[i] == 0, "%s n=%ld k=%ld", dtype, n, k);
      const std::string refusal = separate({nullptr, false, k});
      CHECK(refusal == "k must be in [0, n]. Received: k = " + std::to_string(k) + ", n = " + std::to_string(n), "%s",
            refusal.c_str());
    }
  }
}

template <class T>
void TestSumSelected(const char* dtype) {
  using Bits = typename T::Bits;
  std::mt19937_64 rng(4);
  const auto distributions = Distributions<T>();
  for (const auto& [rows, n] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 5}, {1, 1}, {1, 63}, {1, 64}, {1, 65}, {7, 9}, {64, 64}, {65, 63}, {3, 5000}, {300, 271}, {1, 100000}}) {
    for (const auto& distribution : distributions) {
      if (static_cast<double>(rng() >> 11) * 0x1p-53 >= fraction) continue;
      const auto u = MakeRows<T>(distributions[rng() % 2 ? 0 : rng() % distributions.size()], rows, n, rng);
      const auto v = MakeRows<T>(distribution, rows, n, rng);
      std::vector<Bits> y(rows * n);
      std::vector<uint8_t> bits(rows * BitmaskBytes(n));
      Separate({T::kDType, Score::kValue, rows, n, static_cast<int64_t>(rng() % (n + 1)), 1, 0, v.data(), y.data(),
                bits.data()},
               kThisThread);
      const SelectedSums expected = SumSelected({T::kDType, rows, n, u.data(), v.data(), bits.data()}, kThisThread);

      simt::SetSchedule(rng() % 4);
      DeviceRows<T> device_u("u", u, static_cast<int>(rng() % 3)), device_v("v", v, static_cast<int>(rng() % 3));
      simt::Memory selected("selected", static_cast<int64_t>(bits.size()), 1, static_cast<int>(rng() % 4));
      std::copy(bits.begin(), bits.end(), selected.data());
      selected.Initialize();
      Scratch scratch(cuda::SumSelectedScratchBytes(rows, n));
      DeviceRows<T> sums("sums", 2, 0);
      CHECK_LAUNCHED(cuda::SumSelected({T::kDType, rows, n, device_u.data(), device_v.data(),
                                        reinterpret_cast<uint8_t*>(selected.data()), sums.data(), sums.data() + 1,
                                        scratch.memory.data()},
                                       rng() % 2 ? card : kSmallest, nullptr),
                     dtype);
      const double both[] = {expected.selected, expected.others};
      for (int i = 0; i < 2; ++i) {
        const Bits bits_of_sum = T::FromNumber(static_cast<typename T::Number>(both[i]));
        const Bits actual = sums.data()[i];
        CHECK(actual == bits_of_sum || (std::isnan(both[i]) && std::isnan(ToDouble<T>(actual))) ||
                  (std::abs(both[i]) < Tiny<T>() && static_cast<Bits>(actual << 1) == 0),
              "%s %s rows=%ld n=%ld sum %d: %.17g, not %.17g", dtype, distribution.name, rows, n, i,
              ToDouble<T>(actual), both[i]);
      }
      ++cases_run;
    }
  }
}

// The limits of the paths, and the invariants of a split.
void TestPlan() {
  using cuda::Path;
  const struct {
    DType dtype;
    int64_t rows, n;
    Path path;
  } kExpected[] = {
      {DType::kFloat32, 200, 10, Path::kThread},
      {DType::kFloat32, 65536, 32, Path::kThread},
      {DType::kFloat64, 4096, 33, Path::kWarp},
      {DType::kFloat64, 4096, 512, Path::kWarp},
      {DType::kFloat64, 4096, 513, Path::kBlock},
      {DType::kBFloat16, 1024, 1024, Path::kWarp},
      {DType::kFloat32, 1024, 1025, Path::kBlock},
      {DType::kFloat32, 256, 16384, Path::kBlock},
      {DType::kFloat32, 64, 131072, Path::kSplit},
      {DType::kFloat32, 8, 1000000, Path::kSplit},
      {DType::kFloat16, 256, 100000, Path::kBlock},
      {DType::kFloat64, 256, 30000, Path::kSplit},
      {DType::kFloat32, 16, 40960, Path::kSplit},
      {DType::kFloat32, 17, 40960, Path::kBlock},
      {DType::kFloat32, 1, 40959, Path::kBlock},
      {DType::kBFloat16, 1, INT32_MAX, Path::kSplit},
      {DType::kFloat32, int64_t{1} << 40, 8, Path::kThread},
  };
  for (const auto& [dtype, rows, n, path] : kExpected) {
    CHECK(cuda::ChoosePath(dtype, rows, n, kH100) == path, "rows=%ld n=%ld: %d", rows, n,
          static_cast<int>(cuda::ChoosePath(dtype, rows, n, kH100)));
  }
  for (const cuda::Device& device : {kH100, kSmall, kSmallest}) {
    for (const int64_t rows : {1, 3, 8, 1000, 1000000}) {
      for (const int64_t n : {1025, 16384, 1000000, INT32_MAX}) {
        const cuda::Split split = cuda::ChooseSplit(rows, n, device);
        const bool is_whole_bytes = split.segment % 8 == 0;
        CHECK(is_whole_bytes && split.segments * split.segment >= n && (split.segments - 1) * split.segment < n,
              "rows=%ld n=%ld", rows, n);
        CHECK(1 <= split.batch && split.batch <= rows, "rows=%ld n=%ld", rows, n);
        // The class that remains after one digit of the place fits the list of candidates.
        int64_t class_size = 1;
        while (class_size * cuda::kDigits < n) class_size *= 2;
        CHECK(class_size <= split.candidates, "rows=%ld n=%ld", rows, n);
      }
    }
  }
}

template <class T>
void TestDType(const char* dtype) {
  TestPaths<T>(dtype);
  TestFactors<T>(dtype);
  TestWrongK<T>(dtype);
  TestSumSelected<T>(dtype);
}

}  // namespace
}  // namespace separationfactor

int main(int argc, char** argv) {
  using namespace separationfactor;
  const std::string dtype = argc > 1 ? argv[1] : "all";
  if (argc > 2) fraction = std::atof(argv[2]);
  if (const cudaError_t error = cuda::GetDevice(0, &card); error != cudaSuccess) {
    std::fprintf(stderr, "no CUDA device: %s\n", cudaGetErrorString(error));
    return 77;
  }
  TestPlan();
  if (dtype == "float32" || dtype == "all") TestDType<Float32>("float32");
  if (dtype == "float64" || dtype == "all") TestDType<Float64>("float64");
  if (dtype == "bfloat16" || dtype == "all") TestDType<BFloat16>("bfloat16");
  if (dtype == "float16" || dtype == "all") TestDType<Float16>("float16");
  CHECK(cases_run > 0, "no dtype is called %s", dtype.c_str());
  std::printf("cuda_test %s: all %ld cases passed\n", dtype.c_str(), cases_run);
}
