#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "parallel/schedule/op_graph.h"
#include "parallel/schedule/schedule.h"

namespace omnitrain {

/// How long an op takes, in whole nanoseconds, not negative; of a rendezvous the longest of its
/// ops. A function of the op and the rank that holds it.
using OpCosts = std::function<int64_t(const Op& op, int rank)>;

/// F, I and W take 1000 ns, B 2000, all else nothing: fits dense layers, whose two gradients cost a
/// forward each.
int64_t NominalCost(const Op& op, int rank);

struct SimulatedSpan {
  int64_t start_ns = 0, end_ns = 0;

  bool operator==(const SimulatedSpan& o) const {
    return start_ns == o.start_ns && end_ns == o.end_ns;
  }
};

struct SimulatedRank {
  int64_t busy_ns = 0;           // in compute ops, REDUCE_GRAD and STEP among them
  int64_t bubble_ns = 0;         // the rest of the makespan
  int64_t communication_ns = 0;  // in communication ops, which run beside compute
};

struct Simulation {
  int64_t makespan_ns = 0;
  std::vector<SimulatedRank> ranks;
  /// By rank and place in its list.
  std::vector<std::vector<SimulatedSpan>> spans;
};

/// When each op of the schedule runs. A rank does one compute op at a time, and a link from one
/// rank to another one communication op, each in list order (TransferOrder::kByLink); a rendezvous
/// begins when all its ranks are there and its data is, and keeps them all. What is posted but
/// waits costs nothing. Pure and deterministic.  Cost: linear in ops. Requires a schedule that
/// passed Validate.  Errors: kInternal on a deadlock.
Simulation Simulate(const Schedule& schedule, const OpCosts& costs);

namespace internal {

/// The spans by node of the graph, whose order is `order`.
std::vector<SimulatedSpan> RunGraph(const OpIndex& index, const OpGraph& graph,
                                    const std::vector<int>& order, const OpCosts& costs);

}  // namespace internal
}  // namespace omnitrain
