// Checks the CUDA kernels on this GPU, without TensorFlow, and times them against its copy bandwidth.
//
//   nvcc -std=c++17 -O3 -arch=native -Icc -o cuda_benchmark cc/benchmark/cuda_benchmark.cu
//   cc/core/cuda/separate_cuda.cu
//   ./cuda_benchmark            all cases; --quick runs only those of the README's table
//   ./cuda_benchmark --once     runs every kernel of the README's cases once, for a profiler, without checks or timing
//
// Every case is checked bit for bit against a stable selection on the host before it is timed. Times are medians of
// bursts between two CUDA events. A fraction relates to the bandwidth of a 1 GiB device-to-device copy and to the bytes
// that any masking must move: x, y and the bitmask once each. A fraction of 1.00 is the limit. Small tensors, and the
// copy of the same tensor, run in the second-level cache and may exceed it. If CUB's headers exist, the rival is CUB: a
// segmented sort and a pass that compares with the k-th greatest entry.
//
// Exit status: 0 if all results are right, 1 if a result is wrong, 2 if CUDA fails, 77 if there is no CUDA device.

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "benchmark/cuda_timing.h"
#include "core/arguments.h"
#include "core/cuda/separate_cuda.h"
#include "core/separate.h"
#include "core/types.h"

#if __has_include(<cub/device/device_segmented_sort.cuh>)
#include <cub/device/device_segmented_sort.cuh>
#define HAS_CUB 1
#else
#define HAS_CUB 0
#endif

namespace separationfactor {
namespace {

constexpr int kWrong = 1;  // an exit status

std::vector<Case> Cases(bool quick) {
  const auto f32 = DType::kFloat32;
  std::vector<Case> cases = {
      {200, 10, 1, f32, 0, "normal"},      {65536, 10, 1, f32, 0, "normal"},      {4096, 64, 8, f32, 0, "normal"},
      {1024, 1000, 25, f32, 0, "normal"},  {256, 16384, 32, f32, 0, "normal"},    {64, 131072, 64, f32, 0, "normal"},
      {8, 1000000, 100, f32, 0, "normal"}, {1024, 1000, 500, f32, 0, "normal"},   {64, 32768, 16384, f32, 0, "normal"},
      {4096, 24576, 64, f32, 0, "normal"}, {1, 16777216, 1000, f32, 0, "normal"},
  };
  if (quick) return cases;
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    for (const int64_t n : {10, 1000, 16384, 131072})
      cases.push_back({8388608 / n, n, (n + 31) / 32, dtype, 0, "normal"});
  }
  cases.push_back({256, 16384, 32, f32, 0.25, "normal"});
  for (const char* distribution : {"ascending", "all equal", "half zeros", "four values", "specials"}) {
    for (const int64_t n : {64, 1000, 16384, 1000000})
      cases.push_back({4194304 / n, n, (n + 31) / 32, f32, 0, distribution});
  }
  return cases;
}

// ---- The oracle ------------------------------------------------------------------------------------------------

// Returns the score of an entry as core/separate.h defines it.
template <class T>
double ScoreOf(typename T::Bits bits) {
  const double number = static_cast<double>(T::ToNumber(bits));
  if (T::kDenormalsAreZero && (bits & T::kExponent) == 0) return 0;
  return number;
}

// Returns the bitmask of the k greatest entries of each row: NaN first, ties by the lowest index.
template <class T>
std::vector<uint8_t> Select(const std::vector<typename T::Bits>& x, const Case& c) {
  std::vector<uint8_t> selected(c.rows * BitmaskBytes(c.n));
  std::vector<double> scores(c.n);
  std::vector<int32_t> order(c.n);
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t i = 0; i < c.n; ++i) scores[i] = ScoreOf<T>(x[row * c.n + i]);
    std::iota(order.begin(), order.end(), 0);
    std::nth_element(order.begin(), order.begin() + c.k, order.end(), [&](int32_t a, int32_t b) {
      const bool a_is_nan = std::isnan(scores[a]), b_is_nan = std::isnan(scores[b]);
      if (a_is_nan != b_is_nan) return a_is_nan;
      if (!a_is_nan && scores[a] != scores[b]) return scores[a] > scores[b];
      return a < b;
    });
    for (int64_t i = 0; i < c.k; ++i) selected[row * BitmaskBytes(c.n) + order[i] / 8] |= 1 << (order[i] % 8);
  }
  return selected;
}

// Counts the entries of `out` that differ from v times the entry's factor, rounded once. Any NaN equals any other, a
// factor of zero gives +0, and a denormal may be kept or flushed.
template <class T>
int64_t CountWrong(const std::vector<typename T::Bits>& out, const std::vector<typename T::Bits>& v,
                   const std::vector<uint8_t>& selected, const Case& c) {
  using Number = typename T::Number;
  const auto is_denormal = [](typename T::Bits bits) { return T::kDenormalsAreZero && (bits & T::kExponent) == 0; };
  int64_t wrong = 0;
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t i = 0; i < c.n; ++i) {
      const bool is_selected = selected[row * BitmaskBytes(c.n) + i / 8] >> (i % 8) & 1;
      const Number factor = static_cast<Number>(is_selected ? 1 : c.suppression);
      const typename T::Bits in = v[row * c.n + i], got = out[row * c.n + i];
      typename T::Bits right = 0;
      if (factor != 0) right = T::FromNumber(T::ToNumber(in) * factor);
      const bool same = got == right || (std::isnan(T::ToNumber(got)) && std::isnan(T::ToNumber(right)));
      if (!same && !((is_denormal(in) || is_denormal(right)) && is_denormal(got))) ++wrong;
    }
  }
  return wrong;
}

// Sums in the order that core/separate.h documents.
double Sum(std::vector<double> numbers) {
  while (numbers.size() > 1) {
    numbers.resize((numbers.size() + 63) / 64 * 64);
    for (size_t group = 0; group < numbers.size() / 64; ++group) {
      for (int half = 32; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) numbers[64 * group + i] += numbers[64 * group + i + half];
      }
      numbers[group] = numbers[64 * group];
    }
    numbers.resize(numbers.size() / 64);
  }
  return numbers.at(0);
}

// Whether the gradients of the factors equal the sums of dy * x over the selected entries and over the others.
template <class T>
bool SumsAreRight(const std::vector<typename T::Bits>& sums, const std::vector<typename T::Bits>& x,
                  const std::vector<typename T::Bits>& dy, const std::vector<uint8_t>& selected, const Case& c) {
  for (const bool of_selected : {true, false}) {
    std::vector<double> products(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const int64_t row = static_cast<int64_t>(i) / c.n, column = static_cast<int64_t>(i) % c.n;
      const bool is_selected = selected[row * BitmaskBytes(c.n) + column / 8] >> (column % 8) & 1;
      if (is_selected == of_selected) {
        products[i] = static_cast<double>(T::ToNumber(x[i])) * static_cast<double>(T::ToNumber(dy[i]));
      }
    }
    const auto right = T::FromNumber(static_cast<typename T::Number>(Sum(std::move(products))));
    const auto got = sums[of_selected ? 0 : 1];
    if (got != right && !(std::isnan(T::ToNumber(got)) && std::isnan(T::ToNumber(right)))) return false;
  }
  return true;
}

// ---- Timing ----------------------------------------------------------------------------------------------------

#if HAS_CUB
__global__ void KeepAboveThreshold(const float* x, const float* sorted, float* y, int64_t size, int64_t n, int64_t k,
                                   float suppression) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < size; i += gridDim.x * int64_t{blockDim.x}) {
    y[i] = x[i] >= sorted[i / n * n + k - 1] ? x[i] : suppression == 0 ? 0 : x[i] * suppression;
  }
}

// Times masking by a sort, which keeps every tie. In microseconds.
double TimeCub(const Case& c, const Buffer& x, Buffer& y, cudaStream_t stream) {
  const int64_t size = c.rows * c.n;
  std::vector<int64_t> starts(c.rows + 1);
  for (int64_t row = 0; row <= c.rows; ++row) starts[row] = row * c.n;
  const Buffer offsets(starts), sorted(size * 4);
  const auto* begin = static_cast<const int64_t*>(offsets.get());
  const auto* in = static_cast<const float*>(x.get());
  auto* out = static_cast<float*>(sorted.get());
  size_t bytes = 0;
  Check(cub::DeviceSegmentedSort::SortKeysDescending(nullptr, bytes, in, out, size, c.rows, begin, begin + 1, stream),
        "CUB");
  const Buffer scratch(static_cast<int64_t>(bytes));
  return Time(stream, [&] {
    Check(cub::DeviceSegmentedSort::SortKeysDescending(scratch.get(), bytes, in, out, size, c.rows, begin, begin + 1,
                                                       stream),
          "CUB");
    KeepAboveThreshold<<<static_cast<unsigned>(std::min<int64_t>((size + 255) / 256, 65536)), 256, 0, stream>>>(
        in, out, static_cast<float*>(y.get()), size, c.n, c.k, static_cast<float>(c.suppression));
    Check(cudaGetLastError(), "KeepAboveThreshold");
  });
}
#endif

enum class What { kAll, kQuick, kOnce };

// Checks and times a case. `bandwidth` is that of a copy in bytes per microsecond. Returns whether the results are
// right.
template <class T>
bool Run(const Case& c, What what, const cuda::Device& device, double bandwidth, cudaStream_t stream) {
  using Bits = typename T::Bits;
  const int64_t size = c.rows * c.n, bytes = size * static_cast<int64_t>(sizeof(Bits));
  const int64_t bitmask_bytes = c.rows * BitmaskBytes(c.n);
  const auto host_x = Rows<T>(c, 1, c.distribution), host_dy = Rows<T>(c, 2, "normal");
  const Buffer x(host_x), dy(host_dy), selected(bitmask_bytes), sums(2 * sizeof(Bits));
  Buffer y(bytes);
  const Buffer scratch(cuda::SeparateScratchBytes(c.dtype, c.rows, c.n, device));
  const Buffer sum_scratch(cuda::SumSelectedScratchBytes(c.rows, c.n));

  const cuda::SeparateArgs forward = Forward(c, x, y, selected, scratch);
  const RowsSpec rows = {c.dtype, c.rows, c.n};
  const auto gradient = MakeScaleSelectedArgs<cuda::ScaleSelectedArgs>(
      rows, cuda::Factor{nullptr, 1}, cuda::Factor{nullptr, c.suppression}, dy.get(), selected.get(), y.get());
  auto factors = MakeSumSelectedArgs<cuda::SumSelectedArgs>(rows, dy.get(), x.get(), selected.get());
  factors.selected_sum = sums.get();
  factors.others_sum = static_cast<char*>(sums.get()) + sizeof(Bits);
  factors.scratch = sum_scratch.get();

  const auto run_forward = [&] { Check(cuda::Separate(forward, device, stream)); };
  const auto run_gradient = [&] { Check(cuda::ScaleSelected(gradient, device, stream)); };
  const auto run_factors = [&] { Check(cuda::SumSelected(factors, device, stream)); };

  if (what == What::kOnce) {
    run_forward();
    run_gradient();
    run_factors();
    Check(cudaStreamSynchronize(stream), "the kernels");
    return true;
  }

  // The previous contents must not matter.
  Check(cudaMemsetAsync(selected.get(), 0xA5, bitmask_bytes, stream), "memset");
  run_forward();
  Check(cudaStreamSynchronize(stream), "Separate");
  const std::vector<uint8_t> right = Select<T>(host_x, c);
  int64_t wrong = CountWrong<T>(y.ToHost<Bits>(size), host_x, right, c);
  const bool bitmask_is_right = selected.ToHost<uint8_t>(bitmask_bytes) == right;
  run_gradient();
  Check(cudaStreamSynchronize(stream), "ScaleSelected");
  wrong += CountWrong<T>(y.ToHost<Bits>(size), host_dy, right, c);
  run_factors();
  Check(cudaStreamSynchronize(stream), "SumSelected");
  const bool sums_are_right = SumsAreRight<T>(sums.ToHost<Bits>(2), host_x, host_dy, right, c);

  std::printf("%8lldx%-9lld %6lld  %-8s %-11s", static_cast<long long>(c.rows), static_cast<long long>(c.n),
              static_cast<long long>(c.k), NameOf(c.dtype), c.distribution);
  if (wrong > 0 || !bitmask_is_right || !sums_are_right) {
    std::printf("  WRONG: %lld entries of y and dx%s%s\n", static_cast<long long>(wrong),
                bitmask_is_right ? "" : ", the bitmask", sums_are_right ? "" : ", the factors' gradients");
    return false;
  }
  const double floor = (2 * bytes + bitmask_bytes) / bandwidth;
  const double copy = Time(
      stream, [&] { Check(cudaMemcpyAsync(y.get(), x.get(), bytes, cudaMemcpyDeviceToDevice, stream), "the copy"); });
  const double forward_time = Time(stream, run_forward), gradient_time = Time(stream, run_gradient);
  std::printf(" %9.1f %9.1f  %5.2f %9.1f  %5.2f %9.1f", copy, forward_time, floor / forward_time, gradient_time,
              floor / gradient_time, Time(stream, run_factors));
#if HAS_CUB
  if constexpr (T::kDType == DType::kFloat32) std::printf(" %9.1f", TimeCub(c, x, y, stream));
#endif
  std::printf("\n");
  std::fflush(stdout);
  return true;
}

int Main(What what) {
  const Card card = OpenCard();
  double bandwidth = 0;
  if (what != What::kOnce) {
    bandwidth = PrintCopyBandwidth(card);
    std::printf("microseconds, and the fraction of the copy bandwidth that the minimum traffic reaches\n");
    std::printf("%18s %6s  %-8s %-11s %9s %9s  %5s %9s  %5s %9s %9s\n", "rows x n", "k", "dtype", "rows hold", "copy",
                "forward", "", "gradient", "", "factors", HAS_CUB ? "CUB sort" : "");
  }
  bool all_right = true;
  for (const Case& c : Cases(what != What::kAll)) {
    WithDType(c.dtype,
              [&](auto traits) { all_right &= Run<decltype(traits)>(c, what, card.device, bandwidth, card.stream); });
  }
  if (what == What::kOnce) return 0;
  std::printf(all_right ? "all results are right, bit for bit\n" : "SOME RESULTS ARE WRONG\n");
  return all_right ? 0 : kWrong;
}

}  // namespace
}  // namespace separationfactor

int main(int argc, char** argv) {
  using separationfactor::What;
  const std::map<std::string, What> options = {{"", What::kAll}, {"--quick", What::kQuick}, {"--once", What::kOnce}};
  const auto option = options.find(argc > 1 ? argv[1] : "");
  if (argc > 2 || option == options.end()) {
    std::fprintf(stderr, "usage: %s [--quick | --once]\n", argv[0]);
    return separationfactor::kCudaFailed;
  }
  return separationfactor::Main(option->second);
}
