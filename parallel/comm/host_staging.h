#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/runtime/device.h"

namespace omnitrain {

/// Page-locked blocks that tensors of one device pass through on their way to and from a host
/// transport, and the two streams of those copies: they run beside the caller's work, and what
/// comes in does not queue behind what goes out. One per process, used by one thread.
/// Cost: holds as many bytes as were ever in flight at once, rounded up by at most a quarter.
class HostStaging {
 public:
  /// One call's memory and the points of the streams that it passes.
  struct Block {
    void* data = nullptr;
    int64_t bytes = 0;
    std::unique_ptr<Event> is_ready;  // the caller's stream has made the input
    std::unique_ptr<Event> is_out;    // device -> host copies are done
    std::unique_ptr<Event> is_in;     // host -> device copies are done
  };

  explicit HostStaging(Device& device);
  ~HostStaging();
  HostStaging(const HostStaging&) = delete;
  HostStaging& operator=(const HostStaging&) = delete;

  /// A block of at least `bytes` that no copy uses. Slow when the pool has to grow.
  Block Take(int64_t bytes);
  /// Takes the block back; it is given out again once its is_in event is reached.
  void GiveBack(Block block);

  Device& device() { return device_; }
  Stream& out_stream() { return *out_stream_; }
  Stream& in_stream() { return *in_stream_; }

 private:
  Device& device_;
  std::unique_ptr<Stream> out_stream_, in_stream_;
  std::vector<Block> free_;
};

}  // namespace omnitrain
