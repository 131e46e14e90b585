// The host code: selects the path and queues its kernels.

#include <cuda_runtime.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "core/arguments.h"
#include "core/cuda/device.h"
#include "core/cuda/entries-inl.h"
#include "core/cuda/gradients-inl.h"
#include "core/cuda/plan.h"
#include "core/cuda/radix_rows-inl.h"
#include "core/cuda/separate_cuda.h"
#include "core/cuda/short_rows-inl.h"
#include "core/separate.h"
#include "core/types.h"

namespace separationfactor {
namespace cuda {
namespace {

// Returns an empty string if a launch or another call succeeded, else the error message.
std::string Message(cudaError_t error, const char* kernel, DType dtype, int64_t rows, int64_t n) {
  if (error == cudaSuccess) return "";
  return std::string("CUDA kernel ") + kernel + " on " + std::to_string(rows) + " rows of " + std::to_string(n) + " " +
         NameOf(dtype) + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error);
}

template <class T>
FactorSource<T> SourceOf(const Factor& factor) {
  using Number = typename T::Number;
  // Tested before the cast, which could round a denormal up to a normal number.
  const bool is_zero = std::abs(factor.value) < std::numeric_limits<Number>::min();
  return {ToDevice<const typename T::Bits>(factor.on_device), is_zero ? Number{0} : static_cast<Number>(factor.value)};
}

KSource SourceOf(const K& k) {
  return {ToDevice<const int32_t>(k.is_int64 ? nullptr : k.on_device),
          ToDevice<const int64_t>(k.is_int64 ? k.on_device : nullptr), k.value};
}

// ---- Scratch of rows that are split among blocks ---------------------------------------------------------------

// Divides the scratch into consecutive parts.
class Parts {
 public:
  explicit Parts(void* scratch) : scratch_(static_cast<char*>(scratch)) {}
  template <class U>
  U* Take(int64_t count) {
    U* const part = reinterpret_cast<U*>(scratch_ + bytes_);
    bytes_ += RoundUp(count * static_cast<int64_t>(sizeof(U)), 16);
    return part;
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* scratch_;
  int64_t bytes_ = 0;
};

// The digits that CountDigits counts, one per launch: all digits of the key and one of the place.
constexpr int SplitDigits(DType dtype) { return KeyDigits(dtype) + 1; }

template <class T>
struct SplitScratch {
  uint32_t* counts;
  uint32_t* candidate_counts;
  int64_t zero_bytes;  // the size of the two parts above, which start as zeros
  Cut<T>* cuts;
  uint32_t* candidate_indices;
  typename T::Bits* candidates;
  int64_t bytes;

  SplitScratch(void* scratch, const Split& split) {
    constexpr int kCounted = SplitDigits(T::kDType);
    Parts parts(scratch);
    counts = parts.Take<uint32_t>(kCounted * split.batch * kDigits);
    candidate_counts = parts.Take<uint32_t>(split.batch);
    zero_bytes = parts.bytes();
    cuts = parts.Take<Cut<T>>((kCounted + 1) * split.batch);
    candidate_indices = parts.Take<uint32_t>(split.batch * split.candidates);
    candidates = parts.Take<typename T::Bits>(split.batch * split.candidates);
    bytes = parts.bytes();
  }
};

// ---- The paths -----------------------------------------------------------------------------------------------

template <class T>
class Separator {
 public:
  using Bits = typename T::Bits;
  Separator(const SeparateArgs& args, const Device& device, cudaStream_t stream)
      : args_(args), device_(device), stream_(stream), params_(RowsFrom(0, args.rows)) {}

  std::string Run() {
    const int64_t n = args_.n;
    switch (ChoosePath(args_.dtype, args_.rows, n, device_)) {
      case Path::kThread: {
        const auto kernel = n <= 16 ? SeparateByThread<T, 16> : SeparateByThread<T, kLongestThreadRow>;
        const int shared = kThreadPathThreads * RowPitch<Bits>(static_cast<int>(n)) * static_cast<int>(sizeof(Bits));
        return Queue("SeparateByThread", kernel, CeilDiv(args_.rows, kThreadPathThreads), kThreadPathThreads, shared,
                     params_);
      }
      case Path::kWarp: {
        const int lanes = LanesOfRow(n);
        const int64_t rows_a_block = kWarpPathThreads / lanes;
        return Queue("SeparateByWarp", WarpKernel(EntriesOfLane(T::kDType, n)), CeilDiv(args_.rows, rows_a_block),
                     kWarpPathThreads, 0, WarpRowsParams<T>{params_, lanes});
      }
      case Path::kBlock:
        return Queue("SeparateByBlock", SeparateByBlock<T>, args_.rows, BlockPathThreads(n),
                     static_cast<int>(BlockPathSharedBytes(args_.dtype, n)), params_);
      case Path::kSplit:
        return RunSplit();
    }
    return "";
  }

 private:
  RowsParams<T> RowsFrom(int64_t first, int64_t rows) const {
    return {rows,
            static_cast<int32_t>(args_.n),
            SourceOf(args_.k),
            SourceOf<T>(args_.separation),
            SourceOf<T>(args_.suppression),
            ScoreMask<T>(args_.score),
            ToDevice<const Bits>(static_cast<const Bits*>(args_.x) + first * args_.n),
            ToDevice<Bits>(static_cast<Bits*>(args_.y) + first * args_.n),
            ToDevice<uint8_t>(args_.selected + first * BitmaskBytes(args_.n))};
  }

  using WarpRowsKernel = void (*)(WarpRowsParams<T>);
  static WarpRowsKernel WarpKernel(int entries_of_lane) {
    if constexpr (sizeof(Bits) > 2) {
      if (entries_of_lane == 12) return SeparateByWarp<T, 12>;
    }
    if constexpr (LongestWarpRow(T::kDType) > 512) {
      if (entries_of_lane == 24) return SeparateByWarp<T, 24>;
      if (entries_of_lane == 32) return SeparateByWarp<T, 32>;
    }
    return SeparateByWarp<T, 16>;
  }

  template <class Params>
  std::string Queue(const char* name, void (*kernel)(Params), int64_t blocks, int threads, int shared_bytes,
                    const Params& params) const {
    const cudaError_t error =
        Launch(kernel, Smaller(blocks, device_.max_blocks), threads, shared_bytes, stream_, params);
    return Message(error, name, args_.dtype, args_.rows, args_.n);
  }

  std::string RunSplit() const {
    const Split split = ChooseSplit(args_.rows, args_.n, device_);
    const SplitScratch<T> scratch(args_.scratch, split);
    for (int64_t first = 0; first < args_.rows; first += split.batch) {
      const int64_t rows = Smaller(split.batch, args_.rows - first);
      std::string failure = Message(cudaMemsetAsync(scratch.counts, 0, scratch.zero_bytes, stream_),
                                    "memset of CountDigits' scratch", args_.dtype, args_.rows, args_.n);
      SplitParams<T> params{RowsFrom(first, rows),
                            split.segment,
                            static_cast<int32_t>(split.segments),
                            0,
                            static_cast<uint32_t>(split.candidates),
                            ToDevice<uint32_t>(scratch.counts),
                            ToDevice<uint32_t>(scratch.candidate_counts),
                            ToDevice<Cut<T>>(scratch.cuts),
                            ToDevice<uint32_t>(scratch.candidate_indices),
                            ToDevice<Bits>(scratch.candidates)};
      const int64_t blocks = rows * split.segments;
      for (; failure.empty() && params.digit < SplitDigits(args_.dtype); ++params.digit) {
        failure = Queue("CountDigits", CountDigits<T>, blocks, kSplitThreads, kRadixBytes, params);
      }
      if (failure.empty()) {
        failure = Queue("WriteDecided", WriteDecided<T>, blocks, kSplitThreads, kRadixBytes, params);
      }
      if (failure.empty()) {
        failure = Queue("WriteCandidates", WriteCandidates<T>, rows, kCandidateThreads, kRadixBytes, params);
      }
      if (!failure.empty()) return failure;
    }
    return "";
  }

  const SeparateArgs& args_;
  const Device& device_;
  const cudaStream_t stream_;
  const RowsParams<T> params_;
};

// The number of blocks of a grid-stride kernel. Several waves keep the GPU busy, because blocks differ in speed.
int64_t BlocksFor(int64_t blocks, const Device& device) {
  return Smaller(blocks, Smaller(device.max_blocks, 32 * int64_t{device.multiprocessors}));
}

}  // namespace

cudaError_t GetDevice(int ordinal, Device* device) {
  int max_blocks = 0;
  cudaError_t error = cudaDeviceGetAttribute(&device->multiprocessors, cudaDevAttrMultiProcessorCount, ordinal);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&device->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
  }
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&max_blocks, cudaDevAttrMaxGridDimX, ordinal);
  device->max_blocks = max_blocks;
  return error;
}

int64_t SeparateScratchBytes(DType dtype, int64_t rows, int64_t n, const Device& device) {
  if (ChoosePath(dtype, rows, n, device) != Path::kSplit) return 0;
  int64_t bytes = 0;
  WithDType(dtype,
            [&](auto traits) { bytes = SplitScratch<decltype(traits)>(nullptr, ChooseSplit(rows, n, device)).bytes; });
  return bytes;
}

std::string Separate(const SeparateArgs& args, const Device& device, cudaStream_t stream) {
  if (args.k.on_device == nullptr) {
    const std::string error = CheckK(args.k.value, args.n);
    if (!error.empty()) return error;
  }
  if (args.rows == 0 || args.n == 0) return "";
  std::string failure;
  WithDType(args.dtype, [&](auto traits) { failure = Separator<decltype(traits)>(args, device, stream).Run(); });
  return failure;
}

std::string ScaleSelected(const ScaleSelectedArgs& args, const Device& device, cudaStream_t stream) {
  const int64_t size = args.rows * args.n;
  if (size == 0) return "";
  std::string failure;
  WithDType(args.dtype, [&](auto traits) {
    using T = decltype(traits);
    using Bits = typename T::Bits;
    const ScaleParams<T> params{size,
                                args.n,
                                SourceOf<T>(args.separation),
                                SourceOf<T>(args.suppression),
                                ToDevice<const Bits>(args.v),
                                ToDevice<Bits>(args.out),
                                ToDevice<const uint8_t>(args.selected)};
    const int64_t blocks = BlocksFor(CeilDiv(size, kGradientThreads * Vector<T>::kSize), device);
    failure =
        Message(Launch(Scale<T>, blocks, kGradientThreads, 0, stream, params), "Scale", args.dtype, args.rows, args.n);
  });
  return failure;
}

int64_t SumSelectedScratchBytes(int64_t rows, int64_t n) {
  // Two buffers: each launch reads sums from one and writes sums to the other.
  const int64_t blocks = CeilDiv(rows * n, kSumBlock);
  Parts parts(nullptr);
  parts.Take<double>(2 * blocks);
  parts.Take<double>(2 * CeilDiv(blocks, kSumBlock));
  return parts.bytes();
}

std::string SumSelected(const SumSelectedArgs& args, const Device& device, cudaStream_t stream) {
  std::string failure;
  WithDType(args.dtype, [&](auto traits) {
    using T = decltype(traits);
    using Bits = typename T::Bits;
    const int64_t size = args.rows * args.n;
    int64_t sums = CeilDiv(size, kSumBlock);
    Parts parts(args.scratch);
    double* in = parts.Take<double>(2 * sums);
    double* out = parts.Take<double>(2 * CeilDiv(sums, kSumBlock));
    const auto queue = [&](const char* name, auto kernel, int64_t blocks, const auto& params) {
      if (!failure.empty()) return;
      const cudaError_t error = Launch(kernel, blocks, kSumThreads, kSumSharedBytes, stream, params);
      failure = Message(error, name, args.dtype, args.rows, args.n);
    };
    if (size > 0) {
      queue("SumProducts", SumProducts<T>, BlocksFor(sums, device),
            SumProductsParams<T>{size, args.n, ToDevice<const Bits>(args.u), ToDevice<const Bits>(args.v),
                                 ToDevice<const uint8_t>(args.selected), ToDevice<double>(in)});
    }
    for (bool is_last = false; !is_last; sums = CeilDiv(sums, kSumBlock)) {
      is_last = sums <= kSumBlock;
      queue("SumSums", SumSums<T>, BlocksFor(Greater(1, CeilDiv(sums, kSumBlock)), device),
            SumSumsParams<T>{sums, ToDevice<const double>(in), ToDevice<double>(is_last ? nullptr : out),
                             ToDevice<Bits>(args.selected_sum), ToDevice<Bits>(args.others_sum)});
      std::swap(in, out);
    }
  });
  return failure;
}

}  // namespace cuda
}  // namespace separationfactor
