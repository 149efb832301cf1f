#pragma once

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <unordered_map>

namespace omnitrain {

/// What a device has handed out: bytes now and at most. Thread safe.
class AllocationLedger {
 public:
  void Add(void* data, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    sizes_[data] = bytes;
    allocated_ += bytes;
    peak_ = std::max(peak_, allocated_);
  }
  void Remove(void* data) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto it = sizes_.find(data);
    if (it == sizes_.end()) return;
    allocated_ -= it->second;
    sizes_.erase(it);
  }
  size_t allocated() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return allocated_;
  }
  size_t peak() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return peak_;
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<void*, size_t> sizes_;
  size_t allocated_ = 0, peak_ = 0;
};

}  // namespace omnitrain
