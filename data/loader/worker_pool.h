#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace omnitrain {

/// Threads that run tasks, those of the lowest order first, so that a step is not kept waiting by
/// later ones. Tasks must not throw. The destructor drops tasks that have not begun.
class WorkerPool {
 public:
  using Task = std::function<void()>;

  explicit WorkerPool(int num_threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  void Submit(int64_t order, Task task);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<int64_t, std::deque<Task>> tasks_;  // no empty queues
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace omnitrain
