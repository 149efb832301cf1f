#include "parallel/schedule/simulate.h"

#include <algorithm>

#include "core/base/check.h"

namespace omnitrain {

int64_t NominalCost(const Op& op, int /*rank*/) {
  switch (op.kind) {
    case OpKind::kForward:
    case OpKind::kInputGrad:
    case OpKind::kWeightGrad:
      return 1000;
    case OpKind::kBackward:
      return 2000;
    default:
      return 0;
  }
}

namespace internal {

// Every rank's lanes are edges of the graph, so that the time of an op is the longest way to
// it: one pass over the order does what a queue of events would.
std::vector<SimulatedSpan> RunGraph(const OpIndex& index, const OpGraph& graph,
                                    const std::vector<int>& order, const OpCosts& costs) {
  std::vector<SimulatedSpan> spans(order.size());
  for (int node : order) {
    int64_t cost = 0;
    for (int id : graph.ops(node)) {
      const int64_t ns = costs(index.op(id), index.rank(id));
      if (ns < 0) index.Refuse(id, fmt::format("takes {} ns", ns));
      cost = std::max(cost, ns);
    }
    SimulatedSpan& span = spans[static_cast<size_t>(node)];
    span.end_ns = span.start_ns + cost;
    for (int to : graph.successors(node)) {
      SimulatedSpan& next = spans[static_cast<size_t>(to)];
      next.start_ns = std::max(next.start_ns, span.end_ns);
    }
  }
  return spans;
}

}  // namespace internal

Simulation Simulate(const Schedule& schedule, const OpCosts& costs) {
  const OpIndex index(schedule);
  OpGraphOptions options;
  options.order = TransferOrder::kByLink;
  const OpGraph graph(index, options);
  const std::vector<SimulatedSpan> spans = internal::RunGraph(index, graph, graph.Order(), costs);
  Simulation simulation;
  for (const SimulatedSpan& span : spans) {
    simulation.makespan_ns = std::max(simulation.makespan_ns, span.end_ns);
  }
  simulation.ranks.resize(schedule.ranks.size());
  simulation.spans.resize(schedule.ranks.size());
  for (int id = 0; id < index.num_ops(); ++id) {
    const SimulatedSpan& span = spans[static_cast<size_t>(graph.NodeOf(id))];
    const size_t rank = static_cast<size_t>(index.rank(id));
    SimulatedRank& times = simulation.ranks[rank];
    (IsCommunication(index.op(id).kind) ? times.communication_ns : times.busy_ns) +=
        span.end_ns - span.start_ns;
    simulation.spans[rank].push_back(span);
  }
  for (SimulatedRank& times : simulation.ranks) {
    times.bubble_ns = simulation.makespan_ns - times.busy_ns;
  }
  return simulation;
}

}  // namespace omnitrain
