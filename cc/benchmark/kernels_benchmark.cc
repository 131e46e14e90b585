// Times the kernels on one thread, for shapes, dtypes, distributions and instruction sets. The baselines are relu and
// memcpy on the same rows, and selection by std::nth_element.
//
//   cmake -S . -B build/benchmark -DSEPARATIONFACTOR_BENCHMARK=ON   (Debian: libbenchmark-dev)
//   cmake --build build/benchmark --target kernels_benchmark
//   build/benchmark/kernels_benchmark --benchmark_filter='float32/normal/.*/avx512' --benchmark_repetitions=5
//
// The names are function/dtype/distribution/ROWSxN,K/instruction set. `entry` is the time per entry. --shape=ROWSxN,K
// adds a shape. separate_by_PATH takes a path of core/cpu/path.h, for every shape that the path handles.
//
//   build/benchmark/kernels_benchmark --paths > cc/benchmark/paths.csv
//
// measures the paths on a grid of shapes, in a few minutes. choose_path.py fits the choice of path to this file. A
// point is the best of 15 measurements, which the paths take in turns. Entries are normally distributed, because that
// is what the outputs of a network are like. A measurement processes about 32,768 entries, which stay in the
// second-level cache, and at least two rows.
//
// This program chose kSampleCost in core/cpu/stream-inl.h. To check it, change it, build, and compare the streamed
// shapes.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/cpu/flush_denormals.h"
#include "core/cpu/instruction_set.h"
#include "core/cpu/kernels.h"
#include "core/cpu/path.h"
#include "core/separate.h"
#include "core/types.h"

namespace separationfactor {
namespace {

struct Shape {
  int64_t rows, n, k;
};

std::vector<Shape> shapes = {{200, 10, 1},       {32768, 10, 1},     {32768, 10, 3},   {2048, 64, 8},
                             {1024, 256, 16},    {512, 1000, 1},     {512, 1000, 25},  {512, 1000, 500},
                             {128, 4000, 100},   {128, 16384, 32},   {32, 131072, 64}, {4, 1000000, 100},
                             {32, 32768, 16384}, {1, 16777216, 1000}};

struct Distribution {
  const char* name;
  std::function<double(std::mt19937_64&, int64_t i)> entry;
};

double Normal(std::mt19937_64& rng) { return std::normal_distribution<double>()(rng); }

const std::vector<Distribution> distributions = {
    {"normal", [](auto& rng, int64_t) { return Normal(rng); }},
    {"ascending", [](auto&, int64_t i) { return static_cast<double>(i); }},
    {"descending", [](auto&, int64_t i) { return -static_cast<double>(i); }},
    {"constant", [](auto&, int64_t) { return 0.5; }},
    {"half_zeros", [](auto& rng, int64_t) { return std::max(0.0, Normal(rng)); }},
    {"sawtooth", [](auto&, int64_t i) { return static_cast<double>(i % 7); }},
    {"four_values", [](auto& rng, int64_t) { return static_cast<double>(rng() % 4) - 1; }},
    {"identical_leading_bits", [](auto& rng, int64_t) { return 1 + static_cast<double>(rng() % 256) * 0x1p-23; }},
    {"all_magnitudes", [](auto& rng, int64_t) { return std::ldexp(Normal(rng), static_cast<int>(rng() % 200) - 100); }},
};

// Memory with the alignment of TensorFlow's allocator.
template <class Element>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<Element*>(std::aligned_alloc(64, (size * sizeof(Element) + 63) / 64 * 64)), &std::free) {
    std::memset(data_.get(), 0, size * sizeof(Element));
  }
  Element* data() const { return data_.get(); }

 private:
  std::unique_ptr<Element, decltype(&std::free)> data_;
};

template <class T>
struct Data {
  using Bits = typename T::Bits;
  Data(const Shape& shape, const Distribution& distribution)
      : x(shape.rows * shape.n), y(shape.rows * shape.n), selected(shape.rows * BitmaskBytes(shape.n)) {
    std::mt19937_64 rng(1);
    for (int64_t i = 0; i < shape.rows * shape.n; ++i) {
      const double entry = distribution.entry(rng, i % shape.n);
      x.data()[i] = T::FromNumber(static_cast<typename T::Number>(entry));
    }
  }
  Buffer<Bits> x, y;
  Buffer<uint8_t> selected;
};

void Report(benchmark::State& state, const Shape& shape) {
  using benchmark::Counter;
  state.counters["entry"] =
      Counter(static_cast<double>(shape.rows * shape.n), Counter::kIsIterationInvariantRate | Counter::kInvert);
}

const ParallelFor here = [](int64_t total, int64_t, const auto& work) { work(0, total); };

template <class T>
SeparateArgs ArgsOf(const Data<T>& data, const Shape& shape, double suppression) {
  return {T::kDType, Score::kValue, shape.rows,    shape.n,       shape.k,
          1.0,       suppression,   data.x.data(), data.y.data(), data.selected.data()};
}

template <class T>
void BenchmarkSeparate(benchmark::State& state, InstructionSet set, Shape shape, Distribution distribution,
                       double suppression) {
  SetInstructionSet(set);
  const Data<T> data(shape, distribution);
  const SeparateArgs args = ArgsOf(data, shape, suppression);
  for (auto _ : state) Separate(args, here);
  Report(state, shape);
}

// The scratch of kernels.h.
Buffer<char> ScratchFor(const SeparateArgs& args) { return Buffer<char>(ScratchBytes(args)); }

void SeparateBy(Path path, InstructionSet set, const SeparateArgs& args, void* scratch) {
  const ScopedFlushDenormals flush;
  KernelsOf(set, args.dtype).separate_by(path, args, 0, args.rows, scratch);
}

template <class T>
void BenchmarkPath(benchmark::State& state, Path path, InstructionSet set, Shape shape, Distribution distribution) {
  const Data<T> data(shape, distribution);
  const SeparateArgs args = ArgsOf(data, shape, 0);
  const auto scratch = ScratchFor(args);
  for (auto _ : state) SeparateBy(path, set, args, scratch.data());
  Report(state, shape);
}

template <class T>
void BenchmarkScale(benchmark::State& state, InstructionSet set, Shape shape, Distribution distribution,
                    double suppression) {
  SetInstructionSet(set);
  const Data<T> data(shape, distribution);
  Separate(ArgsOf(data, shape, suppression), here);
  const ScaleSelectedArgs args{T::kDType,     shape.rows,           shape.n,      1.0, suppression,
                               data.x.data(), data.selected.data(), data.y.data()};
  for (auto _ : state) ScaleSelected(args, here);
  Report(state, shape);
}

template <class T>
void BenchmarkSum(benchmark::State& state, InstructionSet set, Shape shape, Distribution distribution) {
  SetInstructionSet(set);
  const Data<T> data(shape, distribution);
  Separate(ArgsOf(data, shape, 0.25), here);
  const SumSelectedArgs args{T::kDType, shape.rows, shape.n, data.x.data(), data.y.data(), data.selected.data()};
  for (auto _ : state) benchmark::DoNotOptimize(SumSelected(args, here));
  Report(state, shape);
}

// The common method: nth_element on a copy finds the threshold, and a second pass compares with it. It does not order
// ties and writes no bitmask.
template <class T>
void BenchmarkNthElement(benchmark::State& state, Shape shape, Distribution distribution) {
  const Data<T> data(shape, distribution);
  std::vector<typename T::Number> row(shape.n), numbers(shape.n);
  for (auto _ : state) {
    for (int64_t r = 0; r < shape.rows; ++r) {
      const auto* x = data.x.data() + r * shape.n;
      auto* y = data.y.data() + r * shape.n;
      std::transform(x, x + shape.n, numbers.begin(), T::ToNumber);
      row = numbers;
      const auto kth = row.begin() + (shape.k - 1);
      std::nth_element(row.begin(), kth, row.end(), std::greater<>());
      for (int64_t i = 0; i < shape.n; ++i) y[i] = numbers[i] >= *kth ? x[i] : 0;
    }
    benchmark::ClobberMemory();
  }
  Report(state, shape);
}

void BenchmarkRelu(benchmark::State& state, Shape shape) {
  const Data<Float32> data(shape, distributions[0]);
  const auto* x = reinterpret_cast<const float*>(data.x.data());
  auto* y = reinterpret_cast<float*>(data.y.data());
  for (auto _ : state) {
    for (int64_t i = 0; i < shape.rows * shape.n; ++i) y[i] = x[i] > 0 ? x[i] : 0;
    benchmark::ClobberMemory();
  }
  Report(state, shape);
}

void BenchmarkMemcpy(benchmark::State& state, Shape shape) {
  const Data<Float32> data(shape, distributions[0]);
  for (auto _ : state) {
    std::memcpy(data.y.data(), data.x.data(), shape.rows * shape.n * sizeof(float));
    benchmark::ClobberMemory();
  }
  Report(state, shape);
}

std::string NameOf(const Shape& shape) {
  return std::to_string(shape.rows) + "x" + std::to_string(shape.n) + "," + std::to_string(shape.k);
}

template <class... Function>
void Register(const std::string& name, Function&&... function) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<Function>(function)...)->Unit(benchmark::kMicrosecond);
}

template <class T>
void RegisterDType(const char* dtype) {
  for (const Shape& shape : shapes) {
    for (const Distribution& distribution : distributions) {
      const std::string name = std::string("/") + dtype + "/" + distribution.name + "/" + NameOf(shape);
      for (const InstructionSet set : SupportedInstructionSets()) {
        const std::string suffix = name + "/" + InstructionSetName(set);
        Register("separate" + suffix, BenchmarkSeparate<T>, set, shape, distribution, 0.0);
        Register("separate_suppression" + suffix, BenchmarkSeparate<T>, set, shape, distribution, 0.25);
        for (const Path path : kPaths) {
          if (!Handles(path, T::kDType, shape.n, shape.k)) continue;
          Register(std::string("separate_by_") + NameOf(path) + suffix, BenchmarkPath<T>, path, set, shape,
                   distribution);
        }
        Register("scale" + suffix, BenchmarkScale<T>, set, shape, distribution, 0.0);
        Register("scale_suppression" + suffix, BenchmarkScale<T>, set, shape, distribution, 0.25);
        Register("sum" + suffix, BenchmarkSum<T>, set, shape, distribution);
      }
      Register("nth_element" + name, BenchmarkNthElement<T>, shape, distribution);
    }
  }
}

// ---- --paths -----------------------------------------------------------------------------------------------

// A shape, and how many rows of it are separated one group of `shape.rows` after another: the time of a path depends on
// the row, so a few rows would tell little.
struct PathShape {
  Shape shape;
  int64_t all_rows;
};

// Short rows, few and many at a time, and long rows. The ks are small, shares of n, and near n.
std::vector<PathShape> PathShapes() {
  constexpr int64_t kEntries = 32768;
  std::vector<PathShape> grid;
  const auto add = [&](int64_t rows, int64_t all_rows, int64_t n, std::vector<int64_t> ks) {
    std::sort(ks.begin(), ks.end());
    ks.erase(std::unique(ks.begin(), ks.end()), ks.end());
    for (const int64_t k : ks) {
      if (1 <= k && k < n) grid.push_back({{rows, n, k}, all_rows});
    }
  };
  for (const int64_t n : {4, 8, 10, 16, 24, 32, 48, 64, 96, 128, 192, 256}) {
    for (const int64_t rows : {int64_t{1}, int64_t{4}, int64_t{16}, kEntries / n}) {
      add(rows, kEntries / n / rows * rows, n, {1, 4, n / 16, n / 4, n / 2});
    }
  }
  for (const int64_t n : {512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 16384, 32768, 65536, 262144, 1048576}) {
    const int64_t rows = std::max<int64_t>(n < 262144 ? 4 : 2, kEntries / n);
    add(rows, rows, n, {1, 2, n / 1024, n / 512, n / 256, n / 128, n / 64, n / 16, n / 4, n / 2, n - n / 16});
  }
  return grid;
}

// Returns the nanoseconds per entry of each path, or 0 if it does not handle the shape. The shortest time counts,
// because interruptions only add to it.
template <class T>
std::vector<double> TimePaths(InstructionSet set, const PathShape& path_shape, const Data<T>& data) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRounds = 15;
  constexpr double kRoundTime = 4e5;  // nanoseconds
  const Shape& shape = path_shape.shape;
  const SeparateArgs args = ArgsOf(data, shape, 0);
  const auto separate_by = KernelsOf(set, T::kDType).separate_by;
  const auto scratch = ScratchFor(args);
  const ScopedFlushDenormals flush;
  const auto nanoseconds = [&](Path path, int64_t passes) {
    const auto start = Clock::now();
    for (int64_t pass = 0; pass < passes; ++pass) {
      for (int64_t row = 0; row < path_shape.all_rows; row += shape.rows) {
        separate_by(path, args, row, row + shape.rows, scratch.data());
      }
    }
    return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
  };
  std::vector<double> best(std::size(kPaths));
  std::vector<int64_t> passes(std::size(kPaths));
  for (int round = 0; round < kRounds; ++round) {
    for (const Path path : kPaths) {
      if (!Handles(path, T::kDType, shape.n, shape.k)) continue;
      const auto i = static_cast<int>(path);
      if (round == 0) {
        nanoseconds(path, 1);  // fills the caches
        passes[i] = 1 + static_cast<int64_t>(kRoundTime / nanoseconds(path, 1));
      }
      const double time = nanoseconds(path, passes[i]) / static_cast<double>(passes[i] * path_shape.all_rows * shape.n);
      best[i] = round == 0 ? time : std::min(best[i], time);
    }
  }
  return best;
}

template <class T>
void PrintPaths(const char* dtype) {
  for (const PathShape& path_shape : PathShapes()) {
    const Shape& shape = path_shape.shape;
    const Data<T> data({path_shape.all_rows, shape.n, shape.k}, distributions[0]);
    for (const InstructionSet set : SupportedInstructionSets()) {
      std::printf("%s,%s,%ld,%ld,%ld", InstructionSetName(set), dtype, shape.rows, shape.n, shape.k);
      const std::vector<double> times = TimePaths<T>(set, path_shape, data);
      for (const Path path : kPaths) {
        if (path == Path::kAllOrNone) continue;
        const double time = times[static_cast<int>(path)];
        time > 0 ? std::printf(",%.3f", time) : std::printf(",");
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

void AddShape(const char* text) {
  long rows, n, k;
  if (std::sscanf(text, "%ldx%ld,%ld", &rows, &n, &k) != 3 || rows < 1 || k < 1 || k > n) {
    std::fprintf(stderr, "--shape must be ROWSxN,K with 1 <= K <= N. Received: %s\n", text);
    std::exit(1);
  }
  shapes.push_back({rows, n, k});
}

}  // namespace
}  // namespace separationfactor

int main(int argc, char** argv) {
  using namespace separationfactor;
  if (argc == 2 && std::strcmp(argv[1], "--paths") == 0) {
    std::printf("instruction_set,dtype,rows,n,k");
    for (const Path path : kPaths) {
      if (path != Path::kAllOrNone) std::printf(",%s", NameOf(path));
    }
    std::printf("\n");
    PrintPaths<Float32>("float32");
    PrintPaths<Float64>("float64");
    PrintPaths<BFloat16>("bfloat16");
    PrintPaths<Float16>("float16");
    return 0;
  }
  const std::string option = "--shape=";
  char** end = std::remove_if(argv, argv + argc, [&](const char* argument) {
    if (std::strncmp(argument, option.c_str(), option.size()) != 0) return false;
    AddShape(argument + option.size());
    return true;
  });
  argc = static_cast<int>(end - argv);
  for (const Shape& shape : shapes) {
    Register("relu/float32/normal/" + NameOf(shape), BenchmarkRelu, shape);
    Register("memcpy/float32/normal/" + NameOf(shape), BenchmarkMemcpy, shape);
  }
  RegisterDType<Float32>("float32");
  RegisterDType<Float64>("float64");
  RegisterDType<BFloat16>("bfloat16");
  RegisterDType<Float16>("float16");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
