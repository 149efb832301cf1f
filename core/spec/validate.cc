#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/spec/job_spec.h"
#include "core/spec/problems.h"

namespace omnitrain {
namespace {

class Problems {
 public:
  template <typename... Args>
  void Unless(bool is_fine, const std::string& key, fmt::format_string<Args...> format,
              Args&&... args) {
    if (!is_fine) list.push_back({key, fmt::format(format, std::forward<Args>(args)...)});
  }

  std::vector<Problem> list;
};

void ThrowAll(const std::vector<Problem>& problems) {
  std::vector<std::string> lines;
  for (const Problem& p : problems) lines.push_back(fmt::format("{}: {}", p.key, p.text));
  FailOnProblems(lines);
}

void CheckSources(const std::vector<DataSource>& sources, const std::string& key, Problems* p) {
  for (size_t i = 0; i < sources.size(); ++i) {
    const std::string item = fmt::format("{}.{}", key, i);
    p->Unless(!sources[i].path.empty(), item + ".path", "required");
    p->Unless(sources[i].format != SourceFormat::kMessages || sources[i].prompts.empty(),
              item + ".prompts", "messages bring their own prompts; remove one of the two");
  }
}

void CheckParallel(const ParallelSpec& parallel, Problems* p) {
  const LlmParallelSpec& llm = parallel.llm;
  p->Unless(llm.vpp == 1 || llm.pp > 1, "parallel.llm.vpp", "vpp={} needs pp > 1, which is {}",
            llm.vpp, llm.pp);
  p->Unless(llm.vpp == 1 || llm.schedule == PipelineSchedule::kAuto ||
                llm.schedule == PipelineSchedule::kInterleaved,
            "parallel.llm.schedule", "vpp={} needs schedule interleaved or auto, not {}", llm.vpp,
            Name(llm.schedule));
  const int64_t num_stages = int64_t{llm.pp} * llm.vpp;
  const auto& layers = llm.stage_layers;
  p->Unless(layers.empty() || static_cast<int64_t>(layers.size()) == num_stages,
            "parallel.llm.stage_layers", "{} numbers for pp*vpp = {}*{} stages", layers.size(),
            llm.pp, llm.vpp);
  p->Unless(std::all_of(layers.begin(), layers.end(), [](int64_t n) { return n > 0; }),
            "parallel.llm.stage_layers", "each stage needs a layer");
  p->Unless(llm.schedule != PipelineSchedule::kInterleaved || llm.vpp > 1, "parallel.llm.schedule",
            "interleaved needs vpp > 1");
  if (llm.dp.has_value()) {
    p->Unless(*llm.dp * llm.cp * llm.tp % llm.ep == 0, "parallel.llm.ep",
              "ep={} does not divide dp*cp*tp = {}*{}*{}", llm.ep, *llm.dp, llm.cp, llm.tp);
  }

  const bool is_apart = parallel.encoder.placement == Placement::kDisaggregated;
  p->Unless(!is_apart || parallel.encoder.ranks > 0, "parallel.encoder.ranks",
            "placement disaggregated needs at least 1");
  p->Unless(is_apart || parallel.encoder.ranks == 0, "parallel.encoder.ranks",
            "placement {} has no encoder ranks of its own", Name(parallel.encoder.placement));

  std::vector<std::string> axes = parallel.order;
  std::sort(axes.begin(), axes.end());
  p->Unless(axes == std::vector<std::string>{"cp", "dp", "pp", "tp"}, "parallel.order",
            "expected tp, cp, dp and pp, each once, got [{}]", fmt::join(parallel.order, ", "));
}

void CheckRuntime(const JobSpec& s, Problems* p) {
  const DeviceChoice device = s.runtime.device;
  p->Unless(s.precision != Precision::kBf16 || device != DeviceChoice::kCpu, "precision",
            "bf16 needs runtime.device: cuda; use fp32 or fp64 on the CPU");
  p->Unless(s.precision != Precision::kFp64 || device != DeviceChoice::kCuda, "precision",
            "fp64 needs runtime.device: cpu; use bf16 or fp32 on a GPU");
  p->Unless(s.runtime.comm != CommChoice::kNccl || device != DeviceChoice::kCpu, "runtime.comm",
            "nccl needs runtime.device: cuda; use mpi on the CPU");
}

void CheckEval(const EvalSpec& eval, Problems* p) {
  CheckSources(eval.sources, "eval.sources", p);
  const bool has_sources = !eval.sources.empty();
  p->Unless(has_sources || eval.every == 0, "eval.every", "needs eval.sources");
  p->Unless(has_sources || eval.captions == 0, "eval.captions", "needs eval.sources");
  p->Unless(has_sources || eval.sight.pairs == 0, "eval.sight.pairs", "needs eval.sources");
  p->Unless(eval.sight.pairs > 0 || !eval.sight.kinds, "eval.sight.kinds",
            "needs eval.sight.pairs > 0");
}

bool RecomputesByHand(const TrainSpec& train) {
  return train.recompute == RecomputeChoice::kSelective ||
         train.recompute == RecomputeChoice::kFull;
}

/// Whether `path` exists; of a pattern of shards (`{000..011}`, `*`), whether its folder does.
bool Exists(const std::string& path) {
  std::string fixed = path;
  const size_t pattern = path.find_first_of("{*?[");
  struct stat status;
  if (::stat(path.c_str(), &status) == 0) return true;
  if (pattern == std::string::npos) return false;
  const size_t slash = path.rfind('/', pattern);
  fixed = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  return ::stat(fixed.c_str(), &status) == 0;
}

}  // namespace

void FailOnProblems(const std::vector<std::string>& lines) {
  if (!lines.empty()) Fail(ErrorCode::kSpec, "{}", fmt::join(lines, "\n"));
}

std::vector<Problem> FindContradictions(const JobSpec& s) {
  Problems p;
  p.Unless(!s.run.name.empty(), "run.name", "must not be empty");
  p.Unless(s.run.steps > 0, "run.steps", "required: how many optimizer steps to train");

  const bool has_hf = !s.model.hf.empty(), has_arch = !s.model.arch.empty();
  p.Unless(has_hf || has_arch, "model",
           "required: model.hf (a Hugging Face directory) or model.arch");
  p.Unless(!has_hf || !has_arch, "model.arch", "model.hf already says what the model is; give one");
  p.Unless(has_hf || !has_arch || !s.data.tokenizer.empty(), "data.tokenizer",
           "required with model.arch");
  p.Unless(!s.train.vision.freeze || !s.train.projector.freeze || !s.train.llm.freeze, "train",
           "vision, projector and llm are all frozen: nothing would learn");
  p.Unless(RecomputesByHand(s.train) || !s.train.recompute_layers.has_value(),
           "train.recompute_layers", "needs train.recompute selective or full, not {}",
           Name(s.train.recompute));

  CheckParallel(s.parallel, &p);

  p.Unless(!s.data.sources.empty(), "data.sources", "required: at least one");
  CheckSources(s.data.sources, "data.sources", &p);
  const ImageSpec& image = s.data.image;
  p.Unless(image.min_pixels.value_or(0) <= image.max_pixels.value_or(INT64_MAX),
           "data.image.min_pixels", "{} is more than max_pixels, {}", image.min_pixels.value_or(0),
           image.max_pixels.value_or(0));

  const bool by_samples = s.batch.samples > 0, by_tokens = s.batch.tokens > 0;
  p.Unless(by_samples || by_tokens, "batch", "required: samples or tokens of a step");
  p.Unless(!by_samples || !by_tokens, "batch", "give samples or tokens, not both");

  p.Unless(s.optim.warmup_steps <= s.run.steps, "optim.warmup_steps",
           "{} is more than run.steps, {}", s.optim.warmup_steps, s.run.steps);
  CheckRuntime(s, &p);
  CheckEval(s.eval, &p);
  for (int64_t step : s.metrics.trace_steps) {
    p.Unless(step <= s.run.steps, "metrics.trace_steps", "step {} is past run.steps, {}", step,
             s.run.steps);
  }
  return std::move(p.list);
}

void Validate(const JobSpec& spec) { ThrowAll(FindContradictions(spec)); }

void CheckPaths(const JobSpec& spec) {
  Problems p;
  const auto check = [&](const std::string& key, const std::string& path) {
    p.Unless(path.empty() || Exists(path), key, "{}: no such file or directory", path);
  };
  check("model.hf", spec.model.hf);
  check("data.tokenizer", spec.data.tokenizer);
  for (size_t i = 0; i < spec.data.sources.size(); ++i) {
    check(fmt::format("data.sources.{}.path", i), spec.data.sources[i].path);
  }
  for (size_t i = 0; i < spec.eval.sources.size(); ++i) {
    check(fmt::format("eval.sources.{}.path", i), spec.eval.sources[i].path);
  }
  ThrowAll(p.list);
}

void RefuseUnsupported(const JobSpec& s) {
  Problems p;
  const auto only = [&](bool is_supported, const char* key, const char* supported) {
    p.Unless(is_supported, key, "only {} is supported by this version", supported);
  };
  const Placement placement = s.parallel.encoder.placement;
  // Without a pipeline every rank is on the first stage.
  only(placement == Placement::kAuto || placement == Placement::kFirstStage ||
           (placement == Placement::kJoint && s.parallel.llm.pp == 1),
       "parallel.encoder.placement", "first_stage (auto; with pp=1 joint)");
  p.Unless(!RecomputesByHand(s.train) || s.parallel.llm.schedule != PipelineSchedule::kZeroBubble,
           "train.recompute", "{} needs a backward in one piece, which zero_bubble splits",
           Name(s.train.recompute));
  const LlmParallelSpec& llm = s.parallel.llm;
  only(llm.zero_stage != 2, "parallel.llm.zero_stage", "1 or 3");
  p.Unless(llm.zero_stage != 3 || (llm.pp == 1 && llm.vpp == 1), "parallel.llm.zero_stage",
           "3 needs pp=1, which is {}", llm.pp);
  p.Unless(llm.zero_stage != 3 || llm.schedule != PipelineSchedule::kZeroBubble,
           "parallel.llm.zero_stage",
           "3 needs a backward in one piece, which schedule zero_bubble splits");
  only(s.plan.costs == PlanCosts::kFlops, "plan.costs", "flops");
  only(s.metrics.tensorboard.empty(), "metrics.tensorboard", "null");
  only(s.metrics.trace_steps.empty(), "metrics.trace_steps", "null");
  ThrowAll(p.list);
}

}  // namespace omnitrain
