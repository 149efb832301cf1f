#include "parallel/schedule/memory_plan.h"

#include <algorithm>
#include <numeric>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "tests/parallel/schedule/gradient_accumulation.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

size_t Aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

/// The first pair of requests that share an op and a byte, or "".
std::string Overlap(const std::vector<BlockRequest>& requests, const ArenaPlan& plan) {
  for (size_t a = 0; a < requests.size(); ++a) {
    for (size_t b = 0; b < a; ++b) {
      const bool share_op = requests[a].first_op <= requests[b].last_op &&
                            requests[b].first_op <= requests[a].last_op;
      const bool share_byte = plan.offsets[a] < plan.offsets[b] + requests[b].bytes &&
                              plan.offsets[b] < plan.offsets[a] + requests[a].bytes;
      if (share_op && share_byte && requests[a].bytes > 0 && requests[b].bytes > 0) {
        return requests[a].name + " and " + requests[b].name;
      }
    }
  }
  return "";
}

Op Key(const std::string& module, int micro_batch, int slice = -1) {
  Op key;
  key.module = module;
  key.micro_batch = micro_batch;
  key.slice = slice;
  return key;
}

Schedule Accumulation(int num_micro_batches, SchedulePurpose purpose = SchedulePurpose::kTrain) {
  GradientAccumulationParams params;
  params.num_micro_batches = num_micro_batches;
  params.encoders = {{"vit", true, true, 1}};
  params.purpose = purpose;
  return BuildGradientAccumulation(params);
}

/// The blocks of a model whose micro-batches are all alike.
std::vector<BlockRule> Rules(int num_micro_batches) {
  std::vector<BlockRule> rules;
  for (int i = 0; i < num_micro_batches; ++i) {
    rules.push_back({Key("vit", i), "vit.x", 5000, BlockLifetime::kForWeightGrad});
    rules.push_back({Key("vit", i), "vit.scratch", 3000, BlockLifetime::kForward});
    rules.push_back({Key("vit", i), "vit.out", 1000, BlockLifetime::kOutput});
    rules.push_back({Key("vit", i), "vit.dout", 1000, BlockLifetime::kOutputGrad});
    rules.push_back({Key("llm", i), "llm.rows", 1000, BlockLifetime::kInjected});
    rules.push_back({Key("llm", i), "llm.drows", 1000, BlockLifetime::kInjectedGrad});
    rules.push_back({Key("llm", i), "llm.x", 9000, BlockLifetime::kForWeightGrad});
    rules.push_back({Key("llm", i), "llm.rstd", 70, BlockLifetime::kForInputGrad});
  }
  return rules;
}

TEST_CASE("Blocks alive together never overlap, others share memory") {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const int num_ops = 1 + static_cast<int>(RandomBits(seed, 1, 0) % 40);
    const int num_blocks = static_cast<int>(RandomBits(seed, 1, 1) % 60);
    std::vector<BlockRequest> requests;
    size_t sum = 0;
    for (int i = 0; i < num_blocks; ++i) {
      const auto random = [&](uint64_t k) {
        return RandomBits(seed, 2 + k, static_cast<uint64_t>(i));
      };
      BlockRequest request;
      request.name = std::to_string(i);
      request.bytes = random(0) % 5 == 0 ? 0 : random(1) % 10000;
      request.first_op = static_cast<int>(random(2) % static_cast<uint64_t>(num_ops));
      request.last_op = std::min(num_ops, request.first_op + static_cast<int>(random(3) % 8));
      sum += Aligned(request.bytes);
      requests.push_back(request);
    }
    const ArenaPlan plan = PlanArena(requests);
    INFO("seed " << seed);
    REQUIRE(Overlap(requests, plan) == "");
    size_t end = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      REQUIRE(plan.offsets[i] % ArenaPlan::kAlignment == 0);
      if (requests[i].bytes > 0) end = std::max(end, plan.offsets[i] + Aligned(requests[i].bytes));
    }
    REQUIRE(plan.arena_bytes == end);
    REQUIRE(plan.arena_bytes <= sum);
    REQUIRE(plan.lower_bound_bytes <= plan.arena_bytes);
    // Best fit wastes something now and then; half as much again would be a fault.
    REQUIRE(plan.arena_bytes <= plan.lower_bound_bytes * 3 / 2);
  }
}

TEST_CASE("Lifetimes follow from the schedule") {
  // 0 vit:F0  1 RESHARD_F0  2 llm:F0  3 llm:B0  4 RESHARD_B0  5 vit:B0  6 vit:F1 ...
  const Schedule schedule = Accumulation(2);
  std::vector<std::string> spans;
  for (const BlockRequest& r : DeriveRequests(schedule, 0, Rules(2))) {
    spans.push_back(r.name + " " + std::to_string(r.first_op) + "-" + std::to_string(r.last_op));
  }
  REQUIRE(spans ==
          std::vector<std::string>{"vit.x 0-5", "vit.scratch 0-0", "vit.out 0-1", "vit.dout 4-5",
                                   "llm.rows 1-2", "llm.drows 3-4", "llm.x 2-3", "llm.rstd 2-3",
                                   "vit.x 6-11", "vit.scratch 6-6", "vit.out 6-7", "vit.dout 10-11",
                                   "llm.rows 7-8", "llm.drows 9-10", "llm.x 8-9", "llm.rstd 8-9"});
}

TEST_CASE("What I and W need ends at its own op") {
  Schedule schedule = Accumulation(1);
  schedule.ranks[0] =
      ParseOps("vit:F0 RESHARD_F0 llm:F0 llm:I0 RESHARD_B0 vit:B0 llm:W0 REDUCE_GRAD STEP");
  const auto requests =
      DeriveRequests(schedule, 0,
                     {{Key("llm", 0), "for I", 1, BlockLifetime::kForInputGrad},
                      {Key("llm", 0), "for W", 1, BlockLifetime::kForWeightGrad},
                      {Key("llm", 0), "I to W", 1, BlockLifetime::kInputGradToWeightGrad}});
  REQUIRE(requests[0].last_op == 3);
  REQUIRE(requests[1].last_op == 6);
  REQUIRE(requests[2].first_op == 3);
  REQUIRE(requests[2].last_op == 6);
}

TEST_CASE("What travels lives from its receive until its send is over") {
  Schedule schedule = Accumulation(2);
  schedule.modules[1].num_stages = 2;
  schedule.ranks = {
      // 0         1          2      3        4       5          6      7        8
      ParseOps("vit:F0 RESHARD_F0 RESHARD_F0@1 llm:F0 llm:SEND_F0 vit:F1 RESHARD_F1 RESHARD_F1@1 "
               // 8     9         10         11     12            13           14
               "llm:F1 llm:SEND_F1 llm:RECV_B0 RESHARD_B0@1 llm:B0 RESHARD_B0 vit:B0 llm:RECV_B1 "
               "RESHARD_B1@1 llm:B1 RESHARD_B1 vit:B1 REDUCE_GRAD STEP"),
      // 0                1               2       3       4              5
      ParseOps("RESHARD_F0@1 llm:1RECV_F0 llm:1F0 llm:1B0 llm:1SEND_B0 RESHARD_B0@1 "
               // 6          7           8       9       10             11
               "RESHARD_F1@1 llm:1RECV_F1 llm:1F1 llm:1B1 llm:1SEND_B1 RESHARD_B1@1 "
               "REDUCE_GRAD STEP")};
  Op first = Key("llm", 0), last = Key("llm", 0);
  last.stage = 1;
  const auto spans = [&](int rank, const Op& key) {
    std::vector<std::pair<int, int>> result;
    for (BlockLifetime life : {BlockLifetime::kForWeightGrad, BlockLifetime::kStageGrad,
                               BlockLifetime::kInjected, BlockLifetime::kInjectedGrad}) {
      const BlockRequest r = DeriveRequests(schedule, rank, {{key, "x", 1, life}})[0];
      result.emplace_back(r.first_op, r.last_op);
    }
    return result;
  };
  using Spans = std::vector<std::pair<int, int>>;
  // What RESHARD_F0@1 hands on stays until the second compute op behind it.
  CHECK(spans(0, first) == Spans{{3, 12}, {10, 12}, {1, 5}, {11, 13}});
  CHECK(spans(1, last) == Spans{{1, 3}, {3, 9}, {0, 2}, {3, 9}});
}

TEST_CASE("An evaluation keeps nothing for a backward") {
  const Schedule schedule = Accumulation(3, SchedulePurpose::kEvaluate);
  const auto requests =
      DeriveRequests(schedule, 0, {{Key("llm", 1), "llm.x", 9000, BlockLifetime::kForWeightGrad}});
  REQUIRE(requests[0].first_op == 5);
  REQUIRE(requests[0].last_op == 5);
  REQUIRE_THROWS_WITH(
      DeriveRequests(schedule, 0, {{Key("vit", 1), "vit.dout", 1, BlockLifetime::kOutputGrad}}),
      Catch::Matchers::Contains("block vit.dout of vit:F1 begins at RESHARD_B"));
}

TEST_CASE("The arena does not grow with the number of micro-batches") {
  const size_t one = PlanArena(DeriveRequests(Accumulation(1), 0, Rules(1))).arena_bytes;
  REQUIRE(one == PlanArena(DeriveRequests(Accumulation(1), 0, Rules(1))).lower_bound_bytes);
  for (int n : {2, 3, 17}) {
    const auto requests = DeriveRequests(Accumulation(n), 0, Rules(n));
    const ArenaPlan plan = PlanArena(requests);
    REQUIRE(Overlap(requests, plan) == "");
    REQUIRE(plan.arena_bytes == one);
  }
}

TEST_CASE("No blocks need no memory") {
  REQUIRE(PlanArena({}).arena_bytes == 0);
  REQUIRE(PlanArena({{"empty", 0, 3, 4}}).arena_bytes == 0);
  REQUIRE_THROWS_AS(PlanArena({{"backwards", 1, 4, 3}}), Error);
}

}  // namespace
}  // namespace omnitrain
