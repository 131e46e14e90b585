// A small emulator of CUDA's execution model, in which the kernels of cc/core/cuda run as host code.
//
// Each thread of a block is a fibre. A fibre runs until it waits: at a shuffle or ballot for the lanes of its mask, or
// at a barrier for the block. A seed determines which fibre continues and the order of the blocks. The launch ends with
// an error that names the thread, the operation and the line on
//
//   * a barrier that a thread of the block does not reach, or that threads reach on different lines;
//   * a shuffle, ballot or __syncwarp whose mask leaves out the lane itself, or contains a lane that has ended, waits
//     elsewhere or has another mask; a shuffle that reads from a lane outside the mask;
//   * an access out of bounds or misaligned for its type;
//   * a read of uninitialized memory;
//   * a race: two accesses of the same place that no barrier orders, of which at least one is a write and at least one
//     is not atomic. __syncthreads orders memory within a block, __syncwarp within a warp, and the end of a launch for
//     all. Shuffles, ballots and atomics order nothing. The check compares the positions of the accesses in this order,
//     so it finds a race whichever access runs first;
//   * a launch that takes many times more steps than any kernel here.
//
// Limits: one launch at a time, one host thread, one stream, one-dimensional grids and blocks, dynamic shared memory.

#ifndef SEPARATIONFACTOR_TESTS_SIMT_SIMT_H_
#define SEPARATIONFACTOR_TESTS_SIMT_SIMT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace simt {

// ---- Memory --------------------------------------------------------------------------------------------------

// The thread that accessed a place, and when. kMany means several threads that no barrier orders.
struct Stamp {
  static constexpr int32_t kMany = -1;
  uint32_t launch = 0;  // 0: no access
  int32_t block = 0;
  int32_t warp = 0;
  int32_t lane = 0;
  uint32_t block_epoch = 0;  // barriers of the block so far
  uint32_t warp_epoch = 0;   // calls of __syncwarp so far
};

// The state of a granule of memory.
struct Cell {
  uint32_t generation = 0;
  bool is_initialized = false;
  Stamp write, atomic, read;
};

struct Region {
  std::string name;
  char* begin;
  int64_t bytes;
  int granule;              // bytes per cell, the size of the smallest access
  uint32_t generation = 1;  // cells of an older generation count as untouched
  std::vector<Cell> cells;

  Region(std::string name, char* begin, int64_t bytes, int granule);
  Cell& CellAt(int64_t offset);
  bool IsInitialized();
};

// Device memory: uninitialized, filled with garbage, at `misalignment` bytes after a multiple of 256.
class Memory {
 public:
  Memory(const char* name, int64_t bytes, int granule, int misalignment = 0);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  char* data() { return region_.begin; }
  void Initialize();  // marks the current contents as initialized
  bool IsInitialized() { return region_.IsInitialized(); }

 private:
  std::vector<char> bytes_;
  Region region_;
};

// Returns the region that contains an address or ends at it. Fails if there is none.
Region* FindRegion(const void* address);

enum class Access { kRead, kWrite, kAtomic };
// Ends the launch with an error if the current thread may not make this access.
void Check(Region* region, const void* address, int64_t bytes, int64_t alignment, Access access);

template <class T>
class Reference {
 public:
  using Value = std::remove_const_t<T>;
  Reference(Region* region, T* address) : region_(region), address_(address) {}
  Reference(const Reference&) = default;
  operator Value() const {
    Check(region_, address_, sizeof(T), alignof(T), Access::kRead);
    Value value;
    std::memcpy(&value, address_, sizeof(T));
    return value;
  }
  const Reference& operator=(const Value& value) const {
    Check(region_, address_, sizeof(T), alignof(T), Access::kWrite);
    std::memcpy(address_, &value, sizeof(T));
    return *this;
  }
  const Reference& operator=(const Reference& other) const { return *this = static_cast<Value>(other); }

 private:
  Region* region_;
  T* address_;
};

template <class T>
class Pointer {
 public:
  Pointer() = default;
  Pointer(std::nullptr_t) {}
  Pointer(Region* region, T* address) : region_(region), address_(address) {}
  template <class U, class = std::enable_if_t<std::is_same_v<const U, T>>>
  Pointer(const Pointer<U>& other) : region_(other.region()), address_(other.address()) {}

  Reference<T> operator[](int64_t i) const { return {region_, At(i)}; }
  Pointer operator+(int64_t i) const { return {region_, At(i)}; }
  int64_t operator-(Pointer other) const { return address_ - other.address_; }
  bool operator==(std::nullptr_t) const { return address_ == nullptr; }
  bool operator!=(std::nullptr_t) const { return address_ != nullptr; }
  Region* region() const { return region_; }
  T* address() const { return address_; }

 private:
  // Computed as integers, because C++ has no pointers outside an object. Only an access out of bounds is an error here.
  T* At(int64_t i) const {
    return reinterpret_cast<T*>(reinterpret_cast<intptr_t>(address_) + i * static_cast<int64_t>(sizeof(T)));
  }
  Region* region_ = nullptr;
  T* address_ = nullptr;
};

template <class T>
Pointer<T> Find(const void* address) {
  if (address == nullptr) return nullptr;
  return {FindRegion(address), static_cast<T*>(const_cast<void*>(address))};
}

template <class To, class From>
Pointer<To> Cast(Pointer<From> pointer) {
  return {pointer.region(), reinterpret_cast<To*>(pointer.address())};
}

template <class T>
bool IsWide(Pointer<T> pointer) {
  return reinterpret_cast<uintptr_t>(pointer.address()) % 16 == 0;
}

template <class T>
int BytesIntoWord(Pointer<T> pointer) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(pointer.address()) % 4);
}

Region* SharedRegion();

template <class T>
Pointer<T> Shared(int offset) {
  return {SharedRegion(), reinterpret_cast<T*>(SharedRegion()->begin + offset)};
}

// ---- Threads -------------------------------------------------------------------------------------------------

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
extern Index thread_index, block_index, block_size, grid_size;

// A source line of a kernel.
struct Site {
  const char* file;
  int line;
  bool operator==(const Site& other) const { return file == other.file && line == other.line; }
  static Site Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// Runs a collective of the lanes of a warp. Returns the result of the calling lane.
enum class Collective { kBallot, kShuffle, kShuffleXor, kShuffleUp, kShuffleDown, kSyncWarp };
uint64_t WithWarp(Collective collective, uint32_t mask, uint64_t value, int lane, Site site);
void SyncThreads(Site site);
// Occasionally lets other fibres run.
void MayYield();

// ---- Launches ------------------------------------------------------------------------------------------------

// The maximum shared memory of a block on the emulated GPU. More than 48 KB must be requested explicitly.
constexpr int kMaxThreads = 1024;
constexpr int kSharedBytesUnasked = 48 * 1024;
void SetSharedLimit(int bytes);
// Implements cudaFuncSetAttribute.
bool AllowShared(const void* kernel, int bytes);

// The order in which fibres and blocks run. 0: first come first, 1: last come first, other seeds: random.
void SetSchedule(uint64_t seed);

// Returns the first error since the last call, or an empty string.
std::string TakeError();

// Runs body(context) on every thread. Returns whether there was no error.
bool Run(const void* kernel, int64_t blocks, int threads, int64_t shared_bytes, void (*body)(const void*),
         const void* context);

}  // namespace simt

#endif  // SEPARATIONFACTOR_TESTS_SIMT_SIMT_H_
