#pragma once

#include <vector>

#include "parallel/schedule/schedule.h"
#include "parallel/schedule/simulate.h"

namespace omnitrain {

struct CommunicationParams {
  /// LLM stages that take rows of the encoders: 0, and those that deep-stack features go to.
  /// Without encoders they do not count.
  std::vector<int> consumer_stages = {0};
  /// For the order alone.
  OpCosts costs = NominalCost;
};

/// Puts SEND_F/RECV_F and SEND_B/RECV_B between LLM stages on different ranks, and for every
/// micro-batch a RESHARD_F of all encoders for each consumer stage, on the encoders' ranks and on
/// the consumer's (once where they are the same), mirrored by RESHARD_B where encoders are trained.
///
/// All transfers get one order over all ranks: that in which they become ready when the compute ops
/// run with the given costs and transfers take no time. Each rank's list is that order with its
/// compute ops placed by when they end. So a receive stands before the compute op during which its
/// data comes, and a rank that did one thing after the other would not deadlock either.
/// Requires a schedule without communication.  Errors: kInternal with rank and op if it is not one
/// that can run.
Schedule AddCommunication(const Schedule& schedule, const CommunicationParams& params = {});

}  // namespace omnitrain
