#include "parallel/schedule/simulate.h"

#include <algorithm>

#include "core/base/error.h"
#include "parallel/schedule/add_communication.h"
#include "parallel/schedule/pipeline.h"
#include "parallel/schedule/validate.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

struct Costs {
  int64_t f = 1, i = 1, w = 1, transfer = 0;
};

OpCosts CostsOf(const Costs& costs) {
  return [costs](const Op& op, int /*rank*/) -> int64_t {
    switch (op.kind) {
      case OpKind::kForward:
        return costs.f;
      case OpKind::kInputGrad:
        return costs.i;
      case OpKind::kWeightGrad:
        return costs.w;
      case OpKind::kBackward:
        return costs.i + costs.w;
      default:
        return costs.transfer;
    }
  };
}

PipelineParams Params(PipelineKind kind, int pp, int vpp, int num_micro_batches) {
  PipelineParams params;
  params.kind = kind;
  params.pp = pp;
  params.vpp = vpp;
  params.num_micro_batches = num_micro_batches;
  return params;
}

Simulation Run(const PipelineParams& params, const Costs& costs) {
  CommunicationParams communication;
  communication.costs = CostsOf(costs);
  return Simulate(AddCommunication(BuildPipeline(params), communication), communication.costs);
}

/// The bubble of every rank, or -1 where ranks differ.
int64_t Bubble(const PipelineParams& params, const Costs& costs) {
  const Simulation simulation = Run(params, costs);
  for (const SimulatedRank& rank : simulation.ranks) {
    if (rank.bubble_ns != simulation.ranks[0].bubble_ns) return -1;
  }
  return simulation.ranks[0].bubble_ns;
}

/// Every pipeline of up to 8 ranks, 4 chunks and 32 micro-batches.
template <typename Visit>
void ForAll(const Visit& visit) {
  for (int pp = 1; pp <= 8; ++pp) {
    for (int m = 1; m <= 32; ++m) {
      visit(Params(PipelineKind::kOneFOneB, pp, 1, m));
      visit(Params(PipelineKind::kZeroBubbleH1, pp, 1, m));
      for (int vpp = 2; vpp <= 4; ++vpp) visit(Params(PipelineKind::kInterleaved, pp, vpp, m));
    }
  }
}

TEST_CASE("All small pipelines are valid and hold no more than they may") {
  ForAll([](PipelineParams params) {
    INFO("pp " << params.pp << " vpp " << params.vpp << " micro-batches "
               << params.num_micro_batches);
    Validate(AddCommunication(BuildPipeline(params)), LiveLimits(params));
    params.encoders = {{"vit", true, true, 1}};
    // Deep-stack features for the first three stages, wherever they are.
    CommunicationParams communication;
    for (int stage = 1; stage < std::min(3, params.pp * params.vpp); ++stage) {
      communication.consumer_stages.push_back(stage);
    }
    Validate(AddCommunication(BuildPipeline(params), communication), LiveLimits(params));
    params.purpose = SchedulePurpose::kEvaluate;
    Validate(AddCommunication(BuildPipeline(params), communication), LiveLimits(params));
  });
}

TEST_CASE("The bubble of 1F1B is (p-1)(F+B)") {
  for (const Costs& costs : {Costs{1, 1, 1, 0}, Costs{3, 5, 2, 0}, Costs{7, 1, 1, 0}}) {
    ForAll([&](const PipelineParams& params) {
      if (params.kind != PipelineKind::kOneFOneB) return;
      INFO("pp " << params.pp << " micro-batches " << params.num_micro_batches);
      REQUIRE(Bubble(params, costs) == (params.pp - 1) * (costs.f + costs.i + costs.w));
    });
  }
}

// F and B are those of a rank's whole share; a chunk is a v-th of it.
TEST_CASE("The bubble of interleaved 1F1B is (p-1)(F+B)/v where micro-batches fill groups") {
  for (const Costs& chunk : {Costs{1, 1, 1, 0}, Costs{3, 5, 2, 0}}) {
    ForAll([&](const PipelineParams& params) {
      if (params.vpp == 1 || params.num_micro_batches % params.pp != 0) return;
      INFO("pp " << params.pp << " vpp " << params.vpp << " m " << params.num_micro_batches);
      CHECK(Bubble(params, chunk) == (params.pp - 1) * (chunk.f + chunk.i + chunk.w));
    });
  }
}

// Qi et al. 2023, table 1, says (p-1)(F+I-W). That needs m >= p, and W <= F: rank 0 has p
// micro-batches in flight, all that 1F1B's memory allows, and waits (p-1) I for the first gradient.
TEST_CASE("The bubble of ZB-H1 is (p-1)(F+I-W) from p micro-batches on and where W is at most F") {
  for (const Costs& costs : {Costs{1, 1, 1, 0}, Costs{3, 3, 2, 0}, Costs{4, 5, 4, 0},
                             Costs{9, 5, 5, 0}, Costs{2, 3, 3, 0}}) {
    ForAll([&](const PipelineParams& params) {
      if (params.kind != PipelineKind::kZeroBubbleH1) return;
      const int p = params.pp, m = params.num_micro_batches;
      INFO("F " << costs.f << " I " << costs.i << " W " << costs.w << " pp " << p << " m " << m);
      const int64_t bubble = Bubble(params, costs);
      if (m >= p && costs.w <= costs.f) {
        REQUIRE(bubble == (p - 1) * (costs.f + costs.i - costs.w));
      }
      // And everywhere:
      REQUIRE(bubble == (p - 1) * (costs.i + std::max<int64_t>(0, costs.f - costs.w)) +
                            std::max(0, p - m) * std::min(costs.f, costs.w));
    });
  }
}

TEST_CASE("Spans of a small pipeline, by hand") {
  const Costs costs = {10, 20, 20, 3};
  const Simulation s = Run(Params(PipelineKind::kOneFOneB, 2, 1, 1), costs);
  // F0 SEND_F0 RECV_B0 B0 REDUCE_GRAD STEP
  REQUIRE(s.spans[0] == std::vector<SimulatedSpan>{
                            {0, 10}, {10, 13}, {63, 66}, {66, 106}, {106, 109}, {109, 112}});
  // 1RECV_F0 1F0 1B0 1SEND_B0 REDUCE_GRAD STEP
  REQUIRE(s.spans[1] ==
          std::vector<SimulatedSpan>{{10, 13}, {13, 23}, {23, 63}, {63, 66}, {63, 66}, {66, 69}});
  REQUIRE(s.makespan_ns == 112);
  REQUIRE(s.ranks[0].busy_ns == 56);
  REQUIRE(s.ranks[0].bubble_ns == 56);
  REQUIRE(s.ranks[1].communication_ns == 6);
}

TEST_CASE("Encoders wait for the gradients of every stage that took their rows, by hand") {
  PipelineParams params = Params(PipelineKind::kOneFOneB, 2, 1, 1);
  params.encoders = {{"vit", true, true, 1}};
  CommunicationParams communication;
  communication.consumer_stages = {0, 1};
  communication.costs = CostsOf({10, 20, 20, 3});
  const Schedule schedule = AddCommunication(BuildPipeline(params), communication);
  REQUIRE(ToString(schedule.ranks[0]) ==
          "vit:F0 RESHARD_F0 RESHARD_F0@1 llm:F0 llm:SEND_F0 llm:RECV_B0 RESHARD_B0@1 llm:B0 "
          "RESHARD_B0 vit:B0 REDUCE_GRAD STEP");
  const Simulation s = Simulate(schedule, communication.costs);
  REQUIRE(s.spans[0] == std::vector<SimulatedSpan>{{0, 10},
                                                   {10, 13},
                                                   {10, 13},
                                                   {13, 23},
                                                   {23, 26},
                                                   {76, 79},
                                                   {79, 82},
                                                   {79, 119},
                                                   {119, 122},
                                                   {122, 162},
                                                   {162, 165},
                                                   {165, 168}});
}

// Two ranks of 1F1B have one micro-batch to spare for the way there and back, so that one transfer
// a micro-batch shows, and two at the ends. A receive posted late would make it two.
TEST_CASE("Transfers run beside compute") {
  const Costs slow = {1000, 1000, 1000, 300}, free = {1000, 1000, 1000, 0};
  for (int m : {2, 4, 16, 32}) {
    const PipelineParams params = Params(PipelineKind::kOneFOneB, 2, 1, m);
    Simulation with = Run(params, slow), without = Run(params, free);
    INFO("micro-batches " << m);
    // REDUCE_GRAD and STEP take the time of a transfer too.
    CHECK(with.makespan_ns - without.makespan_ns - 600 == 300 * m);
  }
}

// The order of transfers comes from nominal costs, which take rank 0 for the slower one: there its
// next RESHARD stands behind the receive of a gradient that rank 1 has still to make. Neither the
// copy nor the message in the other direction waits for it, and rank 1 never stands still.
TEST_CASE("A transfer holds up no compute and no other link") {
  PipelineParams params = Params(PipelineKind::kOneFOneB, 2, 1, 32);
  params.encoders = {{"vit", true, true, 1}};
  const Schedule schedule = AddCommunication(BuildPipeline(params));
  const Simulation s = Simulate(schedule, [](const Op& op, int rank) -> int64_t {
    const bool is_forward = op.kind == OpKind::kForward;
    if (!is_forward && op.kind != OpKind::kBackward) return 0;
    if (op.module == "vit") return is_forward ? 20 : 40;
    return rank == 0 ? (is_forward ? 22 : 40) : (is_forward ? 69 : 53);
  });
  REQUIRE(s.makespan_ns == (20 + 22) + 32 * (69 + 53) + (40 + 40));
  REQUIRE(s.ranks[1].busy_ns == 32 * (69 + 53));
}

TEST_CASE("A simulation refuses what cannot run") {
  Schedule schedule = AddCommunication(BuildPipeline(Params(PipelineKind::kOneFOneB, 2, 1, 3)));
  REQUIRE_THROWS_WITH(Simulate(schedule, [](const Op&, int) -> int64_t { return -1; }),
                      "schedule rank 0 op 0 llm:F0: takes -1 ns");
  std::swap(schedule.ranks[1][0], schedule.ranks[1][1]);
  REQUIRE_THROWS_WITH(Simulate(schedule, NominalCost), Catch::Matchers::Contains("deadlock"));
}

}  // namespace
}  // namespace omnitrain
