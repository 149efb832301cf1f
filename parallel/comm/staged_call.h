#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "parallel/comm/host_staging.h"
#include "parallel/comm/mpi_call.h"

namespace omnitrain {

/// A call on tensors of a device, over host memory: device -> host copies in the order of the
/// caller's stream, then the MpiCall, then host -> device copies. Nothing blocks: Advance() asks
/// whether the copies out are done.
/// MPI matches the collectives of a communicator by the order in which a rank posts them, and
/// copies end at other times on every rank: calls of one communicator post in the order in which
/// they were made. A call on host memory that comes behind waiting ones waits here too.
class StagedCall : public MpiTask {
 public:
  /// Queues the copies out.
  StagedCall(MpiCommunicator* communicator, CommCall call, Stream& stream);

  ~StagedCall() override;

  bool Advance() override;
  bool is_done() const override { return is_done_; }
  const CommCall& call() const override { return call_; }
  void OrderAfter(Stream& stream) override;

 private:
  struct Piece {
    void* on_device;
    void* on_host;
    int64_t bytes;
  };
  /// Gives the tensors of host_call_ their places in the block, and lists what to copy.
  void Plan();
  void CopyIn();

  MpiCommunicator* communicator_;
  HostStaging* staging_;  // null for a call on host memory
  CommCall call_, host_call_;
  int64_t turn_;
  std::vector<Piece> out_, in_;              // out of the device, into it
  std::optional<HostStaging::Block> block_;  // none when there is nothing to copy
  std::unique_ptr<MpiCall> mpi_;
  bool is_done_ = false;
};

}  // namespace omnitrain
