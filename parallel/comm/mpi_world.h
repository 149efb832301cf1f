#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace omnitrain {

class MpiEngine;

/// MPI for the life of this object: initialises it, and finalises it unless a call failed or an
/// exception is on its way (a collective finalise would then hang). Make one per process, before
/// anything else communicates; it outlives all communicators made from it.
/// Threads: MPI_THREAD_FUNNELED is required: the thread that made this object owns MPI and makes
/// every call; others are refused with kInternal. Calls under way advance while it waits for any
/// of them, or in Progress().
class MpiWorld {
 public:
  struct Options {
    /// Deadline of each wait.
    std::chrono::milliseconds timeout{600000};
    /// MPI counts are ints: longer messages go in pieces. Tests lower it.
    int64_t max_message_bytes = int64_t{1} << 30;
    /// Reductions take temporary memory up to about this (for each call under way).
    int64_t max_reduce_bytes = int64_t{1} << 28;
  };

  MpiWorld();
  explicit MpiWorld(const Options& options);
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  /// Rank and number of ranks on this node (ranks that can share memory).
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  /// For each rank of the world the number of its node; nodes count from 0 by their lowest rank.
  const std::vector<int>& node_of_rank() const { return node_of_rank_; }

  /// All ranks, named "world".
  Communicator& world() { return *world_; }
  /// Collective over exactly `ranks` (ascending or not, this rank among them). Ranks that come to
  /// make different groups are told so: kComm. timeout 0: that of the world.
  std::unique_ptr<Communicator> NewCommunicator(
      const std::string& name, const std::vector<int>& ranks,
      std::chrono::milliseconds timeout = std::chrono::milliseconds(0));

  /// From now on calls of every communicator of this world, made or to be made, also take tensors
  /// of `device`: they go through page-locked host memory, and sums are those of host tensors to
  /// the last bit. Several ranks may share one GPU. A wait blocks the host until the peers are
  /// there; the copies are ordered by the streams. `device` outlives this world's communicators.
  void StageThroughHost(Device& device);

  /// Advances the calls under way without blocking: for long stretches of computing between the
  /// start of a call and its Wait.
  void Progress();

 private:
  std::shared_ptr<MpiEngine> engine_;
  std::unique_ptr<Communicator> world_;
  int local_rank_ = 0, local_size_ = 1;
  std::vector<int> node_of_rank_;
};

/// Ends every process of the job with exit code `code` after writing who waits for what. The only
/// way out of one rank's error. Works without MPI too: then it ends this process.
[[noreturn]] void MpiAbort(int code);

}  // namespace omnitrain
