#include "parallel/schedule/schedule.h"

#include "core/base/error.h"
#include "parallel/schedule/execute.h"
#include "parallel/schedule/validate.h"
#include "tests/parallel/schedule/gradient_accumulation.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

GradientAccumulationParams Params(int num_micro_batches, std::vector<ScheduleModule> encoders) {
  GradientAccumulationParams params;
  params.num_micro_batches = num_micro_batches;
  params.encoders = std::move(encoders);
  return params;
}

const ScheduleModule kVit = {"vit", true, true, 1};
const ScheduleModule kAudio = {"audio", true, true, 1};
const ScheduleModule kFrozenVit = {"vit", true, false, 1};
const ScheduleModule kFrozenLlm = {"llm", false, false, 1};

std::string OpsOf(const GradientAccumulationParams& params) {
  const Schedule schedule = BuildGradientAccumulation(params);
  Validate(schedule);
  REQUIRE(ParseSchedule(ToString(schedule)) == schedule);
  return ToString(schedule.ranks.at(0));
}

/// A schedule like that of `params` whose only rank does `ops`; returns what Validate says.
std::string Verdict(const GradientAccumulationParams& params, const std::string& ops) {
  Schedule schedule = BuildGradientAccumulation(params);
  schedule.ranks = {ParseOps(ops)};
  try {
    Validate(schedule);
  } catch (const Error& error) {
    REQUIRE(error.code() == ErrorCode::kInternal);
    return error.what();
  }
  return "";
}

TEST_CASE("Gradient accumulation as text") {
  REQUIRE(OpsOf(Params(1, {kVit})) ==
          "vit:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP");
  REQUIRE(OpsOf(Params(2, {kVit, kAudio})) ==
          "vit:F0 audio:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 audio:B0 vit:B0 "
          "vit:F1 audio:F1 RESHARD_F1 llm:F1 llm:B1 RESHARD_B1 audio:B1 vit:B1 REDUCE_GRAD STEP");
  REQUIRE(OpsOf(Params(2, {})) == "llm:F0 llm:B0 llm:F1 llm:B1 REDUCE_GRAD STEP");
}

TEST_CASE("Frozen modules lose their part") {
  REQUIRE(OpsOf(Params(1, {kFrozenVit})) == "vit:F0 RESHARD_F0 llm:F0 llm:B0 REDUCE_GRAD STEP");
  REQUIRE(OpsOf(Params(1, {kFrozenVit, kAudio})) ==
          "vit:F0 audio:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 audio:B0 REDUCE_GRAD STEP");
  GradientAccumulationParams params = Params(1, {kVit});
  params.llm = kFrozenLlm;
  REQUIRE(OpsOf(params) == "vit:F0 RESHARD_F0 llm:F0 llm:I0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP");
  params.encoders = {kFrozenVit};
  REQUIRE_THROWS_WITH(BuildGradientAccumulation(params),
                      "train: every module is frozen, nothing is left to train");
}

TEST_CASE("An evaluation goes forward only") {
  GradientAccumulationParams params = Params(2, {kVit});
  params.purpose = SchedulePurpose::kEvaluate;
  REQUIRE(OpsOf(params) == "vit:F0 RESHARD_F0 llm:F0 vit:F1 RESHARD_F1 llm:F1");
}

TEST_CASE("A whole schedule is text") {
  const std::string text =
      "schedule train micro_batches=1\n"
      "module vit encoder frozen stages=1\n"
      "module llm llm trained stages=1\n"
      "rank 0: vit:F0 RESHARD_F0 llm:F0 llm:B0 REDUCE_GRAD STEP\n";
  REQUIRE(ToString(BuildGradientAccumulation(Params(1, {kFrozenVit}))) == text);
  REQUIRE(ParseSchedule("# a comment\n\n" + text) == ParseSchedule(text));
  REQUIRE_THROWS_WITH(ParseSchedule("schedule train micro_batches=x\n"),
                      Catch::Matchers::Contains("schedule line 1") &&
                          Catch::Matchers::Contains("micro_batches is no number"));
  REQUIRE_THROWS_WITH(
      ParseSchedule("schedule train micro_batches=1\nrank 1: STEP\n"),
      Catch::Matchers::Contains("schedule line 2") && Catch::Matchers::Contains("want rank 0:"));
  REQUIRE_THROWS_AS(ParseSchedule("module vit encoder frozen stages=1\n"), Error);
}

TEST_CASE("Validate names rank, position and op of what is wrong") {
  const auto params = Params(1, {kVit});
  const auto is = [&](const std::string& ops) { return Verdict(params, ops); };
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") == "");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:I0 RESHARD_B0 vit:I0 llm:W0 vit:W0 REDUCE_GRAD STEP") ==
          "");
  // Slices, and one RESHARD for each of them together.
  REQUIRE(is("vit:F0.0 vit:F0.1 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 vit:B0.1 vit:B0.0 REDUCE_GRAD "
             "STEP") == "");
  REQUIRE(is("vit:F0 llm:F0 llm:B0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 1 llm:F0: no RESHARD_F0 of vit before it");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:B0 llm:F0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 2 llm:B0: no llm:F0 before it");
  REQUIRE(is("RESHARD_F0 vit:F0 llm:F0 llm:B0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 0 RESHARD_F0: vit:F0 at op 1 comes later, its rows are missing");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 RESHARD_B0 llm:B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 3 RESHARD_B0: no llm:B0 before it");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:B0 vit:B0 RESHARD_B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 4 vit:B0: no RESHARD_B0 before it");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 REDUCE_GRAD vit:B0 STEP") ==
          "schedule rank 0 op 5 REDUCE_GRAD: vit:B0 at op 6 comes later, its weight gradient is "
          "missing");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 vit:B0 STEP REDUCE_GRAD") ==
          "schedule rank 0 op 6 STEP: no REDUCE_GRAD before it");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 vit:B0 REDUCE_GRAD") ==
          "schedule rank 0: 0 STEP ops");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 vit:B0 llm:REDUCE_GRAD STEP") ==
          "schedule rank 0: no REDUCE_GRAD of vit");
  REQUIRE(is("vit:F0 vit:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 1 vit:F0: stands twice");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 0 vit:F0: neither vit:B0 nor vit:I0 after it");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:I0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 3 llm:I0: no llm:W0 after it");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:I0 llm:B0 RESHARD_B0 vit:B0 llm:W0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 4 llm:B0: a second gradient after llm:I0");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:F0 llm:W0 llm:I0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 3 llm:W0: no I of its own before it");
  REQUIRE(is("vit:F1 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 0 vit:F1: 1 micro-batches");
  REQUIRE(is("vit:F0 RESHARD_F0 llm:1F0 llm:B0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 2 llm:1F0: 1 stages");
  REQUIRE(is("ear:F0") == "schedule rank 0 op 0 ear:F0: the schedule has no module ear");
  REQUIRE(Verdict(Params(2, {}), "llm:F0 llm:B0 REDUCE_GRAD STEP") ==
          "schedule: no rank has llm:F1");
}

TEST_CASE("FREE stands behind the last use") {
  const auto params = Params(1, {kVit});
  REQUIRE(Verdict(params,
                  "vit:F0 RESHARD_F0 llm:F0 llm:B0 llm:FREE0 RESHARD_B0 vit:B0 vit:FREE0 "
                  "REDUCE_GRAD STEP") == "");
  REQUIRE(Verdict(params,
                  "vit:F0 RESHARD_F0 llm:F0 llm:FREE0 llm:B0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 3 llm:FREE0: llm:B0 at op 4 comes later, which uses what it frees");
  REQUIRE(Verdict(params, "vit:F0 vit:FREE0 RESHARD_F0 llm:F0") ==
          "schedule rank 0 op 1 vit:FREE0: RESHARD_F0 at op 2 comes later, which uses what it "
          "frees");
  REQUIRE(Verdict(params, "vit:FREE0 vit:F0") ==
          "schedule rank 0 op 0 vit:FREE0: nothing to free yet");
}

TEST_CASE("Frozen modules and evaluations are held to it") {
  REQUIRE(Verdict(Params(1, {kFrozenVit}),
                  "vit:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 4 RESHARD_B0: every encoder is frozen");
  GradientAccumulationParams params = Params(1, {kVit});
  params.llm = kFrozenLlm;
  REQUIRE(Verdict(params, "vit:F0 RESHARD_F0 llm:F0 llm:B0 RESHARD_B0 vit:B0 REDUCE_GRAD STEP") ==
          "schedule rank 0 op 3 llm:B0: llm is frozen: it has no weight gradients");
  params = Params(1, {});
  params.purpose = SchedulePurpose::kEvaluate;
  REQUIRE(Verdict(params, "llm:F0 llm:B0") ==
          "schedule rank 0 op 1 llm:B0: an evaluation has no backward");
}

TEST_CASE("Two stages on two ranks are a valid schedule too") {
  const std::string text =
      "schedule train micro_batches=2\n"
      "module vit encoder trained stages=1\n"
      "module llm llm trained stages=2\n"
      "rank 0: vit:F0 RESHARD_F0 llm:F0 llm:SEND_F0 vit:F1 RESHARD_F1 llm:F1 llm:SEND_F1 "
      "llm:RECV_B0 llm:B0 RESHARD_B0 vit:B0 llm:RECV_B1 llm:B1 RESHARD_B1 vit:B1 REDUCE_GRAD "
      "STEP\n"
      "rank 1: llm:1RECV_F0 llm:1F0 llm:1RECV_F1 llm:1B0 llm:1SEND_B0 llm:1F1 llm:1B1 "
      "llm:1SEND_B1 REDUCE_GRAD STEP\n";
  REQUIRE(ToString(ParseSchedule(text)) == text);
  REQUIRE_NOTHROW(Validate(ParseSchedule(text)));
  std::string wrong = text;
  wrong.replace(wrong.find("llm:1B0 llm:1SEND_B0"), 20, "llm:1SEND_B0 llm:1B0");
  REQUIRE_THROWS_WITH(Validate(ParseSchedule(wrong)),
                      "schedule rank 1 op 3 llm:1SEND_B0: no B of its own before it");
  wrong = text;
  wrong.replace(wrong.find("llm:RECV_B0 llm:B0"), 18, "llm:B0 llm:RECV_B0");
  REQUIRE_THROWS_AS(Validate(ParseSchedule(wrong)), Error);
  // Rank 0 sends F1 before it receives B0, rank 1 the other way round.
  wrong = text;
  const std::string early = "llm:1RECV_F1 llm:1B0 llm:1SEND_B0";
  wrong.replace(wrong.find(early), early.size(), "llm:1B0 llm:1SEND_B0 llm:1RECV_F1");
  REQUIRE_THROWS_WITH(Validate(ParseSchedule(wrong)),
                      "schedule rank 0 op 7 llm:SEND_F1: deadlock: llm:SEND_F1 (rank 0 op 7) waits "
                      "for llm:RECV_B0 (rank 0 op 8) waits for it");
}

/// Writes down what it runs; fails at one op.
class Recorder : public OpRunner {
 public:
  explicit Recorder(std::string failing = "") : failing_(std::move(failing)) {}
  void Run(const Op& op) override {
    if (ToString(op) == failing_) Fail(ErrorCode::kData, "sample 7 is broken");
    ops.push_back(op);
  }
  std::vector<Op> ops;

 private:
  std::string failing_;
};

TEST_CASE("Execute walks the list, measures, and says where an error happened") {
  const Schedule schedule = BuildGradientAccumulation(Params(2, {kVit}));
  Recorder recorder;
  std::vector<OpSpan> spans;
  ExecuteOptions options;
  options.on_span = [&](const OpSpan& span) { spans.push_back(span); };
  Execute(schedule, 0, recorder, options);
  REQUIRE(recorder.ops == schedule.ranks[0]);
  REQUIRE(spans.size() == recorder.ops.size());
  for (size_t i = 0; i < spans.size(); ++i) {
    REQUIRE(spans[i].op == recorder.ops[i]);
    REQUIRE(spans[i].begin <= spans[i].end);
    if (i > 0) REQUIRE(spans[i - 1].end <= spans[i].begin);
  }
  Recorder failing("llm:B1");
  options.global_rank = 5;
  try {
    Execute(schedule, 0, failing, options);
    FAIL("no error");
  } catch (const Error& error) {
    REQUIRE(std::string(error.what()) == "rank 5 llm:B1: sample 7 is broken");
    REQUIRE(error.code() == ErrorCode::kData);
  }
  REQUIRE(failing.ops.back() == ParseOp("llm:F1"));
}

}  // namespace
}  // namespace omnitrain
