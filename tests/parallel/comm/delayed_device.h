#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "core/runtime/device.h"

namespace omnitrain {

/// A device of kind kCuda without a GPU. Its memory faults when the host touches it, and the work
/// of its streams runs late: one op per stream each time somebody asks an event or waits. Memory of
/// AllocateHost comes filled with NaNs, so that reading it too early shows. One thread.
class DelayedDevice : public Device {
 public:
  ~DelayedDevice() override;
  DeviceKind kind() const override { return DeviceKind::kCuda; }
  int index() const override { return 0; }
  std::string Describe() const override { return "delayed host memory"; }
  std::unique_ptr<Stream> NewStream() override;
  std::unique_ptr<Event> NewEvent() override;
  void* Allocate(size_t bytes) override;
  /// Waits for all work, as cudaFree does.
  void Free(void* data) override;
  void* AllocateHost(size_t bytes) override;
  void FreeHost(void* data) override;
  size_t allocated_bytes() const override { return 0; }
  size_t peak_bytes() const override { return 0; }
  size_t available_bytes() const override { return SIZE_MAX; }
  void Copy(void* destination, const void* source, size_t bytes, Stream& stream) override;
  void Fill(void* destination, int byte, size_t bytes, Stream& stream) override;

  /// While held no work runs.
  void Hold(bool is_held) { is_held_ = is_held; }
  /// Runs the next op of each stream, unless that waits for another stream.
  void Step();
  int64_t num_copies() const { return num_copies_; }

  /// True when the op could run.
  using Op = std::function<bool()>;
  struct Queue {
    std::vector<Op> ops;
  };

 private:
  void CopyNow(void* destination, const void* source, size_t bytes);
  /// Lets the host touch the device memory that holds `data`, or no longer.
  void SetAccess(const void* data, bool is_open);

  bool is_held_ = false;
  int64_t num_copies_ = 0;
  std::vector<std::weak_ptr<Queue>> queues_;
  std::map<const char*, size_t> memory_, host_memory_;
};

}  // namespace omnitrain
