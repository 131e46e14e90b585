// Measures the limits in core/cuda/plan.h: times the forward at lengths around each limit, and rows that one block or
// several blocks could process. Does not check results; `cuda_benchmark` does.
//
//   nvcc -std=c++17 -O3 -arch=native -Icc -o cuda_limits cc/benchmark/cuda_limits.cu cc/core/cuda/separate_cuda.cu
//
// A fraction relates to the bandwidth of a 1 GiB device-to-device copy and to the bytes that any masking must move.

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <vector>

#include "benchmark/cuda_timing.h"
#include "core/cuda/separate_cuda.h"
#include "core/separate.h"
#include "core/types.h"

namespace separationfactor {
namespace {

// Times the forward for any shape and any device attributes, which select the path.
template <class T>
class Planner {
 public:
  using Bits = typename T::Bits;
  static constexpr int64_t kSize = int64_t{1} << 25;  // entries, more than fit any second-level cache

  explicit Planner(cudaStream_t stream)
      : stream_(stream), x_(kSize * sizeof(Bits)), y_(kSize * sizeof(Bits)), selected_(kSize) {
    const Case c = {1024, 4096, 0, T::kDType, 0, "normal"};
    const auto rows = Rows<T>(c, 1, c.distribution);
    const int64_t bytes = static_cast<int64_t>(rows.size() * sizeof(Bits));
    for (int64_t at = 0; at < kSize * static_cast<int64_t>(sizeof(Bits)); at += bytes) {
      Check(cudaMemcpy(static_cast<char*>(x_.get()) + at, rows.data(), bytes, cudaMemcpyHostToDevice), "copy");
    }
  }

  // Returns microseconds, with the path that the plan selects for this device.
  double TimeForward(int64_t rows, int64_t n, int64_t k, const cuda::Device& device) const {
    const Buffer scratch(cuda::SeparateScratchBytes(T::kDType, rows, n, device));
    const Case c = {rows, n, k, T::kDType, 0, "normal"};
    const cuda::SeparateArgs args = Forward(c, x_, y_, selected_, scratch);
    return Time(stream_, [&] { Check(cuda::Separate(args, device, stream_)); });
  }

 private:
  cudaStream_t stream_;
  Buffer x_, y_, selected_;
};

// Prints the lengths around each limit, with enough rows to fill the GPU. `bandwidth` is that of a copy in bytes per
// microsecond.
template <class T>
void PrintLengths(const cuda::Device& device, double bandwidth, cudaStream_t stream) {
  const Planner<T> planner(stream);
  std::printf("%s, %lld entries in total: the length, microseconds, and the fraction of the copy bandwidth\n",
              NameOf(T::kDType), static_cast<long long>(planner.kSize));
  for (const int64_t n : {2,    4,    8,    10,   16,    17,    24,    31,    32,    33,    48,     64,     65,
                          96,   128,  129,  192,  256,   257,   384,   512,   513,   768,   1000,   1024,   1025,
                          1536, 2048, 4096, 8192, 16384, 24576, 28672, 32768, 49152, 65536, 131072, 1048576}) {
    const int64_t rows = planner.kSize / n;
    const double time = planner.TimeForward(rows, n, (n + 31) / 32, device);
    const double floor = (2.0 * rows * n * sizeof(typename T::Bits) + rows * BitmaskBytes(n)) / bandwidth;
    std::printf("%8lld %9.1f  %4.2f\n", static_cast<long long>(n), time, floor / time);
  }
}

// Prints one block per row against several blocks per row.
template <class T>
void PrintSharing(const cuda::Device& device, cudaStream_t stream) {
  const Planner<T> planner(stream);
  const cuda::Device alone = {1, device.shared_bytes,
                              device.max_blocks};  // acts as if few rows filled it, so the plan uses one block per row
  const cuda::Device shared = {device.multiprocessors, 0,
                               device.max_blocks};  // acts as if no row fitted a block, so the plan splits rows
  const std::vector<int64_t> row_counts = {1, 4, 16, 66, 100, 132, 264};
  std::printf("%s: microseconds with one block per row / several blocks per row, by length and number of rows\n",
              NameOf(T::kDType));
  std::printf("%8s", "");
  for (const int64_t rows : row_counts) std::printf(" %11lld", static_cast<long long>(rows));
  std::printf("\n");
  for (const int64_t n : {2048, 4096, 8192, 16384, 24576, 32768, 49152}) {
    if (n * static_cast<int64_t>(sizeof(typename T::Bits)) > device.shared_bytes - 16384) continue;
    std::printf("%8lld", static_cast<long long>(n));
    for (const int64_t rows : row_counts) {
      std::printf("  %4.1f/%5.1f", planner.TimeForward(rows, n, (n + 31) / 32, alone),
                  planner.TimeForward(rows, n, (n + 31) / 32, shared));
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

int Main() {
  const Card card = OpenCard();
  const double bandwidth = PrintCopyBandwidth(card);
  PrintLengths<Float32>(card.device, bandwidth, card.stream);
  PrintLengths<Float64>(card.device, bandwidth, card.stream);
  PrintLengths<BFloat16>(card.device, bandwidth, card.stream);
  PrintSharing<Float32>(card.device, card.stream);
  PrintSharing<BFloat16>(card.device, card.stream);
  return 0;
}

}  // namespace
}  // namespace separationfactor

int main() { return separationfactor::Main(); }
