#include "data/loader/worker_pool.h"

#include <utility>

namespace omnitrain {

WorkerPool::WorkerPool(int num_threads) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkerPool::~WorkerPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::Submit(int64_t order, Task task) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    tasks_[order].push_back(std::move(task));
  }
  wake_.notify_one();
}

void WorkerPool::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
    if (stop_) return;
    const auto first = tasks_.begin();
    Task task = std::move(first->second.front());
    first->second.pop_front();
    if (first->second.empty()) tasks_.erase(first);
    lock.unlock();
    task();
    task = nullptr;  // what it holds is released without the lock
    lock.lock();
  }
}

}  // namespace omnitrain
