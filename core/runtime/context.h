#pragma once

#include <map>
#include <memory>

#include "core/runtime/device.h"

namespace omnitrain {

/// What an op runs with: a device, the stream its work goes to, and scratch memory that lives for
/// the call. One per thread that launches ops; not thread safe.
class Context {
 public:
  Context(Device& device, Stream& stream) : device_(device), stream_(stream) {}
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device& device() const { return device_; }
  Stream& stream() const { return stream_; }
  bool is_cuda() const { return device_.kind() == DeviceKind::kCuda; }

  /// Scratch of at least `bytes`, 256-byte aligned, for the op that asks, valid until its next
  /// Scratch() or the end of the op: ops on one stream follow each other, so they share it. Grows
  /// to the largest ever asked for.
  void* Scratch(size_t bytes);
  size_t scratch_bytes() const { return scratch_.bytes(); }

  /// What an op keeps from call to call on this context (the handle of a library, its plans): made
  /// at first use with T(), freed with the context.
  template <typename T>
  T& State() {
    static const char key = 0;  // its address stands for T
    std::shared_ptr<void>& state = states_[&key];
    if (state == nullptr) state = std::make_shared<T>();
    return *static_cast<T*>(state.get());
  }

 private:
  Device& device_;
  Stream& stream_;
  Buffer scratch_;
  std::map<const void*, std::shared_ptr<void>> states_;
};

}  // namespace omnitrain
