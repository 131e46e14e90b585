#include "core/sparse.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "core/cpu/flush_denormals.h"
#include "core/cpu/instruction_set.h"
#include "core/cpu/sparse/kernels.h"
#include "core/types.h"

namespace separationfactor {
namespace {

const SparseKernels& CurrentKernels() {
#if defined(__x86_64__)
  switch (CurrentInstructionSet()) {
    case InstructionSet::kAvx512:
      return kAvx512SparseKernels;
    case InstructionSet::kAvx2:
      return kAvx2SparseKernels;
    case InstructionSet::kBaseline:
      break;
  }
#endif
  return kBaselineSparseKernels;
}

constexpr int NumberBytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

int64_t Ceil(int64_t numerator, int64_t denominator) { return (numerator + denominator - 1) / denominator; }
int64_t RoundUp(int64_t number, int64_t multiple) { return Ceil(number, multiple) * multiple; }

// Uninitialized memory, aligned to a cache line.
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t bytes) : bytes_(std::aligned_alloc(64, RoundUp(std::max<int64_t>(bytes, 1), 64))) {
    if (bytes_ == nullptr) throw std::bad_alloc();
  }
  template <class Element = void>
  Element* get() const {
    return static_cast<Element*>(bytes_.get());
  }

 private:
  struct Free {
    void operator()(void* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<void, Free> bytes_;
};

// Calls function(traits) with the traits of the numbers in which a dtype is summed.
template <class Function>
void WithNumber(DType dtype, Function&& function) {
  if (dtype == DType::kFloat64) {
    function(Float64{});
  } else {
    function(Float32{});
  }
}

const char* Offset(const void* data, int64_t elements, DType dtype) {
  return static_cast<const char*>(data) + elements * ElementBytes(dtype);
}
char* Offset(void* data, int64_t elements, DType dtype) {
  return static_cast<char*>(data) + elements * ElementBytes(dtype);
}

// ---- Top k ---------------------------------------------------------------------------------------------------

// Writes the indices and the values of the selected entries of a row.
template <class T>
void ListSelected(const typename T::Bits* x, const uint8_t* selected, int64_t n, typename T::Bits* values,
                  int32_t* indices) {
  for (int64_t byte = 0; byte < BitmaskBytes(n); byte += 8) {
    uint64_t word = 0;
    std::memcpy(&word, selected + byte, std::min<int64_t>(8, BitmaskBytes(n) - byte));
    for (; word != 0; word &= word - 1) {
      const auto i = static_cast<int32_t>(8 * byte + __builtin_ctzll(word));
      *indices++ = i;
      *values++ = x[i];
    }
  }
}

// ---- Encode --------------------------------------------------------------------------------------------------

// How Encode divides its work. A task finds candidates for a chunk of examples among a range of latents.
struct Tasks {
  int64_t chunk;  // examples, a multiple of a panel
  int64_t chunks;
  int64_t range;  // latents, a multiple of a tile
  int64_t ranges;
  int64_t capacity;  // candidates of an example in one task
};

Tasks DivideEncode(const EncodeArgs& args, const SparseKernels& kernels) {
  // Half of the second-level cache of most processors. All latents pass by a chunk, which stays there.
  constexpr int64_t kChunkBytes = int64_t{1} << 20;
  constexpr int64_t kCandidatesBytes = int64_t{1} << 25;
  const int64_t panel = kernels.panel_bytes / NumberBytes(args.dtype);
  Tasks tasks;
  tasks.capacity = std::min(args.n, std::max<int64_t>(4 * args.k, 64)) + 1;
  const int64_t largest =
      std::min(kChunkBytes / (args.d * NumberBytes(args.dtype) + 1), kCandidatesBytes / (tasks.capacity * 12));
  const int64_t chunk = std::max(panel, largest / panel * panel);
  tasks.chunk = RoundUp(Ceil(args.rows, Ceil(args.rows, chunk)), panel);
  tasks.chunks = Ceil(args.rows, tasks.chunk);
  // Several tasks per thread, because threads differ in speed. A range has many times k latents, because its first k
  // all become candidates.
  tasks.ranges = 1;
  const int64_t wanted = 4 * args.threads;
  if (args.threads > 1 && tasks.chunks < wanted) {
    tasks.ranges = std::clamp<int64_t>(Ceil(wanted, tasks.chunks), 1,
                                       std::max<int64_t>(1, args.n / std::max<int64_t>(8 * args.k, 256)));
  }
  tasks.range = RoundUp(Ceil(args.n, tasks.ranges), kernels.latents_per_tile);
  tasks.ranges = Ceil(args.n, tasks.range);
  return tasks;
}

// Lists of candidates, one for each example.
struct CandidateLists {
  CandidateLists(int64_t examples, int64_t capacity, int64_t number_bytes)
      : numbers(examples * capacity * number_bytes),
        latents(examples * capacity * sizeof(int32_t)),
        counts(examples * sizeof(int64_t)) {}
  Memory numbers, latents, counts;
};

// Finds the candidates of a task in lists that begin at `first`.
void FindTask(const EncodeArgs& args, const SparseKernels& kernels, const Tasks& tasks, int64_t chunk, int64_t range,
              const CandidateLists& lists, int64_t first) {
  FindCandidatesArgs find;
  find.encode = &args;
  find.example_begin = chunk * tasks.chunk;
  find.example_end = std::min(args.rows, find.example_begin + tasks.chunk);
  find.latent_begin = range * tasks.range;
  find.latent_end = std::min(args.n, find.latent_begin + tasks.range);
  const int64_t bytes = NumberBytes(args.dtype), panel = kernels.panel_bytes / bytes;
  const int64_t examples = RoundUp(find.example_end - find.example_begin, panel);
  const Memory panels(examples * args.d * bytes), thresholds(examples * bytes);
  const Memory latent_rows(ElementBytes(args.kernel_dtype) == 2 ? kernels.latents_per_tile * args.d * bytes : 0);
  find.panels = panels.get();
  find.thresholds = thresholds.get();
  find.latent_rows = latent_rows.get();
  find.numbers = lists.numbers.get<char>() + first * tasks.capacity * bytes;
  find.latents = lists.latents.get<int32_t>() + first * tasks.capacity;
  find.counts = lists.counts.get<int64_t>() + first;
  find.capacity = tasks.capacity;
  kernels.find_candidates(find);
}

// Writes the k greatest of a row's candidates.
void WriteGreatest(const EncodeArgs& args, const SparseKernels& kernels, int64_t row, void* numbers, int32_t* latents,
                   int64_t count) {
  kernels.keep_greatest(args.dtype, numbers, latents, count, args.k);
  std::copy(latents, latents + args.k, args.indices + row * args.k);
  WithDType(args.dtype, [&](auto traits) {
    using T = decltype(traits);
    auto* values = static_cast<typename T::Bits*>(args.values) + row * args.k;
    const auto* from = static_cast<const typename T::Number*>(numbers);
    for (int64_t j = 0; j < args.k; ++j) values[j] = T::FromNumber(from[j]);
  });
}

// Converts half types to numbers. Other dtypes stay where they are.
const void* AsNumbers(const void* values, int64_t count, DType dtype, Memory* memory) {
  if (ElementBytes(dtype) != 2) return values;
  *memory = Memory(count * sizeof(float));
  WithDType(dtype, [&](auto traits) {
    using T = decltype(traits);
    const auto* bits = static_cast<const typename T::Bits*>(values);
    for (int64_t i = 0; i < count; ++i) memory->get<float>()[i] = static_cast<float>(T::ToNumber(bits[i]));
  });
  return memory->get();
}

// Nanoseconds for a sum or a product of `terms` rows of d numbers in the second-level cache.
int64_t RowsCost(int64_t terms, int64_t d) { return terms * d / 16 + 20; }

AdamStep StepOf(const AdamArgs& args) {
  AdamStep step{};
  step.dtype = args.dtype;
  step.alpha = args.alpha;
  step.beta_1 = args.beta_1;
  step.beta_2 = args.beta_2;
  step.epsilon = args.epsilon;
  return step;
}

void MoveTo(AdamStep* step, const AdamArgs& args, int64_t first, int64_t count) {
  step->count = count;
  step->variable = Offset(args.variable, first, args.dtype);
  step->m = Offset(args.m, first, args.dtype);
  step->v = Offset(args.v, first, args.dtype);
}

// Steps the rows [0, n). `gradient_of(i)` is the gradient of the row latents[i].
template <class GradientOf>
void StepRows(const AdamArgs& args, const int32_t* latents, int64_t used, const ParallelFor& parallel_for,
              int64_t extra_cost, const GradientOf& gradient_of) {
  const SparseKernels& kernels = CurrentKernels();
  parallel_for(args.n, args.d / 2 + extra_cost + 1, [&](int64_t begin, int64_t end) {
    const ScopedFlushDenormals flush;
    const Memory scratch(args.d * NumberBytes(args.dtype));
    AdamStep step = StepOf(args);
    int64_t i = std::lower_bound(latents, latents + used, static_cast<int32_t>(begin)) - latents;
    for (int64_t row = begin; row < end; ++row) {
      MoveTo(&step, args, row * args.d, args.d);
      step.gradient = i < used && latents[i] == row ? gradient_of(i++, scratch.get()) : nullptr;
      kernels.adam(step);
    }
  });
}

}  // namespace

void TopK(const TopKArgs& args, const ParallelFor& parallel_for) {
  // Separate writes its products to a buffer that stays in the second-level cache.
  constexpr int64_t kBlockBytes = 1 << 17;
  const int64_t row_bytes = args.n * ElementBytes(args.dtype);
  const auto select = [&](int64_t first, int64_t rows, void* y, uint8_t* selected, int threads,
                          const ParallelFor& loop) {
    SeparateArgs separate{};
    separate.dtype = args.dtype;
    separate.score = args.score;
    separate.rows = rows;
    separate.n = args.n;
    separate.k = args.k;
    separate.separation = 1;
    separate.x = Offset(args.x, first * args.n, args.dtype);
    separate.y = y;
    separate.selected = selected;
    separate.threads = threads;
    Separate(separate, loop);
    WithDType(args.dtype, [&](auto traits) {
      using T = decltype(traits);
      const auto* x = static_cast<const typename T::Bits*>(args.x);
      for (int64_t row = first; row < first + rows; ++row) {
        ListSelected<T>(x + row * args.n, selected + (row - first) * BitmaskBytes(args.n), args.n,
                        static_cast<typename T::Bits*>(args.values) + row * args.k, args.indices + row * args.k);
      }
    });
  };
  if (args.rows < args.threads) {
    // Long rows are split among threads.
    const Memory y(args.rows * row_bytes), selected(args.rows * BitmaskBytes(args.n));
    select(0, args.rows, y.get(), selected.get<uint8_t>(), args.threads, parallel_for);
    return;
  }
  const ParallelFor here = [](int64_t total, int64_t, const auto& work) { work(0, total); };
  parallel_for(args.rows, args.n / 2 + 1, [&](int64_t begin, int64_t end) {
    const int64_t block = std::clamp<int64_t>(kBlockBytes / (row_bytes + 1), 1, end - begin);
    const Memory y(block * row_bytes), selected(block * BitmaskBytes(args.n));
    for (int64_t first = begin; first < end; first += block) {
      select(first, std::min(block, end - first), y.get(), selected.get<uint8_t>(), 1, here);
    }
  });
}

void Encode(const EncodeArgs& args, const ParallelFor& parallel_for) {
  if (args.rows == 0 || args.k == 0) return;
  const SparseKernels& kernels = CurrentKernels();
  const Tasks tasks = DivideEncode(args, kernels);
  const int64_t bytes = NumberBytes(args.dtype);
  // Nanoseconds: 30 products each.
  const int64_t cost = tasks.chunk * tasks.range / 30 * args.d + 1;
  if (tasks.ranges == 1) {
    parallel_for(tasks.chunks, cost, [&](int64_t begin, int64_t end) {
      const ScopedFlushDenormals flush;
      const CandidateLists lists(tasks.chunk, tasks.capacity, bytes);
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        FindTask(args, kernels, tasks, chunk, 0, lists, 0);
        const int64_t first = chunk * tasks.chunk, count = std::min(args.rows - first, tasks.chunk);
        for (int64_t i = 0; i < count; ++i) {
          WriteGreatest(args, kernels, first + i, lists.numbers.get<char>() + i * tasks.capacity * bytes,
                        lists.latents.get<int32_t>() + i * tasks.capacity, lists.counts.get<int64_t>()[i]);
        }
      }
    });
    return;
  }
  const int64_t rows = tasks.chunks * tasks.chunk;
  const CandidateLists lists(tasks.ranges * rows, tasks.capacity, bytes);
  parallel_for(tasks.chunks * tasks.ranges, cost, [&](int64_t begin, int64_t end) {
    const ScopedFlushDenormals flush;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t range = task / tasks.chunks, chunk = task % tasks.chunks;
      FindTask(args, kernels, tasks, chunk, range, lists, range * rows + chunk * tasks.chunk);
    }
  });
  parallel_for(args.rows, tasks.ranges * args.k + 100, [&](int64_t begin, int64_t end) {
    const ScopedFlushDenormals flush;
    // The lists of all ranges, one after another: ascending by latent.
    const CandidateLists together(1, tasks.ranges * tasks.capacity, bytes);
    for (int64_t row = begin; row < end; ++row) {
      int64_t count = 0;
      for (int64_t range = 0; range < tasks.ranges; ++range) {
        const int64_t list = range * rows + row, length = lists.counts.get<int64_t>()[list];
        std::memcpy(together.numbers.get<char>() + count * bytes,
                    lists.numbers.get<char>() + list * tasks.capacity * bytes, length * bytes);
        std::copy_n(lists.latents.get<int32_t>() + list * tasks.capacity, length,
                    together.latents.get<int32_t>() + count);
        count += length;
      }
      WriteGreatest(args, kernels, row, together.numbers.get(), together.latents.get<int32_t>(), count);
    }
  });
}

void Decode(const DecodeArgs& args, const ParallelFor& parallel_for) {
  const SparseKernels& kernels = CurrentKernels();
  Memory numbers;
  GatherSumArgs sums{};
  sums.table_dtype = args.kernel_dtype;
  sums.out_dtype = args.dtype;
  sums.d = args.d;
  sums.k = args.k;
  sums.coefficients = AsNumbers(args.values, args.rows * args.k, args.dtype, &numbers);
  sums.rows = args.indices;
  sums.table = args.kernel;
  sums.base = args.bias;
  sums.out = args.y;
  parallel_for(args.rows, RowsCost(args.k, args.d), [&](int64_t begin, int64_t end) {
    const ScopedFlushDenormals flush;
    kernels.gather_sum(sums, begin, end);
  });
}

void GatherDot(const GatherDotArgs& args, const ParallelFor& parallel_for) {
  const SparseKernels& kernels = CurrentKernels();
  parallel_for(args.rows, RowsCost(args.k, args.d), [&](int64_t begin, int64_t end) {
    const ScopedFlushDenormals flush;
    const Memory scratch(ElementBytes(args.dtype) == 2 ? args.d * sizeof(float) : 0);
    kernels.gather_dot(args, begin, end, scratch.get());
  });
}

TransposedCode Transpose(const TransposeArgs& args) {
  const ScopedFlushDenormals flush;  // a denormal value is zero
  TransposedCode code;
  Memory memory;
  const void* numbers = AsNumbers(args.values, args.rows * args.k, args.dtype, &memory);
  WithNumber(args.dtype, [&](auto traits) {
    using Number = typename decltype(traits)::Number;
    const auto* values = static_cast<const Number*>(numbers);
    const int64_t entries = args.rows * args.k;
    std::vector<int64_t> uses(args.n);
    for (int64_t entry = 0; entry < entries; ++entry) uses[args.indices[entry]] += values[entry] != 0;
    // uses[latent] becomes the place of the latent's next use.
    int64_t total = 0;
    for (int64_t latent = 0; latent < args.n; ++latent) {
      const int64_t count = uses[latent];
      uses[latent] = total;
      if (count == 0) continue;
      code.latents.push_back(static_cast<int32_t>(latent));
      code.begins.push_back(total);
      total += count;
    }
    code.begins.push_back(total);
    code.examples.resize(total);
    code.values.resize(total * sizeof(Number));
    auto* sorted = reinterpret_cast<Number*>(code.values.data());
    for (int64_t row = 0; row < args.rows; ++row) {
      for (int64_t entry = row * args.k; entry < (row + 1) * args.k; ++entry) {
        if (values[entry] == 0) continue;
        const int64_t use = uses[args.indices[entry]]++;
        code.examples[use] = static_cast<int32_t>(row);
        sorted[use] = values[entry];
      }
    }
  });
  return code;
}

namespace {

GatherSumArgs SumsOf(const SumRowsArgs& args) {
  GatherSumArgs sums{};
  sums.table_dtype = args.dtype;
  sums.out_dtype = args.kernel_dtype;
  sums.d = args.d;
  sums.begins = args.code->begins.data();
  sums.coefficients = args.code->values.data();
  sums.rows = args.code->examples.data();
  sums.table = args.x;
  sums.out = args.sums;
  return sums;
}

int64_t UsesPerLatent(const TransposedCode& code) {
  return static_cast<int64_t>(code.examples.size() / std::max<size_t>(1, code.latents.size()));
}

}  // namespace

void SumRows(const SumRowsArgs& args, const ParallelFor& parallel_for) {
  const SparseKernels& kernels = CurrentKernels();
  const GatherSumArgs sums = SumsOf(args);
  parallel_for(static_cast<int64_t>(args.code->latents.size()), RowsCost(UsesPerLatent(*args.code), args.d),
               [&](int64_t begin, int64_t end) {
                 const ScopedFlushDenormals flush;
                 kernels.gather_sum(sums, begin, end);
               });
}

void Adam(const AdamArgs& args, const ParallelFor& parallel_for) {
  if (args.latents != nullptr) {
    StepRows(args, args.latents, args.used, parallel_for, 0,
             [&](int64_t i, void*) { return Offset(args.gradient, i * args.d, args.dtype); });
    return;
  }
  constexpr int64_t kBlock = 4096;
  const SparseKernels& kernels = CurrentKernels();
  const int64_t count = args.n * args.d;
  parallel_for(Ceil(count, kBlock), kBlock / 2, [&](int64_t begin, int64_t end) {
    const ScopedFlushDenormals flush;
    AdamStep step = StepOf(args);
    const int64_t first = begin * kBlock;
    MoveTo(&step, args, first, std::min(count, end * kBlock) - first);
    step.gradient = Offset(args.gradient, first, args.dtype);
    kernels.adam(step);
  });
}

void SumRowsAdam(const AdamArgs& adam, const SumRowsArgs& rows, const ParallelFor& parallel_for) {
  const SparseKernels& kernels = CurrentKernels();
  const TransposedCode& code = *rows.code;
  const GatherSumArgs sums = SumsOf(rows);
  const int64_t extra = static_cast<int64_t>(code.examples.size()) * adam.d / 16 / std::max<int64_t>(1, adam.n);
  StepRows(adam, code.latents.data(), static_cast<int64_t>(code.latents.size()), parallel_for, extra,
           [&](int64_t i, void* scratch) {
             GatherSumArgs row = sums;
             row.begins += i;
             row.out = scratch;
             kernels.gather_sum(row, 0, 1);
             return static_cast<const char*>(scratch);
           });
}

}  // namespace separationfactor
