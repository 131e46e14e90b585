// Shared by the programs of this folder that run on a GPU: opening the GPU, error handling, device memory, cases, and
// the timing of a call.

#ifndef SEPARATIONFACTOR_BENCHMARK_CUDA_TIMING_H_
#define SEPARATIONFACTOR_BENCHMARK_CUDA_TIMING_H_

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "core/arguments.h"
#include "core/cuda/separate_cuda.h"
#include "core/separate.h"
#include "core/types.h"

namespace separationfactor {

constexpr int kCudaFailed = 2, kNoDevice = 77;  // exit statuses

inline void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(kCudaFailed);
}

inline void Check(const std::string& error) {
  if (error.empty()) return;
  std::fprintf(stderr, "%s\n", error.c_str());
  std::exit(kCudaFailed);
}

// A buffer in device memory.
class Buffer {
 public:
  explicit Buffer(int64_t bytes) { Check(cudaMalloc(&data_, std::max<int64_t>(bytes, 16)), "cudaMalloc"); }
  template <class T>
  explicit Buffer(const std::vector<T>& host) : Buffer(static_cast<int64_t>(host.size() * sizeof(T))) {
    Check(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "copy to the device");
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* get() const { return data_; }
  template <class T>
  std::vector<T> ToHost(int64_t size) const {
    std::vector<T> host(size);
    Check(cudaMemcpy(host.data(), data_, size * sizeof(T), cudaMemcpyDeviceToHost), "copy from the device");
    return host;
  }

 private:
  void* data_ = nullptr;
};

struct Case {
  int64_t rows, n, k;
  DType dtype;
  double suppression;
  const char* distribution;
};

// Returns the entries of a case's rows. The same seed gives the same entries.
template <class T>
std::vector<typename T::Bits> Rows(const Case& c, uint32_t seed, const std::string& distribution) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<typename T::Bits> rows(c.rows * c.n);
  const auto bits = [](double number) { return T::FromNumber(static_cast<typename T::Number>(number)); };
  const double specials[] = {NAN, -NAN, INFINITY, -INFINITY, 0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 65504.0};
  for (int64_t i = 0; i < static_cast<int64_t>(rows.size()); ++i) {
    double number = normal(generator);
    if (distribution == "ascending") number = static_cast<double>(i % c.n) / static_cast<double>(c.n);
    if (distribution == "all equal") number = 1;
    if (distribution == "half zeros") number = std::max(number, 0.0);
    if (distribution == "four values") number = static_cast<double>(generator() % 4);
    if (distribution == "specials") number = specials[generator() % std::size(specials)];
    rows[i] = bits(number);
  }
  return rows;
}

// Returns the median time of a call of `queue`, which queues work on the stream, in microseconds.
template <class Queue>
double Time(cudaStream_t stream, Queue queue) {
  cudaEvent_t start, stop;
  Check(cudaEventCreate(&start), "cudaEventCreate");
  Check(cudaEventCreate(&stop), "cudaEventCreate");
  const auto burst = [&](int calls) {
    queue();  // warms the caches and is not timed
    Check(cudaEventRecord(start, stream), "cudaEventRecord");
    for (int call = 0; call < calls; ++call) queue();
    Check(cudaEventRecord(stop, stream), "cudaEventRecord");
    Check(cudaEventSynchronize(stop), "the kernels");
    float milliseconds;
    Check(cudaEventElapsedTime(&milliseconds, start, stop), "cudaEventElapsedTime");
    return 1e3 * milliseconds / calls;
  };
  burst(3);
  const int calls = std::clamp(static_cast<int>(1e4 / burst(3)), 1, 1000);
  std::vector<double> bursts(11);
  for (double& microseconds : bursts) microseconds = burst(calls);
  Check(cudaEventDestroy(start), "cudaEventDestroy");
  Check(cudaEventDestroy(stop), "cudaEventDestroy");
  std::nth_element(bursts.begin(), bursts.begin() + bursts.size() / 2, bursts.end());
  return bursts[bursts.size() / 2];
}

// Returns the arguments of the forward, by value and with a separation of one.
inline cuda::SeparateArgs Forward(const Case& c, const Buffer& x, const Buffer& y, const Buffer& selected,
                                  const Buffer& scratch) {
  auto args = MakeSeparateArgs<cuda::SeparateArgs>({c.dtype, c.rows, c.n}, Score::kValue, cuda::K{nullptr, false, c.k},
                                                   cuda::Factor{nullptr, 1}, cuda::Factor{nullptr, c.suppression},
                                                   x.get(), y.get(), selected.get());
  args.scratch = scratch.get();
  return args;
}

// The first GPU and a stream on it.
struct Card {
  cudaDeviceProp properties;
  cuda::Device device;
  cudaStream_t stream;
};

// Ends the program if there is no GPU.
inline Card OpenCard() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "no CUDA device: %s\n", error == cudaSuccess ? "none is visible" : cudaGetErrorString(error));
    std::exit(kNoDevice);
  }
  Card card;
  Check(cudaGetDeviceProperties(&card.properties, 0), "cudaGetDeviceProperties");
  Check(cudaSetDevice(0), "cudaSetDevice");
  Check(cuda::GetDevice(0, &card.device), "the device's attributes");
  Check(cudaStreamCreate(&card.stream), "cudaStreamCreate");
  return card;
}

// Prints the GPU and its copy bandwidth. Returns the bandwidth in bytes per microsecond, reads plus writes.
inline double PrintCopyBandwidth(const Card& card) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const Buffer from(kBytes), to(kBytes);
  const double bandwidth =
      2.0 * kBytes / Time(card.stream, [&] {
        Check(cudaMemcpyAsync(to.get(), from.get(), kBytes, cudaMemcpyDeviceToDevice, card.stream), "the copy");
      });
  std::printf("%s, sm_%d%d, %d multiprocessors, %d KB of L2; a copy reads and writes %.0f GB/s\n", card.properties.name,
              card.properties.major, card.properties.minor, card.device.multiprocessors,
              card.properties.l2CacheSize / 1024, bandwidth / 1e3);
  return bandwidth;
}

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_BENCHMARK_CUDA_TIMING_H_
