#include "core/base/error.h"
#include "core/spec/job_spec.h"
#include "tests/core/spec/temp_files.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

/// The message of the kSpec error that `f` throws, with the name of the temporary folder cut off.
template <typename F>
std::string Refusal(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kSpec);
    std::string message = e.what();
    const std::string root = TempFilesRoot() + "/";
    for (size_t at; (at = message.find(root)) != std::string::npos;) {
      message.erase(at, message.find('/', at + root.size()) + 1 - at);
    }
    return message;
  }
  return "nothing was refused";
}

/// The minimal job with `yaml` from line 5 on.
std::string RefusalOf(const std::string& yaml, const std::vector<std::string>& sets = {}) {
  return Refusal([&] { LoadJobSpec({WriteTempFile("job.yaml", MinimalYaml() + yaml)}, sets); });
}

TEST_CASE("unknown keys") {
  CHECK(RefusalOf("optim:\n  learning_rate: 1\n") ==
        "job.yaml:6: unknown key 'optim.learning_rate'; did you mean 'optim.lr'?");
  CHECK(RefusalOf("seed: 1\n") == "job.yaml:5: unknown key 'seed'; did you mean 'run.seed'?");
  CHECK(RefusalOf("optm: {lr: 1}\n") == "job.yaml:5: unknown key 'optm'; did you mean 'optim'?");
  CHECK(RefusalOf("plan: {zzzzzzzz: 1}\n") ==
        "job.yaml:5: unknown key 'plan.zzzzzzzz'; the keys here are costs");
  CHECK(RefusalOf("eval: {sources: [{path: a}, {pth: b}]}\n") ==
        "job.yaml:5: unknown key 'eval.sources.1.pth'; did you mean 'eval.sources.1.path'?");
  CHECK(RefusalOf("optim.lr: 1\n") ==
        "job.yaml:5: unknown key 'optim.lr'; a file nests keys, dots are for --set");
  CHECK(RefusalOf("", {"optim.learning_rate=1"}) ==
        "--set optim.learning_rate=1: unknown key 'optim.learning_rate'; did you mean 'optim.lr'?");
}

TEST_CASE("duplicate keys") {
  CHECK(RefusalOf("optim:\n  lr: 1\n  clip: 1\n  lr: 2\n") ==
        "job.yaml:8: duplicate key 'optim.lr', first given at job.yaml:6");
  CHECK(RefusalOf("batch: {samples: 8}\n") ==
        "job.yaml:5: duplicate key 'batch', first given at job.yaml:4");
}

TEST_CASE("wrong types") {
  CHECK(RefusalOf("optim: {warmup_steps: many}\n") ==
        "job.yaml:5: optim.warmup_steps: expected an integer, got 'many'");
  CHECK(RefusalOf("optim: {warmup_steps: 1.5}\n") ==
        "job.yaml:5: optim.warmup_steps: expected an integer, got '1.5'");
  CHECK(RefusalOf("optim: {warmup_steps: \"1\"}\n") ==
        "job.yaml:5: optim.warmup_steps: expected an integer, got '1'");
  CHECK(RefusalOf("optim:\n  lr: fast\n") == "job.yaml:6: optim.lr: expected a number, got 'fast'");
  CHECK(RefusalOf("optim: {lr: [1]}\n") == "job.yaml:5: optim.lr: expected a number, got a list");
  CHECK(RefusalOf("optim: {lr:}\n") == "job.yaml:5: optim.lr: expected a number, got null");
  CHECK(RefusalOf("train: {llm: {freeze: yes}}\n") ==
        "job.yaml:5: train.llm.freeze: expected true or false, got 'yes'");
  CHECK(RefusalOf("metrics: {tensorboard: 17}\n") ==
        "job.yaml:5: metrics.tensorboard: expected a string, got 17; write \"17\", in quotes");
  CHECK(RefusalOf("optim: 3\n") == "job.yaml:5: optim: expected a map of keys, got '3'");
  CHECK(RefusalOf("eval: {sources: path}\n") ==
        "job.yaml:5: eval.sources: expected a list of maps, got 'path'");
  CHECK(RefusalOf("eval: {sources: [path]}\n") ==
        "job.yaml:5: eval.sources.0: expected a map of keys, got 'path'");
  CHECK(RefusalOf("optim: {betas: [0.9]}\n") ==
        "job.yaml:5: optim.betas: expected 2 numbers, got 1");
  CHECK(RefusalOf("metrics: {trace_steps: [1, x]}\n") ==
        "job.yaml:5: metrics.trace_steps.1: expected an integer, got 'x'");
  CHECK(RefusalOf("", {"optim.lr=abc"}) ==
        "--set optim.lr=abc: optim.lr: expected a number, got 'abc'");
}

TEST_CASE("bad choices") {
  CHECK(
      RefusalOf("optim: {schedule: cosin}\n") ==
      "job.yaml:5: optim.schedule: expected one of cosine, constant, linear, got 'cosin'; did you "
      "mean 'cosine'?");
  CHECK(RefusalOf("precision: int8x\n") ==
        "job.yaml:5: precision: expected one of bf16, fp32, fp64, got 'int8x'");
}

TEST_CASE("values out of range") {
  CHECK(RefusalOf("optim: {lr: -1}\n") == "job.yaml:5: optim.lr: -1 is out of range; expected > 0");
  CHECK(RefusalOf("optim: {lr: .nan}\n") ==
        "job.yaml:5: optim.lr: .nan is out of range; expected > 0");
  CHECK(RefusalOf("optim: {lr: 1e999}\n") ==
        "job.yaml:5: optim.lr: 1e999 is out of range; expected > 0");
  CHECK(RefusalOf("optim: {betas: [0.9, 1]}\n") ==
        "job.yaml:5: optim.betas.1: 1 is out of range; expected 0 <= x < 1");
  CHECK(RefusalOf("parallel: {llm: {tp: 0}}\n") ==
        "job.yaml:5: parallel.llm.tp: 0 is out of range; expected >= 1");
  CHECK(RefusalOf("parallel: {llm: {tp: 4294967297}}\n") ==
        "job.yaml:5: parallel.llm.tp: 4294967297 is out of range; expected >= 1");
  CHECK(RefusalOf("optim: {warmup_steps: 99999999999999999999}\n") ==
        "job.yaml:5: optim.warmup_steps: 99999999999999999999 is out of range; expected >= 0");
}

TEST_CASE("broken files") {
  CHECK(Refusal([] { LoadJobSpec({TempFilesRoot() + "/none/job.yaml"}, {}); }) ==
        "job.yaml: cannot open: No such file or directory");
  CHECK(RefusalOf("optim: {lr: [}\n").find("job.yaml:5: not valid YAML: ") == 0);
  CHECK(RefusalOf("---\nrun: {}\n") == "job.yaml: holds 2 YAML documents, expected one");
  CHECK(Refusal([] { LoadJobSpec({WriteTempFile("list.yaml", "- a\n")}, {}); }) ==
        "list.yaml:1: expected a map of keys, got a list");
  CHECK(Refusal([] {
          LoadJobSpec({WriteTempFile("job.yaml", "run: &a\n  x: *a\n")}, {});
        }).find("nested too deeply") != std::string::npos);
}

TEST_CASE("broken --set") {
  CHECK(RefusalOf("", {"optim.lr"}) ==
        "--set optim.lr: expected key=value, as in --set optim.lr=1e-4");
  CHECK(RefusalOf("", {"optim..lr=1"}) == "--set optim..lr=1: 'optim..lr' is not a key");
  CHECK(RefusalOf("", {"data.sources.path=x"}) ==
        "--set data.sources.path=x: 'data.sources' is a list of 1: choose an entry by index "
        "(data.sources.0), or append with +=");
  CHECK(RefusalOf("", {"data.sources.2.path=x"}) ==
        "--set data.sources.2.path=x: 'data.sources' is a list of 1: there is no entry 2");
  CHECK(RefusalOf("", {"run.steps+=1"}) ==
        "--set run.steps+=1: 'run.steps' is not a list, += appends to lists");
  CHECK(RefusalOf("", {"optim={lr: 1, lr: 2}"}) ==
        "--set optim={lr: 1, lr: 2}: duplicate key 'lr', first given at --set optim={lr: 1, lr: "
        "2}");
  CHECK(RefusalOf("", {"optim.lr=["}).find("--set optim.lr=[: not valid YAML: ") == 0);
  CHECK(RefusalOf("", {"precision.x=1"}) ==
        "--set precision.x=1: precision: expected one of bf16, fp32, fp64, got a map");
}

TEST_CASE("all problems are listed at once") {
  CHECK(
      RefusalOf("optim:\n  lr: x\n  cilp: 1\nprecision: fp16\n") ==
      "job.yaml:6: optim.lr: expected a number, got 'x'\n"
      "job.yaml:7: unknown key 'optim.cilp'; did you mean 'optim.clip'?\n"
      "job.yaml:8: precision: expected one of bf16, fp32, fp64, got 'fp16'; did you mean 'bf16'?");
}

TEST_CASE("contradictions between keys") {
  CHECK(RefusalOf("optim:\n  warmup_steps: 11\n") ==
        "job.yaml:6: optim.warmup_steps: 11 is more than run.steps, 10");
  CHECK(RefusalOf("precision: bf16\nruntime: {device: cpu}\n") ==
        "job.yaml:5: precision: bf16 needs runtime.device: cuda; use fp32 or fp64 on the CPU");
  CHECK(RefusalOf("precision: fp64\nruntime: {device: cuda}\n") ==
        "job.yaml:5: precision: fp64 needs runtime.device: cpu; use bf16 or fp32 on a GPU");
  CHECK(RefusalOf("", {"batch.tokens=5"}) == "job.yaml:4: batch: give samples or tokens, not both");
  CHECK(RefusalOf("", {"batch.samples=0"}) ==
        "job.yaml:4: batch: required: samples or tokens of a step");
  CHECK(RefusalOf("", {"model.arch={family: qwen3_vl}"}) ==
        "--set model.arch={family: qwen3_vl}: model.arch: model.hf already says what the model is; "
        "give one");
  CHECK(RefusalOf("", {"model.arch={family: qwen3_vl}", "model.hf=null"}) ==
        "job.yaml:3: data.tokenizer: required with model.arch");
  CHECK(RefusalOf("", {"parallel.order=[tp, tp, dp, pp]"}) ==
        "--set parallel.order=[tp, tp, dp, pp]: parallel.order: expected tp, cp, dp and pp, each "
        "once, got [tp, tp, dp, pp]");
  CHECK(RefusalOf("eval: {captions: 4}\n") == "job.yaml:5: eval.captions: needs eval.sources");
  CHECK(RefusalOf("data: {image: {min_pixels: 9, max_pixels: 8}}\n").find("duplicate") !=
        std::string::npos);
  CHECK(RefusalOf("", {"data.image={min_pixels: 9, max_pixels: 8}"}) ==
        "--set data.image={min_pixels: 9, max_pixels: 8}: data.image.min_pixels: 9 is more than "
        "max_pixels, 8");
  CHECK(RefusalOf("", {"data.sources.0={path: x, format: messages, prompts: [a]}"})
            .find("data.sources.0.prompts: messages bring their own prompts") != std::string::npos);
  CHECK(RefusalOf("parallel: {llm: {vpp: 2}}\n") ==
        "job.yaml:5: parallel.llm.vpp: vpp=2 needs pp > 1, which is 1");
  CHECK(RefusalOf("parallel: {llm: {dp: 2, cp: 3, ep: 4}}\n") ==
        "job.yaml:5: parallel.llm.ep: ep=4 does not divide dp*cp*tp = 2*3*1");
  CHECK(RefusalOf("train: {recompute_layers: 2}\n") ==
        "job.yaml:5: train.recompute_layers: needs train.recompute selective or full, not auto");
  CHECK(RefusalOf("train: {recompute: full, recompute_layers: 0}\n") ==
        "job.yaml:5: train.recompute_layers: 0 is out of range; expected >= 1");
  const JobSpec empty;
  CHECK(Refusal([&] { Validate(empty); }) ==
        "run.steps: required: how many optimizer steps to train\n"
        "model: required: model.hf (a Hugging Face directory) or model.arch\n"
        "data.sources: required: at least one\n"
        "batch: required: samples or tokens of a step");
}

TEST_CASE("a partial spec parses without being a whole job") {
  CHECK(ParseJobSpec({}, {"parallel.llm.pp=2"}).parallel.llm.pp == 2);
  CHECK(Refusal([] { ParseJobSpec({}, {"parallel.llm.pq=2"}); }) ==
        "--set parallel.llm.pq=2: unknown key 'parallel.llm.pq'; did you mean 'parallel.llm.pp'?");
}

TEST_CASE("paths that do not exist") {
  JobSpec spec = ParseJobSpec({WriteTempFile("job.yaml", MinimalYaml())}, {});
  CHECK(Refusal([&] { CheckPaths(spec); }) ==
        "model.hf: some/model: no such file or directory\n"
        "data.sources.0.path: some/data: no such file or directory");
  spec.model.hf = "/tmp";
  spec.data.sources[0].path = "/tmp/shard-{000..003}.tar";
  CHECK_NOTHROW(CheckPaths(spec));
  spec.data.sources[0].path = "/tmp/omnitrain-none/shard-{000..003}.tar";
  CHECK(Refusal([&] { CheckPaths(spec); }) ==
        "data.sources.0.path: /tmp/omnitrain-none/shard-{000..003}.tar: no such file or directory");
}

TEST_CASE("what is not built yet is refused, not ignored") {
  JobSpec spec = ParseJobSpec({WriteTempFile("job.yaml", MinimalYaml())}, {});
  CHECK_NOTHROW(RefuseUnsupported(spec));
  spec.plan.costs = PlanCosts::kFitted;
  spec.parallel.encoder.placement = Placement::kBubble;
  CHECK(Refusal([&] { RefuseUnsupported(spec); }) ==
        "parallel.encoder.placement: only first_stage (auto; with pp=1 joint) is supported by this "
        "version\n"
        "plan.costs: only flops is supported by this version");
  spec = ParseJobSpec({WriteTempFile("job.yaml", MinimalYaml())}, {});
  spec.parallel.encoder.placement = Placement::kJoint;
  CHECK_NOTHROW(RefuseUnsupported(spec));
  spec.parallel.llm.pp = 2;
  CHECK_THROWS_AS(RefuseUnsupported(spec), Error);
  spec.parallel.encoder.placement = Placement::kAuto;
  spec.parallel.llm.schedule = PipelineSchedule::kZeroBubble;
  spec.train.recompute = RecomputeChoice::kNone;
  CHECK_NOTHROW(RefuseUnsupported(spec));
  spec.train.recompute = RecomputeChoice::kSelective;
  CHECK(Refusal([&] { RefuseUnsupported(spec); }) ==
        "train.recompute: selective needs a backward in one piece, which zero_bubble splits");
}

TEST_CASE("layers are sharded without a pipeline only") {
  const auto refusal = [](const std::vector<std::string>& sets) {
    return Refusal([&] { RefuseUnsupported(ParseJobSpec({}, sets)); });
  };
  CHECK(refusal({"parallel.llm.zero_stage=3"}) == "nothing was refused");
  CHECK(refusal({"parallel.llm.zero_stage=1", "parallel.llm.pp=2"}) == "nothing was refused");
  CHECK(refusal({"parallel.llm.zero_stage=2"}) ==
        "parallel.llm.zero_stage: only 1 or 3 is supported by this version");
  CHECK(refusal({"parallel.llm.zero_stage=3", "parallel.llm.pp=2"}) ==
        "parallel.llm.zero_stage: 3 needs pp=1, which is 2");
  CHECK(refusal({"parallel.llm.zero_stage=3", "parallel.llm.schedule=zero_bubble"}) ==
        "parallel.llm.zero_stage: 3 needs a backward in one piece, which schedule zero_bubble "
        "splits");
  CHECK(refusal({"parallel.llm.zero_stge=3"}) ==
        "--set parallel.llm.zero_stge=3: unknown key 'parallel.llm.zero_stge'; did you mean "
        "'parallel.llm.zero_stage'?");
  CHECK(refusal({"parallel.llm.zero_stage=0"}) ==
        "--set parallel.llm.zero_stage=0: parallel.llm.zero_stage: 0 is out of range; expected 1 "
        ".. 3");
}

}  // namespace
}  // namespace omnitrain
