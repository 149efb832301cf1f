#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/runtime/device.h"

namespace omnitrain {

/// How long a stream stood still for other ranks: communication that nothing hid, and, of a
/// pipeline's messages, its bubble too. Whoever wants to know sets it on the stream
/// (Stream::set_wait_meter); CommHandle::Wait reports to it. Costs two events a wait and no wait of
/// its own. Not thread safe.
class WaitMeter {
 public:
  explicit WaitMeter(Device& device) : device_(device) {}

  /// Around a wait that is given to the stream; `what` it is for: the name of a communicator.
  void Begin(Stream& stream, const std::string& what);
  void End(Stream& stream);

  /// Milliseconds by what was waited for, over the waits that the stream is through with since the
  /// last call; the others are told by a later one.
  std::map<std::string, double> Take();

 private:
  struct Wait {
    std::string what;
    std::unique_ptr<Event> begin, end;
  };

  std::unique_ptr<Event> NewEvent();

  Device& device_;
  std::deque<Wait> waits_;  // in the order of the stream
  std::vector<std::unique_ptr<Event>> free_;
};

}  // namespace omnitrain
