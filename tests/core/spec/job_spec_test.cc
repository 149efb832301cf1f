#include "core/spec/job_spec.h"

#include "core/spec/json_echo.h"
#include "tests/core/spec/temp_files.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

JobSpec Load(const std::string& yaml, const std::vector<std::string>& sets = {}) {
  return LoadJobSpec({WriteTempFile("job.yaml", yaml)}, sets);
}

TEST_CASE("a minimal job keeps the defaults") {
  const JobSpec spec = Load(MinimalYaml());
  CHECK(spec.run.steps == 10);
  CHECK(spec.run.out == "runs/run");
  CHECK(spec.model.hf == "some/model");
  CHECK(spec.data.sources.size() == 1);
  CHECK(spec.data.sources[0].weight == 1.0);
  CHECK(spec.batch.samples == 4);
  CHECK(spec.optim.betas[1] == 0.95);
  CHECK(spec.precision == Precision::kFp32);
  CHECK_FALSE(spec.parallel.llm.dp.has_value());
}

TEST_CASE("every kind of value is read") {
  const JobSpec spec = Load(std::string(MinimalYaml()) + R"(
train: {vision: {freeze: true, lr_scale: 0.1}, recompute: full, recompute_layers: 3}
parallel:
  llm: {dp: 2}
  encoder: {pool: replica}
  order: [cp, tp, dp, pp]
optim: {lr: 3e-4, betas: [0.8, 0.99], schedule: linear, clip: 2}
precision: fp64
runtime: {device: cpu, timeout_s: 5}
eval: {sources: [{path: a, prompts: ["What is it?", Describe.]}, {path: b}], captions: 3}
metrics: {tensorboard: null, trace_steps: [2, 3]}
)");
  CHECK(spec.train.vision.freeze);
  CHECK(spec.train.vision.lr_scale == 0.1);
  CHECK(spec.train.recompute == RecomputeChoice::kFull);
  CHECK(spec.train.recompute_layers == 3);
  CHECK(spec.parallel.llm.dp == 2);
  CHECK(spec.parallel.encoder.pool == PoolScope::kReplica);
  CHECK(spec.parallel.order[0] == "cp");
  CHECK(spec.optim.lr == 3e-4);
  CHECK(spec.optim.betas[0] == 0.8);
  CHECK(spec.optim.clip == 2.0);
  CHECK(spec.optim.schedule == LrSchedule::kLinear);
  CHECK(spec.precision == Precision::kFp64);
  CHECK(spec.eval.sources[0].prompts == std::vector<std::string>{"What is it?", "Describe."});
  CHECK(spec.eval.sources[1].path == "b");
  CHECK(spec.metrics.tensorboard.empty());
  CHECK(spec.metrics.trace_steps == std::vector<int64_t>{2, 3});
}

TEST_CASE("files merge left to right, maps by key, lists as a whole") {
  const std::string base =
      WriteTempFile("base.yaml", std::string(MinimalYaml()) +
                                     "optim: {lr: 1e-3, betas: [0.8, 0.9], clip: 0.5}\n");
  const std::string over =
      WriteTempFile("over.yaml", "optim: {lr: 2e-3, betas: [0.7, 0.95]}\nrun: {name: second}\n");
  const JobSpec spec = LoadJobSpec({base, over}, {});
  CHECK(spec.optim.lr == 2e-3);
  CHECK(spec.optim.clip == 0.5);
  CHECK(spec.optim.betas[0] == 0.7);
  CHECK(spec.run.steps == 10);
  CHECK(spec.run.out == "runs/second");
}

TEST_CASE("an empty file and an empty group change nothing") {
  const std::string empty = WriteTempFile("empty.yaml", "# nothing\n");
  const std::string base = WriteTempFile("base.yaml", MinimalYaml());
  CHECK(LoadJobSpec({empty, base}, {}) == LoadJobSpec({base}, {}));
  CHECK(Load(std::string(MinimalYaml()) + "optim:\n  # lr: 1\n") == LoadJobSpec({base}, {}));
}

TEST_CASE("--set uses the same keys") {
  const JobSpec spec =
      Load(MinimalYaml(),
           {"optim.lr=0.5", "data.sources.0.path=other", "data.sources.0.weight=2",
            "data.sources+={path: more}", "eval.sources.0.path=held-out",
            "eval.sources.0.prompts=[\"a = b\"]", "run.name=\"17\"", "train.llm={freeze: true}",
            "metrics.trace_steps+=4", "metrics.trace_steps+=[5, 6]", "model.hf=dir.with.dots"});
  CHECK(spec.optim.lr == 0.5);
  CHECK(spec.data.sources[0].path == "other");
  CHECK(spec.data.sources[0].weight == 2.0);
  CHECK(spec.data.sources[1].path == "more");
  CHECK(spec.eval.sources[0].path == "held-out");
  CHECK(spec.eval.sources[0].prompts[0] == "a = b");
  CHECK(spec.run.name == "17");
  CHECK(spec.train.llm.freeze);
  CHECK(spec.metrics.trace_steps == std::vector<int64_t>{4, 5, 6});
  CHECK(spec.model.hf == "dir.with.dots");
}

TEST_CASE("model.arch is kept with its types") {
  const JobSpec spec = Load(R"(
run: {steps: 1}
model: {arch: {family: qwen3_vl, text: {hidden_size: 64, rope_theta: 5.0e6, tie: true, s: "5"}}}
data: {sources: [{path: d}], tokenizer: t}
batch: {tokens: 100}
)",
                            {"model.arch.text.hidden_size=128"});
  const Json arch = Json::parse(spec.model.arch);
  CHECK(arch["family"] == "qwen3_vl");
  CHECK(arch["text"]["hidden_size"].is_number_integer());
  CHECK(arch["text"]["hidden_size"] == 128);
  CHECK(arch["text"]["rope_theta"].is_number_float());
  CHECK(arch["text"]["rope_theta"] == 5e6);
  CHECK(arch["text"]["tie"] == true);
  CHECK(arch["text"]["s"] == "5");
}

TEST_CASE("the echo as YAML loads back to an equal spec") {
  const JobSpec spec = Load(R"(
run: {name: "17", out: "a b: #c", seed: 9223372036854775807, steps: 10}
model: {arch: {family: qwen3_vl, text: {theta: 5.0e6, eps: 1.0e-6, section: [3, 3, 2], e: {}}, n: null}}
data:
  sources:
    - {path: x, prompts: ["Describe: the \"picture\".\n", "- yes", "no", "é"]}
    - {path: "true", weight: 0.1}
  tokenizer: "null"
batch: {tokens: 1000}
optim: {lr: 0.1, eps: 1.0e-12}
parallel: {llm: {dp: 3}}
)");
  const std::string yaml = ToYaml(spec);
  INFO(yaml);
  CHECK(yaml.find("1.0e-12\n") != std::string::npos);
  const JobSpec again = Load(yaml);
  CHECK(again == spec);
  CHECK(ToJson(again).dump() == ToJson(spec).dump());
  JobSpec other = spec;
  other.data.sources[1].weight = 0.2;
  CHECK(other != spec);
}

TEST_CASE("the echo of every default is in the JSON") {
  const Json echo = ToJson(Load(MinimalYaml()));
  CHECK(echo["optim"]["lr"] == 1e-4);
  CHECK(echo["precision"] == "fp32");
  CHECK(echo["parallel"]["llm"]["dp"].is_null());
  CHECK(echo["data"]["sources"][0]["format"] == "auto");
  CHECK(echo["metrics"]["trace_steps"] == Json::array());
  CHECK(echo.begin().key() == "run");
}

TEST_CASE("the key reference names every key with its default") {
  const std::string reference = KeyReference();
  for (const char* text : {"optim.lr ", "> 0", "0.0001", "data.sources.N.prompts ",
                           "parallel.llm.dp ", "cosine, constant, linear", "0 <= x < 1"}) {
    INFO(text);
    CHECK(reference.find(text) != std::string::npos);
  }
}

}  // namespace
}  // namespace omnitrain
