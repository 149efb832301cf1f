#pragma once

#include <mpi.h>

#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/communicator.h"

namespace omnitrain {

class MpiCall;

/// What all communicators of a process share: the owner thread and the calls under way.
/// Calls advance together: a rank that waits for one call also serves its peers in all others, so
/// ranks may wait for their handles in different orders.
class MpiEngine {
 public:
  MpiEngine(int64_t max_message_bytes, int64_t max_reduce_bytes);

  void CheckThread() const;
  void Add(std::shared_ptr<MpiCall> call);
  /// One round over the calls under way.
  void Progress();
  /// After a failure nothing more is tried: MPI's state is unknown and the job is about to abort.
  void SetFailed(const std::string& reason);
  bool has_failed() const { return has_failed_; }

  int64_t max_message_bytes() const { return max_message_bytes_; }
  int64_t max_reduce_bytes() const { return max_reduce_bytes_; }
  int max_tag() const { return max_tag_; }

 private:
  std::thread::id owner_;
  std::list<std::shared_ptr<MpiCall>> calls_;
  int64_t max_message_bytes_, max_reduce_bytes_;
  int max_tag_ = 0;
  bool has_failed_ = false;
  std::string reason_;
};

/// Host memory over MPI.
/// Deterministic: MPI leaves the order of a sum to the library (Open MPI's tuned component chooses
/// by message and group size), so no MPI reduction is used. Reductions exchange raw parts and sum
/// them here in rank order. Small ones gather all parts on every rank; larger ones are exchanged
/// as a reduce-scatter and a gather.
/// Cost: AllReduce moves 2 (n-1)/n of the tensor per rank in each direction, like a ring, in
/// 2 (n-1) messages; it takes temporary memory of the tensor's size up to
/// MpiWorld::Options::max_reduce_bytes and goes in slices beyond.
class MpiCommunicator : public Communicator {
 public:
  /// Takes over `comm` and frees it.
  MpiCommunicator(std::shared_ptr<MpiEngine> engine, MPI_Comm comm, std::string name,
                  std::vector<int> ranks, int rank, std::chrono::milliseconds timeout);
  ~MpiCommunicator() override;

  std::unique_ptr<Communicator> NewGroup(const std::string& name,
                                         const std::vector<int>& global_ranks) override;
  std::unique_ptr<Communicator> NewGroup(const std::string& name,
                                         const std::vector<int>& global_ranks,
                                         std::chrono::milliseconds timeout);

  MpiEngine& engine() { return *engine_; }
  MPI_Comm comm() const { return comm_; }

 protected:
  std::unique_ptr<PendingComm> Start(CommCall call, Stream& stream) override;

 private:
  void AgreeOnGroup(const std::string& name, const std::vector<int>& members);

  std::shared_ptr<MpiEngine> engine_;
  MPI_Comm comm_;
};

}  // namespace omnitrain
