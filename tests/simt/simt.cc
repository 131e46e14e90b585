#include "simt/simt.h"

#include <sys/mman.h>

#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <numeric>
#include <random>

#include "cuda_runtime.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr int kWarp = 32;

// ---- Fibres --------------------------------------------------------------------------------------------------

#if defined(__x86_64__)

// Pushes the callee-saved registers and stores the stack pointer in *save. Continues where `load` was saved. The switch
// of a library makes a system call for the signal mask, which takes twenty times as long.
extern "C" void SimtSwitch(void** save, void* load);
asm(R"(
.text
.globl SimtSwitch
.type SimtSwitch, @function
SimtSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size SimtSwitch, .-SimtSwitch
)");

struct Context {
  void* stack_pointer = nullptr;
  void Prepare(char* stack, size_t bytes, void (*entry)()) {
    // Looks like a call of `entry`: its return address, which it must not use, is 8 bytes off a multiple of 16.
    auto** top = reinterpret_cast<void**>(stack + bytes) - 1;
    *top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    stack_pointer = top - 6;
    std::fill(top - 6, top, nullptr);
  }
  static void Switch(Context& from, Context& to) { SimtSwitch(&from.stack_pointer, to.stack_pointer); }
};

#else

struct Context {
  ucontext_t context;
  void Prepare(char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  static void Switch(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
};

#endif

// The maximum number of steps of a launch, ten times that of any test.
constexpr int64_t kMaxSteps = 20'000'000;
constexpr size_t kStackBytes = 256 * 1024;

struct Fibre {
  Context context;
  char* stack = nullptr;
  int thread = 0;
  Site site{};  // the line where it waits
  Collective collective{};
  uint32_t mask = 0;
  uint64_t value = 0;
  int lane_argument = 0;
  uint64_t result = 0;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif
};

// The lanes of a warp that wait, and where.
struct Warp {
  uint32_t at_collective = 0, at_barrier = 0, ended = 0;
  uint32_t epoch = 0;
};

// A fast generator whose quality suffices for a schedule.
struct Random {
  uint64_t state = 1;
  uint64_t operator()() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 16;
  }
};

struct Machine {
  std::vector<Fibre> fibres = std::vector<Fibre>(kMaxThreads);
  Context scheduler;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  const void* stack = nullptr;
  size_t stack_bytes = 0;
#endif
  Fibre* current = nullptr;
  std::deque<Fibre*> runnable;
  int threads = 0;
  int at_barrier = 0;
  Site barrier_site{};
  int ended = 0;
  uint32_t block_epoch = 0;
  std::vector<Warp> warps;

  void (*body)(const void*) = nullptr;
  const void* body_context = nullptr;
  uint32_t launch = 0;
  int64_t steps = 0;  // accesses and switches in this launch
  int32_t block = 0;
  bool has_failed = false;
  std::string error;

  uint64_t schedule = 0;
  Random rng;
  std::vector<char> shared_bytes;
  Region shared = Region("shared memory", nullptr, 0, 2);
  int shared_limit = 227 * 1024;
  std::map<const void*, int> shared_asked;

  std::map<const char*, Region*> regions;  // keyed by start address
};

Machine the_machine;
inline Machine& TheMachine() { return the_machine; }

void SwitchToScheduler(bool for_good) {
  Machine& m = TheMachine();
  Fibre& fibre = *m.current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fibre.fake_stack, m.stack, m.stack_bytes);
#else
  (void)for_good;
#endif
  Context::Switch(fibre.context, m.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fibre.fake_stack, &m.stack, &m.stack_bytes);
#endif
}

// Ends the launch. Does not return on a fibre.
__attribute__((format(printf, 1, 2))) void Fail(const char* format, ...) {
  Machine& m = TheMachine();
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  if (m.error.empty()) {
    m.error = text;
    if (m.current != nullptr) {
      m.error += " (thread " + std::to_string(m.current->thread) + " of block " + std::to_string(m.block) + ")";
    }
  }
  m.has_failed = true;
  if (m.current != nullptr) SwitchToScheduler(true);
}

// Fails if another lane waits at a collective for this one, which has ended or is about to wait at a barrier.
void CheckNotAwaited(const Fibre& fibre, const char* what) {
  const Machine& m = TheMachine();
  const int lane = fibre.thread % kWarp, first = fibre.thread - lane;
  const uint32_t waiting = m.warps[first / kWarp].at_collective;
  if (waiting == 0) return;
  for (int other = 0; other < kWarp; ++other) {
    if (!(waiting >> other & 1)) continue;
    const Fibre& there = m.fibres[first + other];
    if (there.mask >> lane & 1) {
      Fail("inactive lane: lane %d %s, and lane %d waits for it at %s:%d", lane, what, other, there.site.file,
           there.site.line);
    }
  }
}

void MakeRunnable(Fibre& fibre) { TheMachine().runnable.push_back(&fibre); }

void Enter() {
  Machine& m = TheMachine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &m.stack, &m.stack_bytes);
#endif
  m.body(m.body_context);
  Fibre& fibre = *m.current;
  if (m.at_barrier > 0) Fail("divergent barrier: a thread ended while others wait at a barrier");
  CheckNotAwaited(fibre, "has ended");
  m.warps[fibre.thread / kWarp].ended |= 1u << fibre.thread % kWarp;
  ++m.ended;
  SwitchToScheduler(true);
  std::abort();
}

Fibre* Next() {
  Machine& m = TheMachine();
  if (m.schedule == 0) {
    Fibre* const first = m.runnable.front();
    m.runnable.pop_front();
    return first;
  }
  if (m.schedule > 1) std::swap(m.runnable[m.rng() % m.runnable.size()], m.runnable.back());
  Fibre* const last = m.runnable.back();
  m.runnable.pop_back();
  return last;
}

void RunBlock() {
  Machine& m = TheMachine();
  m.runnable.clear();
  m.at_barrier = m.ended = 0;
  m.block_epoch = 0;
  m.warps.assign((m.threads + kWarp - 1) / kWarp, Warp{});
  ++m.shared.generation;
  std::fill(m.shared_bytes.begin(), m.shared_bytes.end(), static_cast<char>(0xA5));
  for (int thread = 0; thread < m.threads; ++thread) {
    Fibre& fibre = m.fibres[thread];
    if (fibre.stack == nullptr) {
      void* stack =
          mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (stack == MAP_FAILED) std::abort();
      fibre.stack = static_cast<char*>(stack);
    }
#if defined(__SANITIZE_ADDRESS__)
    // The previous fibre on this stack may not have ended.
    __asan_unpoison_memory_region(fibre.stack, kStackBytes);
    fibre.fake_stack = nullptr;
#endif
    fibre.thread = thread;
    // Staggers the stacks. At the same offset within a page they would share a few cache lines.
    fibre.context.Prepare(fibre.stack, kStackBytes - thread * 5 % 64 * 64, Enter);
    MakeRunnable(fibre);
  }
  while (!m.has_failed && m.ended < m.threads) {
    if (++m.steps > kMaxSteps) {
      Fail("endless: block %d goes on and on", m.block);
      break;
    }
    if (m.runnable.empty()) {
      Fail("deadlock: no thread of block %d can go on", m.block);
      break;
    }
    Fibre* fibre = Next();
    m.current = fibre;
    thread_index.x = static_cast<unsigned>(fibre->thread);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&m.fake_stack, fibre->stack, kStackBytes);
#endif
    Context::Switch(m.scheduler, fibre->context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(m.fake_stack, nullptr, nullptr);
#endif
    m.current = nullptr;
  }
}

// ---- The order of accesses -----------------------------------------------------------------------------------

Stamp Now() {
  const Machine& m = TheMachine();
  const int thread = m.current->thread, warp = thread / kWarp;
  return {m.launch, m.block, warp, thread % kWarp, m.block_epoch, m.warps[warp].epoch};
}

bool IsBefore(const Stamp& stamp, const Stamp& now) {
  if (stamp.launch != now.launch) return true;
  if (stamp.block != now.block) return false;
  if (stamp.block_epoch != now.block_epoch) return true;
  if (stamp.warp != now.warp) return false;
  return stamp.lane == now.lane || stamp.warp_epoch != now.warp_epoch;
}

void Merge(Stamp& stamp, const Stamp& now) {
  if (IsBefore(stamp, now)) {
    stamp = now;
  } else if (stamp.block != now.block) {
    stamp.block = Stamp::kMany;
  } else if (stamp.warp != now.warp) {
    stamp.warp = Stamp::kMany;
  } else {
    stamp.lane = Stamp::kMany;
  }
}

// Uses static memory, because a fibre that ends here does not run destructors.
const char* Who(const Stamp& stamp) {
  static char text[80];
  if (stamp.block == Stamp::kMany) return "several blocks";
  if (stamp.warp == Stamp::kMany) {
    std::snprintf(text, sizeof(text), "several warps of block %d", stamp.block);
  } else if (stamp.lane == Stamp::kMany) {
    std::snprintf(text, sizeof(text), "several lanes of warp %d of block %d", stamp.warp, stamp.block);
  } else {
    std::snprintf(text, sizeof(text), "thread %d of block %d", stamp.warp * kWarp + stamp.lane, stamp.block);
  }
  return text;
}

void CheckOrder(const Region& region, int64_t offset, const Stamp& stamp, const Stamp& now, const char* before,
                const char* after) {
  if (IsBefore(stamp, now)) return;
  Fail("race: %s of %s at byte %" PRId64 ", after %s by %s with no barrier between", after, region.name.c_str(), offset,
       before, Who(stamp));
}

const char* NameOf(Access access) {
  switch (access) {
    case Access::kRead:
      return "read";
    case Access::kWrite:
      return "write";
    case Access::kAtomic:
      return "atomic";
  }
  return "";
}

}  // namespace

// ---- Memory --------------------------------------------------------------------------------------------------

Region::Region(std::string region_name, char* region_begin, int64_t region_bytes, int region_granule)
    : name(std::move(region_name)),
      begin(region_begin),
      bytes(region_bytes),
      granule(region_granule),
      cells((region_bytes + region_granule - 1) / region_granule) {}

Cell& Region::CellAt(int64_t offset) {
  Cell& cell = cells[offset / granule];
  if (cell.generation != generation) {
    cell = Cell{};
    cell.generation = generation;
  }
  return cell;
}

bool Region::IsInitialized() {
  for (int64_t offset = 0; offset < bytes; offset += granule) {
    if (!CellAt(offset).is_initialized) return false;
  }
  return true;
}

namespace {
constexpr int kAlignment = 256;
char* Aligned(char* address, int misalignment) {
  const auto number = reinterpret_cast<uintptr_t>(address);
  return address + ((kAlignment - number % kAlignment) % kAlignment + misalignment);
}
}  // namespace

Memory::Memory(const char* name, int64_t bytes, int granule, int misalignment)
    : bytes_(bytes + 2 * kAlignment, static_cast<char>(0xA5)),
      region_(name, Aligned(bytes_.data(), misalignment), bytes, granule) {
  TheMachine().regions[region_.begin] = &region_;
}

Memory::~Memory() { TheMachine().regions.erase(region_.begin); }

void Memory::Initialize() {
  for (int64_t offset = 0; offset < region_.bytes; offset += region_.granule) {
    region_.CellAt(offset).is_initialized = true;
  }
}

Region* FindRegion(const void* address) {
  const auto& regions = TheMachine().regions;
  auto after = regions.upper_bound(static_cast<const char*>(address));
  if (after != regions.begin()) {
    Region* const region = (--after)->second;
    if (static_cast<const char*>(address) <= region->begin + region->bytes) return region;
  }
  std::fprintf(stderr, "simt: a kernel was given an address of no device memory: %p\n", address);
  std::abort();
}

Region* SharedRegion() { return &TheMachine().shared; }

void Check(Region* region, const void* address, int64_t bytes, int64_t alignment, Access access) {
  if (region == nullptr) Fail("out of bounds: %s through a null pointer", NameOf(access));
  const int64_t offset = reinterpret_cast<intptr_t>(address) - reinterpret_cast<intptr_t>(region->begin);
  const char* const name = region->name.c_str();
  if (offset < 0 || offset + bytes > region->bytes) {
    Fail("out of bounds: %s of %" PRId64 " bytes at byte %" PRId64 " of the %" PRId64 " of %s", NameOf(access), bytes,
         offset, region->bytes, name);
  }
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0) {
    Fail("misaligned: %s of %" PRId64 " bytes at byte %" PRId64 " of %s", NameOf(access), bytes, offset, name);
  }
  if (bytes % region->granule != 0 || offset % region->granule != 0) {
    Fail("granule: %s of %" PRId64 " bytes at byte %" PRId64 " of %s, which is watched %d bytes at a time",
         NameOf(access), bytes, offset, name, region->granule);
  }
  if (++TheMachine().steps > kMaxSteps)
    Fail("endless: a thread goes on and on, at byte %" PRId64 " of %s", offset, name);
  const Stamp now = Now();
  for (int64_t at = offset; at < offset + bytes; at += region->granule) {
    Cell& cell = region->CellAt(at);
    if (access != Access::kWrite && !cell.is_initialized) {
      Fail("uninitialized: %s of %s at byte %" PRId64 ", which nothing has written", NameOf(access), name, at);
    }
    CheckOrder(*region, at, cell.write, now, "a write", NameOf(access));
    if (access != Access::kAtomic) CheckOrder(*region, at, cell.atomic, now, "an atomic", NameOf(access));
    if (access != Access::kRead) CheckOrder(*region, at, cell.read, now, "a read", NameOf(access));
    switch (access) {
      case Access::kRead:
        Merge(cell.read, now);
        break;
      case Access::kWrite:
        cell.is_initialized = true;
        cell.write = now;
        break;
      case Access::kAtomic:
        Merge(cell.atomic, now);
        break;
    }
  }
}

// ---- Collectives ---------------------------------------------------------------------------------------------

void SyncThreads(Site site) {
  Machine& m = TheMachine();
  Fibre& fibre = *m.current;
  if (m.ended > 0) Fail("divergent barrier: at %s:%d, where a thread has ended", site.file, site.line);
  if (m.at_barrier == 0) m.barrier_site = site;
  if (!(m.barrier_site == site)) {
    Fail("divergent barrier: at %s:%d, while others wait at %s:%d", site.file, site.line, m.barrier_site.file,
         m.barrier_site.line);
  }
  CheckNotAwaited(fibre, "is at a barrier");
  m.warps[fibre.thread / kWarp].at_barrier |= 1u << fibre.thread % kWarp;
  if (++m.at_barrier == m.threads) {
    m.at_barrier = 0;
    ++m.block_epoch;
    for (Warp& warp : m.warps) warp.at_barrier = 0;
    for (int thread = 0; thread < m.threads; ++thread) MakeRunnable(m.fibres[thread]);
  }
  SwitchToScheduler(false);
}

uint64_t WithWarp(Collective collective, uint32_t mask, uint64_t value, int lane_argument, Site site) {
  Machine& m = TheMachine();
  Fibre& fibre = *m.current;
  const int lane = fibre.thread % kWarp, first = fibre.thread - lane;
  Warp& warp = m.warps[first / kWarp];
  const int lanes = std::min(kWarp, m.threads - first);
  if (collective == Collective::kSyncWarp && mask != 0xFFFFFFFFu) {
    Fail("mask: __syncwarp at %s:%d with mask %08x; only whole warps are emulated", site.file, site.line, mask);
  }
  if (!(mask >> lane & 1)) Fail("mask: lane %d at %s:%d is not in its own mask %08x", lane, site.file, site.line, mask);
  const uint32_t missing = lanes == kWarp ? 0 : ~0u << lanes;
  if (const uint32_t inactive = mask & (warp.ended | warp.at_barrier | missing)) {
    const int other = __builtin_ctz(inactive);
    Fail("inactive lane: the mask %08x at %s:%d names lane %d, which %s", mask, site.file, site.line, other,
         warp.at_barrier >> other & 1 ? "is at a barrier" : "has ended");
  }
  fibre.collective = collective;
  fibre.mask = mask;
  fibre.value = value;
  fibre.lane_argument = lane_argument;
  fibre.site = site;
  warp.at_collective |= 1u << lane;
  if ((warp.at_collective & mask) == mask) {
    for (int other = 0; other < lanes; ++other) {
      const Fibre& there = m.fibres[first + other];
      if (mask >> other & 1 && (there.collective != collective || there.mask != mask || !(there.site == site))) {
        Fail("inactive lane: the mask %08x at %s:%d names lane %d, which waits with mask %08x at %s:%d", mask,
             site.file, site.line, other, there.mask, there.site.file, there.site.line);
      }
    }
    warp.at_collective &= ~mask;
    uint64_t ballot = 0;
    for (int other = 0; other < lanes; ++other) {
      if (mask >> other & 1 && m.fibres[first + other].value != 0) ballot |= uint64_t{1} << other;
    }
    for (int other = 0; other < lanes; ++other) {
      if (!(mask >> other & 1)) continue;
      Fibre& there = m.fibres[first + other];
      int source = other;
      switch (collective) {
        case Collective::kBallot:
          there.result = ballot;
          break;
        case Collective::kShuffle:
          source = there.lane_argument % kWarp;
          break;
        case Collective::kShuffleXor:
          source = other ^ there.lane_argument;
          break;
        case Collective::kShuffleUp:
          source = other - there.lane_argument;
          break;
        case Collective::kShuffleDown:
          source = other + there.lane_argument;
          break;
        case Collective::kSyncWarp:
          break;
      }
      // A source lane outside the warp gives the lane its own value.
      if (source < 0 || source >= kWarp) source = other;
      if (!(mask >> source & 1)) {
        Fail("shuffle: lane %d at %s:%d reads from lane %d, which is not in the mask %08x", other, site.file, site.line,
             source, mask);
      }
      if (collective != Collective::kBallot) there.result = m.fibres[first + source].value;
    }
    if (collective == Collective::kSyncWarp) ++warp.epoch;
    for (int other = 0; other < lanes; ++other) {
      if (mask >> other & 1) MakeRunnable(m.fibres[first + other]);
    }
  }
  SwitchToScheduler(false);
  return fibre.result;
}

void MayYield() {
  Machine& m = TheMachine();
  if (m.schedule < 2 || m.rng() % 8 != 0) return;
  MakeRunnable(*m.current);
  SwitchToScheduler(false);
}

// ---- Launches ------------------------------------------------------------------------------------------------

void SetSharedLimit(int bytes) { TheMachine().shared_limit = bytes; }

bool AllowShared(const void* kernel, int bytes) {
  Machine& m = TheMachine();
  if (bytes > m.shared_limit) return false;
  m.shared_asked[kernel] = bytes;
  return true;
}

void SetSchedule(uint64_t seed) {
  TheMachine().schedule = seed;
  TheMachine().rng.state = seed * 0x9E3779B97F4A7C15u + 1;
}

std::string TakeError() {
  std::string error;
  error.swap(TheMachine().error);
  return error;
}

bool Run(const void* kernel, int64_t blocks, int threads, int64_t shared_bytes, void (*body)(const void*),
         const void* context) {
  Machine& m = TheMachine();
  const auto asked = m.shared_asked.find(kernel);
  const int64_t shared_allowed = asked == m.shared_asked.end() ? kSharedBytesUnasked : asked->second;
  m.has_failed = false;
  if (blocks < 1 || blocks > INT32_MAX || threads < 1 || threads > kMaxThreads || shared_bytes > shared_allowed) {
    Fail("launch: %" PRId64 " blocks of %d threads with %" PRId64
         " bytes of shared memory, of which it may have %" PRId64,
         blocks, threads, shared_bytes, shared_allowed);
    return false;
  }
  m.shared_bytes.resize(shared_bytes + 2 * kAlignment);
  m.shared.begin = Aligned(m.shared_bytes.data(), 0);
  m.shared.bytes = shared_bytes;
  if (static_cast<int64_t>(m.shared.cells.size()) * 2 < shared_bytes) m.shared.cells.resize((shared_bytes + 1) / 2);
  m.body = body;
  m.body_context = context;
  m.threads = threads;
  ++m.launch;
  m.steps = 0;
  block_size.x = static_cast<unsigned>(threads);
  grid_size.x = static_cast<unsigned>(blocks);
  std::vector<int32_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  if (m.schedule == 1) std::reverse(order.begin(), order.end());
  if (m.schedule > 1) std::shuffle(order.begin(), order.end(), std::mt19937(static_cast<unsigned>(m.rng())));
  for (const int32_t block : order) {
    m.block = block;
    block_index.x = static_cast<unsigned>(block);
    RunBlock();
    if (m.has_failed) return false;
  }
  return true;
}

}  // namespace simt

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  simt::Region* const region = simt::FindRegion(address);
  const int64_t begin = static_cast<char*>(address) - region->begin;
  if (begin + static_cast<int64_t>(bytes) > region->bytes) return cudaErrorInvalidValue;
  std::memset(address, value, bytes);
  for (int64_t offset = begin; offset < begin + static_cast<int64_t>(bytes); offset += region->granule) {
    region->CellAt(offset).is_initialized = true;
  }
  return cudaSuccess;
}
