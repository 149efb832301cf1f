#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/runtime/device.h"
#include "parallel/comm/communicator.h"

namespace omnitrain {

/// A communicator whose callers hand over host tensors and whose transport gets tensors of
/// `device`: what is written for the host, the communicator contract first, then runs over any
/// transport for device memory.
class DeviceTensorCommunicator : public Communicator {
 public:
  /// `device` and `stream` outlive this object.
  DeviceTensorCommunicator(Communicator& transport, Device& device, Stream& stream);
  DeviceTensorCommunicator(std::unique_ptr<Communicator> transport, Device& device, Stream& stream);

  std::unique_ptr<Communicator> NewGroup(const std::string& name,
                                         const std::vector<int>& global_ranks) override;

 protected:
  std::unique_ptr<PendingComm> Start(CommCall call, Stream& stream) override;

 private:
  std::unique_ptr<Communicator> owned_;
  Communicator& transport_;
  Device& device_;
  Stream& stream_;
};

}  // namespace omnitrain
