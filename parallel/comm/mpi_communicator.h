#pragma once

#include <mpi.h>

#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/comm/host_staging.h"

namespace omnitrain {

/// A call under way, as the engine sees it.
class MpiTask {
 public:
  virtual ~MpiTask() = default;
  /// Goes on as far as it can without blocking; true when the call is done.
  virtual bool Advance() = 0;
  virtual bool is_done() const = 0;
  virtual const CommCall& call() const = 0;
  /// Work given to `stream` from now on sees the result, which on the host is there already.
  /// Requires is_done().
  virtual void OrderAfter(Stream&) {}
};

/// What all communicators of a process share: the owner thread and the calls under way.
/// Calls advance together: a rank that waits for one call also serves its peers in all others, so
/// ranks may wait for their handles in different orders.
class MpiEngine {
 public:
  MpiEngine(int64_t max_message_bytes, int64_t max_reduce_bytes);

  void CheckThread() const;
  void Add(std::shared_ptr<MpiTask> task);
  /// One round over the calls under way.
  void Progress();
  /// After a failure nothing more is tried: MPI's state is unknown and the job is about to abort.
  void SetFailed(const std::string& reason);
  bool has_failed() const { return has_failed_; }

  /// From now on calls take tensors of `device` too.
  void StageThroughHost(Device& device) { staging_ = std::make_unique<HostStaging>(device); }
  /// Null while only host memory is moved.
  HostStaging* staging() { return staging_.get(); }

  int64_t max_message_bytes() const { return max_message_bytes_; }
  int64_t max_reduce_bytes() const { return max_reduce_bytes_; }
  int max_tag() const { return max_tag_; }

 private:
  std::thread::id owner_;
  std::unique_ptr<HostStaging> staging_;
  std::list<std::shared_ptr<MpiTask>> tasks_;
  int64_t max_message_bytes_, max_reduce_bytes_;
  int max_tag_ = 0;
  bool has_failed_ = false;
  std::string reason_;
};

/// Host memory over MPI, and that of one device through copies on the host.
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

  /// Calls that cannot be posted at once are posted in the order in which they took a turn.
  int64_t TakeTurn() { return num_turns_++; }
  bool IsTurn(int64_t turn) const { return turn == turn_; }
  void EndTurn() { ++turn_; }

 protected:
  std::unique_ptr<PendingComm> Start(CommCall call, Stream& stream) override;
  void CopyOnDevice(void* to, const void* from, int64_t bytes, Stream& stream) override;

 private:
  void AgreeOnGroup(const std::string& name, const std::vector<int>& members);

  std::shared_ptr<MpiEngine> engine_;
  MPI_Comm comm_;
  int64_t num_turns_ = 0, turn_ = 0;
};

}  // namespace omnitrain
