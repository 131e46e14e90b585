// Lends the threads of a pool to the core.

#ifndef SEPARATIONFACTOR_TENSORFLOW_SHARED_LOOP_H_
#define SEPARATIONFACTOR_TENSORFLOW_SHARED_LOOP_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "core/separate.h"

namespace separationfactor {

// A loop whose ranges threads take from a counter until none is left.
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
  const Work& work_;  // outlives the last range, though not this object
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> unfinished_;
  std::mutex mutex_;
  std::condition_variable finished_;
  bool all_finished_ = false;
};

// Returns what runs the core's loops on the calling thread and on those of a pool. `schedule` hands the pool a
// std::function<void()>.
//
// The caller takes ranges too and waits for none but those that others have begun. So a pool all of whose threads
// wait here goes on, and a thread that is slow to wake, which on a virtual machine can take longer than the whole
// loop, holds nobody up.
template <class Schedule>
ParallelFor ShareLoops(int64_t threads, Schedule schedule) {
  return [threads, schedule](int64_t total, int64_t cost, const SharedLoop::Work& work) {
    // Nanoseconds: about what it takes to wake a thread.
    constexpr int64_t kMinRange = 20000;
    // Several ranges a thread, as threads are not equally fast.
    const int64_t ranges = std::min({total, 4 * threads, std::max<int64_t>(1, total * cost / kMinRange)});
    if (threads <= 1 || ranges <= 1) {
      if (total > 0) work(0, total);
      return;
    }
    // A thread may come when all is done and the caller has gone on: the loop lives as long as any of them.
    const auto loop = std::make_shared<SharedLoop>(total, ranges, work);
    for (int64_t helper = 1; helper < std::min(threads, ranges); ++helper) {
      schedule([loop] { loop->TakeRanges(); });
    }
    loop->TakeRanges();
    loop->Wait();
  };
}

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TENSORFLOW_SHARED_LOOP_H_
