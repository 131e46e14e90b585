// A small emulator of CUDA's execution model, in which the kernels of cc/core/cuda run as host code.
//
// Each thread of a block is a fibre. Fibres run one at a time until they wait: at a shuffle or ballot for the lanes
// in its mask, at a barrier for the block. Who goes on next is drawn by a seed, as is the order of the blocks. What
// a GPU would not forgive ends the launch with an error that says who did what, where:
//
//   * a barrier that a thread of the block does not reach, or at which threads arrive from different lines;
//   * a shuffle, ballot or __syncwarp whose mask names a lane that has ended, waits elsewhere or has another mask,
//     or leaves out the lane itself; a shuffle that reads from a lane outside the mask;
//   * an access outside of its memory, or at an address that its type may not have;
//   * a read of memory that nothing has written;
//   * a race: two accesses of one place, one of them a write, and not both atomic, that no barrier orders. Memory
//     is ordered by __syncthreads within a block, by __syncwarp within a warp, and by the end of a launch; shuffles,
//     ballots and atomics order nothing. The check compares the accesses' places in that order, and so finds a
//     race whichever access comes first;
//   * no end within many times the steps that a kernel here takes.
//
// One launch at a time, one host thread, one stream, one-dimensional grids and blocks, dynamic shared memory.

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

// Who touched a place, and when. kMany stands for several that no barrier orders.
struct Stamp {
  static constexpr int32_t kMany = -1;
  uint32_t launch = 0;  // 0: nobody
  int32_t block = 0;
  int32_t warp = 0;
  int32_t lane = 0;
  uint32_t block_epoch = 0;  // barriers of the block so far
  uint32_t warp_epoch = 0;   // calls of __syncwarp so far
};

// What is known of a granule of memory.
struct Cell {
  uint32_t generation = 0;
  bool is_initialized = false;
  Stamp write, atomic, read;
};

struct Region {
  std::string name;
  char* begin;
  int64_t bytes;
  int granule;              // bytes of a cell: the size of the smallest access
  uint32_t generation = 1;  // cells of an older one are as new
  std::vector<Cell> cells;

  Region(std::string name, char* begin, int64_t bytes, int granule);
  Cell& CellAt(int64_t offset);
  bool IsInitialized();
};

// Device memory: uninitialized, full of dirt, and `misalignment` bytes after a multiple of 256.
class Memory {
 public:
  Memory(const char* name, int64_t bytes, int granule, int misalignment = 0);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  char* data() { return region_.begin; }
  void Initialize();  // as it stands
  bool IsInitialized() { return region_.IsInitialized(); }

 private:
  std::vector<char> bytes_;
  Region region_;
};

// The region that an address lies in, or at whose end it lies; fails if there is none.
Region* FindRegion(const void* address);

enum class Access { kRead, kWrite, kAtomic };
// Ends the launch if the current thread may not do this.
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
  // By way of integers, as an address outside its memory is no pointer in C++; only its use is an error here.
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

// A line of a kernel.
struct Site {
  const char* file;
  int line;
  bool operator==(const Site& other) const { return file == other.file && line == other.line; }
  static Site Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// What the lanes of a warp do together, and what each of them gets.
enum class Collective { kBallot, kShuffle, kShuffleXor, kShuffleUp, kShuffleDown, kSyncWarp };
uint64_t WithWarp(Collective collective, uint32_t mask, uint64_t value, int lane, Site site);
void SyncThreads(Site site);
// Lets others go first, now and then.
void MayYield();

// ---- Launches ------------------------------------------------------------------------------------------------

// What the emulated card allows. A kernel gets more than 48 KB of shared memory only if it has asked for it.
constexpr int kMaxThreads = 1024;
constexpr int kSharedBytesUnasked = 48 * 1024;
void SetSharedLimit(int bytes);
// cudaFuncSetAttribute.
bool AllowShared(const void* kernel, int bytes);

// The order in which fibres and blocks run: 0 first come first, 1 last come first, and others at random.
void SetSchedule(uint64_t seed);

// The first error since it was last taken; empty if there was none.
std::string TakeError();

// Runs body(context) on every thread. Returns whether all went well.
bool Run(const void* kernel, int64_t blocks, int threads, int64_t shared_bytes, void (*body)(const void*),
         const void* context);

}  // namespace simt

#endif  // SEPARATIONFACTOR_TESTS_SIMT_SIMT_H_
