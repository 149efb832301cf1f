#pragma once

#include <mpi.h>

#include <vector>

#include "parallel/comm/mpi_communicator.h"

namespace omnitrain {

/// One communicator call as a sequence of phases, each a set of nonblocking MPI requests.
class MpiCall : public MpiTask {
 public:
  /// Posts the first phase.
  MpiCall(MpiCommunicator* communicator, CommCall call);

  /// Tests the requests; when a phase is over, posts the next. True when the call is done.
  /// Errors: kComm with MPI's reason.
  bool Advance() override;
  bool is_done() const override { return is_done_; }
  const CommCall& call() const override { return call_; }

 private:
  void PostGather();
  void PostAllToAllV();
  /// Reductions: the parts that this rank sums, of the slice that begins at begin_.
  void PostParts();
  /// AllReduce: the sums of the slice, from whoever has them.
  void PostSums();
  /// True when a further phase was posted.
  bool NextPhase();
  void SumParts();

  void Send(const void* data, int64_t bytes, int peer, int tag);
  void Recv(void* data, int64_t bytes, int peer, int tag);
  MPI_Request* NewRequest(int64_t received_bytes = -1);
  void Require(int mpi_code) const;

  int internal_tag() const;
  int64_t element_bytes() const;
  char* out() const { return static_cast<char*>(call_.out.data); }
  const char* in() const { return static_cast<const char*>(call_.in.data); }
  /// AllReduce: first element of rank r's share of the slice.
  int64_t ShareBegin(int r) const { return begin_ + slice_ * r / size_; }

  enum class Phase { kOnly, kSmallParts, kParts, kSums };

  MpiCommunicator* communicator_;
  CommCall call_;
  const int rank_, size_;
  Phase phase_ = Phase::kOnly;
  bool is_done_ = false;
  std::vector<MPI_Request> requests_;
  std::vector<int64_t> received_bytes_;  // per request; -1: not a receive
  std::vector<MPI_Status> statuses_;
  std::vector<char> parts_;        // what peers sent to be summed
  int64_t begin_ = 0, slice_ = 0;  // elements: the slice of a reduction under way
};

}  // namespace omnitrain
