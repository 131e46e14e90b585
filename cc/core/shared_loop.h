// A ParallelFor that runs on the threads of a pool.

#ifndef SEPARATIONFACTOR_CORE_SHARED_LOOP_H_
#define SEPARATIONFACTOR_CORE_SHARED_LOOP_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "core/separate.h"

namespace separationfactor {

// A loop split into ranges. Threads take the next range from a shared counter until none is left.
class SharedLoop {
 public:
  using Work = std::function<void(int64_t, int64_t)>;

  SharedLoop(int64_t total, int64_t ranges, const Work& work)
      : total_(total), ranges_(ranges), work_(work), unfinished_(ranges) {}

  void TakeRanges() {
    int64_t finished = 0;
    for (int64_t range; (range = next_.fetch_add(1)) < ranges_; ++finished) {
      work_(total_ * range / ranges_, total_ * (range + 1) / ranges_);
    }
    if (finished > 0 && unfinished_.fetch_sub(finished) == finished) {
      const std::lock_guard<std::mutex> lock(mutex_);
      all_finished_ = true;
      finished_.notify_all();
    }
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return all_finished_; });
  }

 private:
  const int64_t total_;
  const int64_t ranges_;
  const Work& work_;  // valid until the last range is finished, not for the lifetime of this object
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> unfinished_;
  std::mutex mutex_;
  std::condition_variable finished_;
  bool all_finished_ = false;
};

// Returns a ParallelFor that runs on the calling thread and on the threads of a pool. `schedule` passes a
// std::function<void()> to the pool.
//
// The caller takes ranges too, and waits only for ranges that other threads have begun. Therefore the loop finishes
// even if all threads of the pool wait here. It also does not wait for a thread that wakes late. On a virtual machine
// waking a thread can take longer than the whole loop.
template <class Schedule>
ParallelFor ShareLoops(int64_t threads, Schedule schedule) {
  return [threads, schedule](int64_t total, int64_t cost, const SharedLoop::Work& work) {
    // Nanoseconds, about the time that waking a thread takes.
    constexpr int64_t kMinRange = 20000;
    // Several ranges per thread, because threads differ in speed.
    const int64_t ranges = std::min({total, 4 * threads, std::max<int64_t>(1, total * cost / kMinRange)});
    if (threads <= 1 || ranges <= 1) {
      if (total > 0) work(0, total);
      return;
    }
    // A thread may start after the caller has returned, so the threads share ownership of the loop.
    const auto loop = std::make_shared<SharedLoop>(total, ranges, work);
    for (int64_t helper = 1; helper < std::min(threads, ranges); ++helper) {
      schedule([loop] { loop->TakeRanges(); });
    }
    loop->TakeRanges();
    loop->Wait();
  };
}

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_SHARED_LOOP_H_
