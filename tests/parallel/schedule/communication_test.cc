#include <set>

#include "core/base/error.h"
#include "parallel/schedule/add_communication.h"
#include "parallel/schedule/pipeline.h"
#include "parallel/schedule/validate.h"
#include "tests/parallel/schedule/gradient_accumulation.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

const ScheduleModule kVit = {"vit", true, true, 1};

PipelineParams Params(PipelineKind kind, int pp, int vpp, int num_micro_batches,
                      std::vector<ScheduleModule> encoders = {}) {
  PipelineParams params;
  params.kind = kind;
  params.pp = pp;
  params.vpp = vpp;
  params.num_micro_batches = num_micro_batches;
  params.encoders = std::move(encoders);
  return params;
}

Schedule Build(const PipelineParams& params, std::vector<int> consumer_stages = {0}) {
  CommunicationParams communication;
  communication.consumer_stages = std::move(consumer_stages);
  return AddCommunication(BuildPipeline(params), communication);
}

std::string Verdict(const Schedule& schedule, const std::vector<LiveLimit>& limits = {}) {
  try {
    Validate(schedule, limits);
  } catch (const Error& error) {
    REQUIRE(error.code() == ErrorCode::kInternal);
    return error.what();
  }
  return "";
}

std::vector<std::string> Lists(const Schedule& schedule) {
  REQUIRE(Verdict(schedule) == "");
  REQUIRE(ParseSchedule(ToString(schedule)) == schedule);
  std::vector<std::string> lists;
  for (const std::vector<Op>& ops : schedule.ranks) lists.push_back(ToString(ops));
  return lists;
}

using Texts = std::vector<std::string>;

TEST_CASE("1F1B with its communication as text") {
  REQUIRE(Lists(Build(Params(PipelineKind::kOneFOneB, 2, 1, 3))) ==
          Texts{"llm:F0 llm:SEND_F0 llm:F1 llm:SEND_F1 llm:RECV_B0 llm:B0 llm:RECV_B1 llm:F2 "
                "llm:SEND_F2 llm:B1 llm:RECV_B2 llm:B2 REDUCE_GRAD STEP",
                "llm:1RECV_F0 llm:1RECV_F1 llm:1F0 llm:1B0 llm:1SEND_B0 llm:1F1 llm:1B1 "
                "llm:1SEND_B1 llm:1RECV_F2 llm:1F2 llm:1B2 llm:1SEND_B2 REDUCE_GRAD STEP"});
}

TEST_CASE("Interleaved 1F1B with its communication as text") {
  REQUIRE(
      Lists(Build(Params(PipelineKind::kInterleaved, 2, 2, 2))) ==
      Texts{"llm:F0 llm:SEND_F0 llm:F1 llm:SEND_F1 llm:2RECV_F0 llm:2RECV_F1 llm:2F0 llm:2SEND_F0 "
            "llm:2F1 llm:2SEND_F1 llm:2RECV_B0 llm:2B0 llm:2SEND_B0 llm:2RECV_B1 llm:RECV_B0 "
            "llm:2B1 llm:2SEND_B1 llm:B0 llm:RECV_B1 llm:B1 REDUCE_GRAD STEP",
            "llm:1RECV_F0 llm:1RECV_F1 llm:1F0 llm:1SEND_F0 llm:1F1 llm:1SEND_F1 llm:3RECV_F0 "
            "llm:3RECV_F1 llm:3F0 llm:3B0 llm:3SEND_B0 llm:3F1 llm:1RECV_B0 llm:3B1 llm:3SEND_B1 "
            "llm:1B0 llm:1SEND_B0 llm:1RECV_B1 llm:1B1 llm:1SEND_B1 REDUCE_GRAD STEP"});
}

TEST_CASE("ZB-H1 with its communication as text") {
  REQUIRE(
      Lists(Build(Params(PipelineKind::kZeroBubbleH1, 2, 1, 3))) ==
      Texts{"llm:F0 llm:SEND_F0 llm:F1 llm:SEND_F1 llm:RECV_B0 llm:I0 llm:RECV_B1 llm:W0 llm:F2 "
            "llm:SEND_F2 llm:I1 llm:W1 llm:RECV_B2 llm:I2 llm:W2 REDUCE_GRAD STEP",
            "llm:1RECV_F0 llm:1RECV_F1 llm:1F0 llm:1I0 llm:1SEND_B0 llm:1F1 llm:1I1 llm:1SEND_B1 "
            "llm:1W0 llm:1RECV_F2 llm:1F2 llm:1I2 llm:1SEND_B2 llm:1W1 llm:1W2 REDUCE_GRAD STEP"});
}

TEST_CASE("Encoders feed the first stage, and deep-stack stages on other ranks, as text") {
  REQUIRE(
      Lists(Build(Params(PipelineKind::kOneFOneB, 2, 1, 2, {kVit}))) ==
      Texts{"vit:F0 RESHARD_F0 llm:F0 llm:SEND_F0 vit:F1 RESHARD_F1 llm:F1 llm:SEND_F1 llm:RECV_B0 "
            "llm:B0 RESHARD_B0 llm:RECV_B1 vit:B0 llm:B1 RESHARD_B1 vit:B1 REDUCE_GRAD STEP",
            "llm:1RECV_F0 llm:1F0 llm:1RECV_F1 llm:1B0 llm:1SEND_B0 llm:1F1 llm:1B1 llm:1SEND_B1 "
            "REDUCE_GRAD STEP"});
  REQUIRE(Lists(Build(Params(PipelineKind::kOneFOneB, 2, 1, 2, {kVit}), {0, 1})) ==
          Texts{"vit:F0 RESHARD_F0 RESHARD_F0@1 llm:F0 llm:SEND_F0 vit:F1 RESHARD_F1 RESHARD_F1@1 "
                "llm:F1 llm:SEND_F1 llm:RECV_B0 RESHARD_B0@1 llm:B0 RESHARD_B0 llm:RECV_B1 "
                "RESHARD_B1@1 vit:B0 llm:B1 RESHARD_B1 vit:B1 REDUCE_GRAD STEP",
                "RESHARD_F0@1 llm:1RECV_F0 RESHARD_F1@1 llm:1F0 llm:1RECV_F1 llm:1B0 llm:1SEND_B0 "
                "RESHARD_B0@1 llm:1F1 llm:1B1 llm:1SEND_B1 RESHARD_B1@1 REDUCE_GRAD STEP"});
}

TEST_CASE("One rank gives gradient accumulation") {
  for (PipelineKind kind :
       {PipelineKind::kOneFOneB, PipelineKind::kInterleaved, PipelineKind::kZeroBubbleH1}) {
    for (int bits = 0; bits < 32; ++bits) {
      GradientAccumulationParams want;
      want.num_micro_batches = 3;
      if (bits & 1) want.encoders.push_back({"vit", true, (bits & 4) != 0, 1});
      if (bits & 2) want.encoders.push_back({"audio", true, true, 1});
      want.llm.is_trained = (bits & 8) != 0;
      want.purpose = bits & 16 ? SchedulePurpose::kTrain : SchedulePurpose::kEvaluate;
      PipelineParams params = Params(kind, 1, 1, 3, want.encoders);
      params.llm = want.llm;
      params.purpose = want.purpose;
      const auto text_of = [](const auto& build) -> std::string {
        try {
          return ToString(build());
        } catch (const Error& error) {
          return error.what();
        }
      };
      REQUIRE(text_of([&] { return Build(params); }) ==
              text_of([&] { return BuildGradientAccumulation(want); }));
    }
  }
}

TEST_CASE("Validate names rank and op where ranks do not fit") {
  const Schedule good = Build(Params(PipelineKind::kOneFOneB, 2, 1, 2, {kVit}), {0, 1});
  // Takes the op out of the list of a rank.
  const auto without = [&](size_t rank, const std::string& token) {
    Schedule schedule = good;
    std::vector<Op>& ops = schedule.ranks[rank];
    for (size_t i = 0; i < ops.size(); ++i) {
      if (ToString(ops[i]) != token) continue;
      ops.erase(ops.begin() + static_cast<std::ptrdiff_t>(i));
      return Verdict(schedule);
    }
    return "no " + token;
  };
  CHECK(without(1, "llm:1RECV_F1") == "schedule rank 0 op 9 llm:SEND_F1: no rank has llm:1RECV_F1");
  CHECK(without(0, "llm:SEND_F1") == "schedule rank 1 op 4 llm:1RECV_F1: no rank has llm:SEND_F1");
  CHECK(without(1, "llm:1SEND_B0") ==
        "schedule rank 0 op 10 llm:RECV_B0: no rank has llm:1SEND_B0");
  CHECK(without(0, "llm:RECV_B0") == "schedule rank 1 op 6 llm:1SEND_B0: no rank has llm:RECV_B0");
  CHECK(without(1, "RESHARD_F1@1") ==
        "schedule rank 0 op 7 RESHARD_F1@1: rank 1 has llm:1F1 but no RESHARD_F1@1");
  CHECK(without(0, "RESHARD_F1@1") ==
        "schedule rank 1 op 2 RESHARD_F1@1: rank 0 has vit:F1 but no RESHARD_F1@1");
  CHECK(without(1, "RESHARD_B0@1") ==
        "schedule rank 1 op 0 RESHARD_F0@1: no RESHARD_B0@1 after it");
  CHECK(without(0, "RESHARD_B0@1") ==
        "schedule rank 0 op 2 RESHARD_F0@1: no RESHARD_B0@1 after it");
  Schedule neither = good;
  for (size_t rank : {size_t{0}, size_t{1}}) {
    std::vector<Op> kept;
    for (const Op& op : good.ranks[rank]) {
      if (op != ParseOp("llm:SEND_F1") && op != ParseOp("llm:1RECV_F1")) kept.push_back(op);
    }
    neither.ranks[rank] = kept;
  }
  CHECK(Verdict(neither) ==
        "schedule rank 1 op 7 llm:1F1: no llm:1RECV_F1 before it, and stage 0 is on another rank");
  Schedule uneven = good;
  for (std::vector<Op>& ops : uneven.ranks) {
    std::vector<Op> kept;
    for (const Op& op : ops) {
      if (op != ParseOp("RESHARD_F1@1") && op != ParseOp("RESHARD_B1@1")) kept.push_back(op);
    }
    ops = kept;
  }
  CHECK(Verdict(uneven) == "schedule rank 0 op 2 RESHARD_F0@1: but none of micro-batch 1");
}

TEST_CASE("Validate counts live activations") {
  const PipelineParams params = Params(PipelineKind::kOneFOneB, 2, 1, 3);
  Schedule eager = BuildPipeline(params);
  eager.ranks[0] = ParseOps("llm:F0 llm:F1 llm:F2 llm:B0 llm:B1 llm:B2 REDUCE_GRAD STEP");
  eager = AddCommunication(eager);
  REQUIRE(Verdict(eager) == "");
  CHECK(Verdict(eager, LiveLimits(params)) ==
        "schedule rank 0 op 4 llm:F2: 3 activations wait for their input gradient, limit 2");
  Schedule late = BuildPipeline(Params(PipelineKind::kZeroBubbleH1, 2, 1, 3));
  late.ranks[1] = ParseOps(
      "llm:1F0 llm:1I0 llm:1F1 llm:1I1 llm:1F2 llm:1I2 llm:1W0 llm:1W1 llm:1W2 REDUCE_GRAD STEP");
  CHECK(Verdict(AddCommunication(late), LiveLimits(Params(PipelineKind::kZeroBubbleH1, 2, 1, 3))) ==
        "schedule rank 1 op 9 llm:1F2: 3 activations wait for their weight gradient, limit 2");
}

/// The same text on every rank that takes part.
std::string TransferOf(Op op) {
  if (op.kind == OpKind::kRecvForward) {
    op.kind = OpKind::kSendForward;
    --op.stage;
  } else if (op.kind == OpKind::kRecvBackward) {
    op.kind = OpKind::kSendBackward;
    ++op.stage;
  }
  const bool is_communication =
      op.kind == OpKind::kSendForward || op.kind == OpKind::kSendBackward ||
      op.kind == OpKind::kReshardForward || op.kind == OpKind::kReshardBackward;
  return is_communication ? ToString(op) : "";
}

std::vector<std::string> TransfersOf(const std::vector<Op>& ops) {
  std::vector<std::string> transfers;
  for (const Op& op : ops) {
    if (TransferOf(op) != "") transfers.push_back(TransferOf(op));
  }
  return transfers;
}

/// Whether `a` and `b` have what they share in one order.
bool IsSameOrder(const std::vector<Op>& a, const std::vector<Op>& b) {
  const std::vector<std::string> of_a = TransfersOf(a), of_b = TransfersOf(b);
  const auto shared = [](const std::vector<std::string>& mine,
                         const std::vector<std::string>& theirs) {
    const std::set<std::string> others(theirs.begin(), theirs.end());
    std::vector<std::string> kept;
    for (const std::string& transfer : mine) {
      if (others.count(transfer) > 0) kept.push_back(transfer);
    }
    return kept;
  };
  return shared(of_a, of_b) == shared(of_b, of_a);
}

/// How many swaps of two communication ops of one rank leave its order against some partner wrong;
/// each must be refused.
int CountRefusedSwaps(const Schedule& schedule) {
  int num_refused = 0;
  for (size_t r = 0; r < schedule.ranks.size(); ++r) {
    const std::vector<Op>& ops = schedule.ranks[r];
    for (size_t i = 0; i < ops.size(); ++i) {
      for (size_t j = i + 1; j < ops.size(); ++j) {
        if (TransferOf(ops[i]) == "" || TransferOf(ops[j]) ==
                                            "schedule rank 1 op 9 llm:1F2: 3 activations wait for "
                                            "their weight gradient, limit 2")
          continue;
        Schedule swapped = schedule;
        std::swap(swapped.ranks[r][i], swapped.ranks[r][j]);
        bool is_same = true;
        for (size_t q = 0; q < schedule.ranks.size(); ++q) {
          if (q == r) continue;
          is_same = is_same && IsSameOrder(swapped.ranks[r], schedule.ranks[q]);
        }
        if (is_same) continue;
        INFO("rank " << r << ": " << ToString(ops[i]) << " and " << ToString(ops[j]) << " of\n"
                     << ToString(schedule));
        REQUIRE(Verdict(swapped) != "");
        ++num_refused;
      }
    }
  }
  return num_refused;
}

TEST_CASE("Every swap of two communication ops against a partner's order is refused") {
  int num_refused = 0;
  for (int pp : {2, 3}) {
    for (int m : {1, 2, 3, 4}) {
      for (PipelineKind kind :
           {PipelineKind::kOneFOneB, PipelineKind::kInterleaved, PipelineKind::kZeroBubbleH1}) {
        const int vpp = kind == PipelineKind::kInterleaved ? 2 : 1;
        num_refused += CountRefusedSwaps(Build(Params(kind, pp, vpp, m)));
        num_refused += CountRefusedSwaps(Build(Params(kind, pp, vpp, m, {kVit}), {0, 1}));
      }
    }
  }
  REQUIRE(num_refused > 1000);
}

}  // namespace
}  // namespace omnitrain
