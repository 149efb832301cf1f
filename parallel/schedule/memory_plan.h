#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "parallel/schedule/schedule.h"

namespace omnitrain {

/// A block of memory that must exist from one op of a rank's list to another, both included.
struct BlockRequest {
  std::string name;  // for messages and pictures
  size_t bytes = 0;
  int first_op = 0;
  int last_op = 0;
};

/// Where each request lies in one arena.
struct ArenaPlan {
  static constexpr size_t kAlignment = 256;

  std::vector<size_t> offsets;  // by request
  size_t arena_bytes = 0;       // highest end of a block
  /// Most bytes alive at one op, each block rounded up to the alignment: no arena can be smaller.
  size_t lower_bound_bytes = 0;
};

/// Offsets such that blocks alive together never overlap. Greedy best fit: blocks are placed by
/// their first op, and once more by size, each in the tightest gap that those alive with it leave;
/// the smaller arena is taken.
/// Deterministic: a pure function of the requests.  Cost: O(n^2 log n) in the number of blocks.
ArenaPlan PlanArena(const std::vector<BlockRequest>& requests);

/// From which op to which a block of (module, stage, micro_batch, slice) lives. Where data comes
/// from another rank, a block exists from the RECV on; where it goes to one, until the send must be
/// over (SendDeadline).
enum class BlockLifetime {
  /// F .. F: scratch and what no later op reads.
  kForward,
  /// F .. RESHARD_F: rows of an encoder on their way to the LLM.
  kOutput,
  /// RECV_F or F .. B or I: what only the input gradient needs.
  kForInputGrad,
  /// RECV_F or F .. B or W: what the weight gradient needs; with the output, until it is sent.
  kForWeightGrad,
  /// RECV_B, or B or I .. B or I: the gradient at the output of a stage, which becomes that at its
  /// input and is sent.
  kStageGrad,
  /// I .. W: gradients that the weight gradient needs.
  kInputGradToWeightGrad,
  /// First RESHARD_F that serves the stage .. F of the LLM: rows as the LLM takes them. On the rank
  /// of the encoders those of stage 0 live until all other stages were served.
  kInjected,
  /// B or I of the LLM .. RESHARD_B: their gradients. On the rank of the encoders those of stage 0
  /// from the first RESHARD_B on.
  kInjectedGrad,
  /// RESHARD_B .. B or W of the encoder: gradients of its output.
  kOutputGrad,
  /// B .. B or I .. I: scratch of the backward.
  kBackward,
};

/// One block of an activation key: which ops it spans follows from the schedule.
struct BlockRule {
  Op key;  // module, stage, micro_batch, slice count; kind does not
  std::string name;
  size_t bytes = 0;
  BlockLifetime lifetime = BlockLifetime::kForward;
};

/// Where the send at `position` of a rank's list is waited for: behind one whole compute op, before
/// the next one, so that it travels while the rank computes. Its data lives until then.
int SendDeadline(const std::vector<Op>& list, int position);

/// The requests of `rules`, in their order, on the list of `rank`. Where a schedule has no gradient
/// (evaluation, frozen modules), what waits for one lives during F alone.
/// Errors: kInternal when the list has no op that the lifetime begins with.
std::vector<BlockRequest> DeriveRequests(const Schedule& schedule, int rank,
                                         const std::vector<BlockRule>& rules);

}  // namespace omnitrain
