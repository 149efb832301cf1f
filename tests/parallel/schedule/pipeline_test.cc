#include "parallel/schedule/pipeline.h"

#include "core/base/error.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

const ScheduleModule kVit = {"vit", true, true, 1};
const ScheduleModule kFrozenVit = {"vit", true, false, 1};

PipelineParams Params(PipelineKind kind, int pp, int vpp, int num_micro_batches) {
  PipelineParams params;
  params.kind = kind;
  params.pp = pp;
  params.vpp = vpp;
  params.num_micro_batches = num_micro_batches;
  return params;
}

std::vector<std::string> Lists(const PipelineParams& params) {
  std::vector<std::string> lists;
  for (const std::vector<Op>& ops : BuildPipeline(params).ranks) lists.push_back(ToString(ops));
  return lists;
}

using Texts = std::vector<std::string>;

TEST_CASE("1F1B as text") {
  REQUIRE(Lists(Params(PipelineKind::kOneFOneB, 2, 1, 3)) ==
          Texts{"llm:F0 llm:F1 llm:B0 llm:F2 llm:B1 llm:B2 REDUCE_GRAD STEP",
                "llm:1F0 llm:1B0 llm:1F1 llm:1B1 llm:1F2 llm:1B2 REDUCE_GRAD STEP"});
  // Fewer micro-batches than ranks.
  REQUIRE(Lists(Params(PipelineKind::kOneFOneB, 3, 1, 1)) ==
          Texts{"llm:F0 llm:B0 REDUCE_GRAD STEP", "llm:1F0 llm:1B0 REDUCE_GRAD STEP",
                "llm:2F0 llm:2B0 REDUCE_GRAD STEP"});
}

TEST_CASE("Interleaved 1F1B as text") {
  REQUIRE(Lists(Params(PipelineKind::kInterleaved, 2, 2, 2)) ==
          Texts{"llm:F0 llm:F1 llm:2F0 llm:2F1 llm:2B0 llm:2B1 llm:B0 llm:B1 REDUCE_GRAD STEP",
                "llm:1F0 llm:1F1 llm:3F0 llm:3B0 llm:3F1 llm:3B1 llm:1B0 llm:1B1 REDUCE_GRAD "
                "STEP"});
  // Three micro-batches: the order of four without the last.
  REQUIRE(Lists(Params(PipelineKind::kInterleaved, 2, 2, 3))[1] ==
          "llm:1F0 llm:1F1 llm:3F0 llm:3B0 llm:3F1 llm:3B1 llm:1F2 llm:1B0 llm:1B1 llm:3F2 llm:3B2 "
          "llm:1B2 REDUCE_GRAD STEP");
  REQUIRE(Lists(Params(PipelineKind::kInterleaved, 3, 1, 4)) ==
          Lists(Params(PipelineKind::kOneFOneB, 3, 1, 4)));
}

TEST_CASE("ZB-H1 as text") {
  REQUIRE(Lists(Params(PipelineKind::kZeroBubbleH1, 2, 1, 3)) ==
          Texts{"llm:F0 llm:F1 llm:I0 llm:W0 llm:F2 llm:I1 llm:W1 llm:I2 llm:W2 REDUCE_GRAD STEP",
                "llm:1F0 llm:1I0 llm:1F1 llm:1I1 llm:1W0 llm:1F2 llm:1I2 llm:1W1 llm:1W2 "
                "REDUCE_GRAD STEP"});
}

TEST_CASE("Encoders stand on the first stage, frozen modules lose their part") {
  PipelineParams params = Params(PipelineKind::kOneFOneB, 2, 1, 2);
  params.encoders = {kVit, {"audio", true, true, 1}};
  REQUIRE(Lists(params) ==
          Texts{"vit:F0 audio:F0 llm:F0 vit:F1 audio:F1 llm:F1 llm:B0 audio:B0 vit:B0 llm:B1 "
                "audio:B1 vit:B1 REDUCE_GRAD STEP",
                "llm:1F0 llm:1B0 llm:1F1 llm:1B1 REDUCE_GRAD STEP"});
  params.encoders = {kFrozenVit};
  REQUIRE(Lists(params)[0] == "vit:F0 llm:F0 vit:F1 llm:F1 llm:B0 llm:B1 REDUCE_GRAD STEP");
  params.purpose = SchedulePurpose::kEvaluate;
  REQUIRE(Lists(params) == Texts{"vit:F0 llm:F0 vit:F1 llm:F1", "llm:1F0 llm:1F1"});
  params.purpose = SchedulePurpose::kTrain;
  params.llm.is_trained = false;
  REQUIRE_THROWS_WITH(BuildPipeline(params),
                      "train: every module is frozen, nothing is left to train");
  params.encoders = {kVit};
  for (PipelineKind kind : {PipelineKind::kOneFOneB, PipelineKind::kZeroBubbleH1}) {
    params.kind = kind;
    REQUIRE(Lists(params) ==
            Texts{"vit:F0 llm:F0 vit:F1 llm:F1 llm:I0 vit:B0 llm:I1 vit:B1 REDUCE_GRAD STEP",
                  "llm:1F0 llm:1I0 llm:1F1 llm:1I1 REDUCE_GRAD STEP"});
  }
}

TEST_CASE("Only the interleaved schedule takes chunks") {
  for (PipelineKind kind : {PipelineKind::kOneFOneB, PipelineKind::kZeroBubbleH1}) {
    REQUIRE_THROWS_WITH(BuildPipeline(Params(kind, 2, 2, 2)),
                        "parallel.llm.vpp: 2 chunks a rank need the interleaved schedule");
  }
}

}  // namespace
}  // namespace omnitrain
