#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/runtime/device.h"
#include "core/tensor/tensor.h"

namespace omnitrain {

/// kMax: NaN is the largest, but may be lost over NCCL.
enum class ReduceOp { kSum, kMax };

enum class CommKind {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kSend,
  kRecv,
  kAllToAllV,
  kBarrier,
};

/// "AllReduce", "Send", ...
const char* CommKindName(CommKind kind);

/// One call as a transport sees it: checked, numbered, its group larger than one rank.
struct CommCall {
  CommKind kind = CommKind::kBarrier;
  Tensor in, out;                // AllReduce and Broadcast: both the one tensor
  ReduceOp op = ReduceOp::kSum;  // AllReduce, ReduceScatter
  int peer = -1;                 // root, source or destination as a rank of the group; -1: all
  int tag = 0;                   // Send, Recv
  std::vector<int64_t> in_bytes, out_bytes;  // AllToAllV: per rank of the group
  int64_t seq = 0;  // counts collectives of this communicator; Send and Recv count on their own

  bool is_on_device() const {
    return in.device != DeviceKind::kCpu || out.device != DeviceKind::kCpu;
  }
  /// What the caller handed over: the larger of in and out.
  int64_t bytes() const;
};

/// A call under way; each transport has its own. Destroying an unfinished one must be safe.
class PendingComm {
 public:
  virtual ~PendingComm() = default;
  virtual void Wait(Stream& stream) = 0;
};

/// The caller's end of a call under way. Move-only; a default-made one is finished.
/// Dropping a handle that was not waited for is safe and holds no peer up: this rank still takes
/// its part in the call. What `out` holds is then unspecified.
class CommHandle {
 public:
  CommHandle() = default;
  /// `name`: of the communicator.
  CommHandle(std::unique_ptr<PendingComm> pending, std::string name)
      : pending_(std::move(pending)), name_(std::move(name)) {}

  /// Work given to `stream` from now on sees the result. On the CPU this blocks until the call is
  /// done. Waiting twice is allowed.  Errors: kComm at the deadline, naming who waits for whom.
  void Wait(Stream& stream);
  bool waited() const { return pending_ == nullptr; }

 private:
  std::unique_ptr<PendingComm> pending_;
  std::string name_;
};

/// Calls among a named set of ranks: a value of the layout, never a global.
/// Ranks: every argument (peer, root) counts inside the group; messages name global ranks.
/// Tensors: dense, both of a call on one device; memory stays alive and untouched until the handle
/// was waited for; zero elements are legal. f32 f64 i32 i64 u8 bf16; bf16 is summed in fp32 and
/// rounded once, f16 only moves. Collective: all ranks of the group make the same calls in the same
/// order. Sends match receives of the same pair and tag in order, whatever collectives are under
/// way. NCCL knows no tags: who is to run over it receives from a peer in the order that it sends.
/// Deterministic: equal layouts give equal bits, whatever the timing. A sum is rank 0 + rank 1
/// + ... in that order, over NCCL in an order of NCCL's own.
/// A group of one rank moves nothing.
/// Threads: one thread per rank makes all calls of all its communicators.
/// Errors: kComm after `timeout` in a wait, or when a peer failed; kInternal for arguments that do
/// not fit each other.
class Communicator {
 public:
  static constexpr int kMaxTag = (1 << 20) - 1;  // every MPI transport in use has 2^22 or more

  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// "world", "llm.dp".
  const std::string& name() const { return name_; }
  int rank() const { return rank_; }
  int size() const { return static_cast<int>(ranks_.size()); }
  /// Global ranks of the group, in group order.
  const std::vector<int>& ranks() const { return ranks_; }
  int global_rank() const { return ranks_[static_cast<size_t>(rank_)]; }
  std::chrono::milliseconds timeout() const { return timeout_; }

  /// t [...] = reduction over the group, on every rank.
  CommHandle AllReduce(const Tensor& t, ReduceOp op, Stream& stream);
  /// out [count] = this rank's share of the reduction of in [size * count].
  CommHandle ReduceScatter(const Tensor& in, const Tensor& out, ReduceOp op, Stream& stream);
  /// out [size * count] = in [count] of every rank in order; `in` may be its own place in `out`.
  CommHandle AllGather(const Tensor& in, const Tensor& out, Stream& stream);
  CommHandle Broadcast(const Tensor& t, int root, Stream& stream);
  /// Tags: 0 to kMaxTag.
  CommHandle Send(const Tensor& t, int peer, int tag, Stream& stream);
  CommHandle Recv(const Tensor& t, int peer, int tag, Stream& stream);
  /// Sends in_bytes[r] consecutive bytes of `in` to each rank r and receives out_bytes[r] from it,
  /// both laid out in rank order without gaps. Requires in_bytes[r] here == out_bytes[this] there.
  CommHandle AllToAllV(const Tensor& in, const std::vector<int64_t>& in_bytes, const Tensor& out,
                       const std::vector<int64_t>& out_bytes, Stream& stream);
  /// Returns when every rank of the group has called it.
  void Barrier();

  /// Host values, blocking: for plans, digests and metrics, not for the hot path.
  std::vector<std::string> AllGatherStrings(const std::string& mine);
  double AllReduceScalar(double mine, ReduceOp op);
  int64_t AllReduceScalar(int64_t mine, ReduceOp op);

  /// A communicator over some ranks of this one, given as global ranks in the wanted order, this
  /// rank among them. Collective over exactly those ranks; groups that share ranks must be made in
  /// one order on all of them.
  virtual std::unique_ptr<Communicator> NewGroup(const std::string& name,
                                                 const std::vector<int>& global_ranks) = 0;

  /// "rank 5 waits 60 s in llm.dp AllReduce (seq 412) of 1.2 MB with ranks 0,1,2,3".
  std::string DescribeWait(const CommCall& call, double waited_s) const;

 protected:
  Communicator(std::string name, std::vector<int> ranks, int rank,
               std::chrono::milliseconds timeout);
  /// Starts a call without blocking. Only called for groups of two ranks or more.
  virtual std::unique_ptr<PendingComm> Start(CommCall call, Stream& stream) = 0;
  /// In a group of one rank, for tensors that are not on the host. `from` and `to` are not the
  /// same.
  virtual void CopyOnDevice(void* to, const void* from, int64_t bytes, Stream& stream);
  /// For a transport that leaves some calls to another one: the same call on `other`, a
  /// communicator of the same ranks.
  static std::unique_ptr<PendingComm> StartOn(Communicator& other, CommCall call, Stream& stream);

 private:
  void CopyToSelf(const Tensor& out, const Tensor& in, int64_t bytes, Stream& stream);
  CommHandle Begin(CommCall call, Stream& stream);
  void CheckTensor(const Tensor& t, CommKind kind) const;
  void CheckSameDevice(const Tensor& in, const Tensor& out, CommKind kind) const;
  void CheckPeer(int peer, CommKind kind) const;

  std::string name_;
  std::vector<int> ranks_;
  int rank_;
  std::chrono::milliseconds timeout_;
  int64_t num_collectives_ = 0, num_messages_ = 0;
};

}  // namespace omnitrain
