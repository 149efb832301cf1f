#include "core/train/trainer.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/hf_directory.h"
#include "core/model/multimodal_model.h"
#include "core/optim/lr_schedule.h"
#include "core/optim/sharded_adamw.h"
#include "core/spec/json_echo.h"
#include "core/train/evaluate.h"
#include "core/train/job_inputs.h"
#include "core/train/model_io.h"
#include "core/train/records.h"
#include "core/train/run_checkpoint.h"
#include "core/train/signals.h"
#include "core/train/step_executor.h"
#include "core/train/work.h"
#include "parallel/comm/wait_record.h"

namespace omnitrain {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

LrSchedulePlan LrPlan(const JobSpec& spec) {
  LrSchedulePlan plan;
  plan.lr = spec.optim.lr;
  plan.min_ratio = spec.optim.min_lr_ratio;
  plan.warmup_steps = spec.optim.warmup_steps;
  plan.num_steps = spec.run.steps;
  plan.decay = spec.optim.schedule == LrSchedule::kCosine     ? LrDecay::kCosine
               : spec.optim.schedule == LrSchedule::kConstant ? LrDecay::kConstant
                                                              : LrDecay::kLinear;
  return plan;
}

AdamWConfig OptimizerConfig(const JobSpec& spec) {
  AdamWConfig config;
  config.beta1 = spec.optim.betas[0];
  config.beta2 = spec.optim.betas[1];
  config.eps = spec.optim.eps;
  config.weight_decay = spec.optim.weight_decay;
  config.clip = spec.optim.clip;
  config.lr_scale = {spec.train.vision.lr_scale, spec.train.projector.lr_scale,
                     spec.train.llm.lr_scale};
  return config;
}

// Keys of two echoed specs whose values differ, as dotted paths.
void CollectDifferences(const Json& a, const Json& b, const std::string& path,
                        std::vector<std::string>* out) {
  if (a.is_object() && b.is_object()) {
    for (const auto& [key, value] : a.items()) {
      CollectDifferences(value, b.contains(key) ? b[key] : Json(),
                         path.empty() ? key : path + "." + key, out);
    }
  } else if (a != b) {
    out->push_back(path);
  }
}

// What the ranks tell each other once a step.
struct StepNotes {
  double is_counted = 0;        // the ranks of a replica have the same samples: one speaks for it
  double lost_loss_tokens = 0;  // labels of samples whose pixels did not decode
  double lost_samples = 0;
  double encoder_work = 0, llm_work = 0;  // FLOPs of this rank's share
  double signal = 0;
};

std::vector<StepNotes> Exchange(Communicator& world, const StepNotes& mine) {
  std::string bytes(sizeof mine, '\0');
  std::memcpy(bytes.data(), &mine, sizeof mine);
  std::vector<StepNotes> all;
  for (const std::string& text : world.AllGatherStrings(bytes)) {
    OT_CHECK(text.size() == sizeof mine, "notes of {} bytes", text.size());
    all.emplace_back();
    std::memcpy(&all.back(), text.data(), sizeof mine);
  }
  return all;
}

double MaxOverMean(const std::vector<StepNotes>& notes, double StepNotes::*work) {
  double sum = 0, largest = 0;
  double count = 0;
  for (const StepNotes& n : notes) {
    if (n.is_counted == 0) continue;
    count += 1;
    sum += n.*work;
    largest = std::max(largest, n.*work);
  }
  return sum > 0 ? largest * count / sum : 1.0;
}

// One run, from opened inputs to the last record.
class Trainer {
 public:
  Trainer(const JobSpec& spec, const JobRuntime& runtime, const std::string& resume)
      : spec_(spec),
        runtime_(runtime),
        resume_(resume),
        ctx_(*runtime.ctx),
        world_(*runtime.world),
        is_first_(runtime.world->rank() == 0),
        records_(is_first_),
        inputs_(OpenInputs(spec)),
        groups_(runtime, spec, inputs_.model.text),
        model_(inputs_.model, groups_.place()),
        executor_(ctx_, model_, groups_.replica()),
        checkpoints_(ctx_, world_,
                     {spec.run.out, spec.checkpoint.keep_last, spec.checkpoint.async}) {}

  int Run() {
    CatchStopSignals();
    InstallCrashReporter();  // again, on top: mpirun's TERM after a rank died still tells who waits
    Prepare();
    WriteStart();
    loader_ = std::make_unique<Loader>(
        inputs_.LoaderFor(spec_, next_index_, groups_.replica_idx(), groups_.num_replicas()),
        inputs_.sources, inputs_.encoder);
    while (step_ < spec_.run.steps) {
      Step();
      const bool is_last = step_ == spec_.run.steps;
      if (!is_last && spec_.eval.every > 0 && step_ % spec_.eval.every == 0) {
        Json record = evaluator_->Loss(executor_);
        record["step"] = step_;
        records_.Write("eval", record);
      }
      if (!is_last && spec_.checkpoint.every > 0 && step_ % spec_.checkpoint.every == 0) Save();
      Report(checkpoints_.Finish(/*block=*/false));
      if (signal_ != 0) return Stop();
    }
    return Finish();
  }

 private:
  void Prepare() {
    model_.params().Allocate(
        ctx_.device(), ParamLayoutOf(spec_, groups_.sharing().Sizes(), groups_.sharing().Places()));
    const std::string resume = FindResume();
    if (spec_.model.hf.empty()) {
      model_.params().Initialize(spec_.run.seed, inputs_.model.text.initializer_range,
                                 ctx_.stream());
    } else if (resume.empty()) {
      LoadWeights(ctx_, HfDirectory::Open(spec_.model.hf), model_);
    }
    optimizer_ = std::make_unique<ShardedAdamW>(ctx_, model_.params(), groups_.sharing(),
                                                OptimizerConfig(spec_));
    if (!resume.empty()) Restore(resume);
    evaluator_ = std::make_unique<Evaluator>(
        spec_.eval, *inputs_.encoder, inputs_.pack, spec_.batch.micro_batch_tokens, world_,
        ReplicaSeat{groups_.replica_idx(), groups_.num_replicas(), groups_.leads_replica()});
    if (is_first_) WriteModelSideFiles(spec_, inputs_, spec_.run.out + "/model");
  }

  // Rank 0 looks, all follow: ranks must not disagree while a file system catches up.
  std::string FindResume() {
    std::string found;
    if (is_first_) {
      const std::string latest = FindLatest(spec_.run.out);
      if (resume_ == "auto") {
        found = latest;
      } else if (resume_ != "none") {
        found = resume_;
      } else {
        OT_REQUIRE(
            latest.empty(), ErrorCode::kSpec,
            "run.out: {} holds a checkpoint of an earlier run ({}); resume it (--resume auto) "
            "or choose another run.out",
            spec_.run.out, latest);
      }
    }
    return world_.AllGatherStrings(found)[0];
  }

  void Restore(const std::string& directory) {
    const Json state = RestoreCheckpoint(ctx_, directory, model_.params(), *optimizer_);
    step_ = state.at("step");
    next_index_ = state.at("next_index");
    resumed_from_ = directory;
    if (!is_first_) return;
    Log("train", "resumed step {} from {}", step_, directory);
    std::vector<std::string> changed;
    CollectDifferences(state.at("spec"), ToJson(spec_), "", &changed);
    for (const std::string& key : changed) Log("train", "{} differs from the saved run's", key);
  }

  void WriteStart() {
    Json record = {{"version", "0.1.0"},
                   {"world", world_.size()},
                   {"layout", runtime_.layout.ToString()},
                   {"device", ctx_.device().Describe()},
                   {"parameters", MultimodalModel(inputs_.model).params().num_elements()},
                   {"resumed_from", resumed_from_.empty() ? Json() : Json(resumed_from_)},
                   {"step", step_},
                   {"spec", ToJson(spec_)}};
    int64_t samples = 0;
    for (const LoaderSource& source : inputs_.sources) samples += source.source->size();
    record["samples"] = samples;
    if (!spec_.eval.sources.empty()) record["eval_samples"] = evaluator_->num_samples();
    records_.Write("start", record);
    start_ = Clock::now();
    first_step_ = step_;
  }

  void Step() {
    const auto begin = Clock::now();
    const StepBatch batch = loader_->Next();
    StepNotes mine;
    mine.is_counted = groups_.leads_replica() ? 1 : 0;
    mine.lost_loss_tokens = static_cast<double>(batch.lost_loss_tokens);
    mine.lost_samples = static_cast<double>(batch.lost);
    for (const MicroBatch& mb : batch.micro_batches) {
      const MicroBatchWork work = work_.Of(mb);
      mine.encoder_work += work.encoder_flops;
      mine.llm_work += work.llm_flops;
    }
    mine.signal = StopSignal();
    const std::vector<StepNotes> notes = Exchange(world_, mine);
    StepNotes total;
    for (const StepNotes& n : notes) {
      total.signal = std::max(total.signal, n.signal);
      if (n.is_counted == 0) continue;
      total.lost_loss_tokens += n.lost_loss_tokens;
      total.lost_samples += n.lost_samples;
      total.encoder_work += n.encoder_work;
      total.llm_work += n.llm_work;
    }
    signal_ = static_cast<int>(total.signal);

    StepParams params;
    params.step = step_ + 1;
    params.lr = LearningRate(LrPlan(spec_), step_ + 1);
    params.global_loss_tokens = batch.loss_tokens - static_cast<int64_t>(total.lost_loss_tokens);
    const StepOutcome outcome = executor_.Train(batch.micro_batches, params, *optimizer_);
    if (!outcome.is_finite) Diverged(batch, params, outcome);
    ++step_;
    next_index_ = batch.next_index;
    loss_ = outcome.loss;
    skipped_ += batch.bad + batch.too_long + static_cast<int64_t>(total.lost_samples);

    const double seconds = SecondsSince(begin);
    const double flops = TrainFlops(spec_, total.encoder_work, total.llm_work);
    Json record = {
        {"step", step_},
        {"loss", outcome.loss},
        {"grad_norm", outcome.grad_norm},
        {"lr", params.lr},
        {"tokens", {{"text", batch.text_tokens}, {"vision", batch.vision_tokens}, {"audio", 0}}},
        {"loss_tokens", params.global_loss_tokens},
        {"samples", batch.samples},
        {"step_ms", seconds * 1e3},
        {"data_wait_ms", batch.data_wait_ms},
        {"tokens_per_s", static_cast<double>(batch.text_tokens + batch.vision_tokens) / seconds},
        {"tflops", flops / seconds / 1e12 / world_.size()},
        {"mem_bytes", ctx_.device().peak_bytes()},
        {"balance",
         {{"encoder", MaxOverMean(notes, &StepNotes::encoder_work)},
          {"llm", MaxOverMean(notes, &StepNotes::llm_work)}}},
        {"recompute", ToString(executor_.recompute())},
        {"skipped", skipped_},
        {"truncated", batch.truncated},
        {"eta_s", SecondsSince(start_) / static_cast<double>(step_ - first_step_) *
                      static_cast<double>(spec_.run.steps - step_)}};
    // Of rank 0. What the pipeline's messages are waited for is bubble as well.
    double exposed_ms = 0;
    for (const auto& [name, ms] : executor_.wait_ms()) {
      if (name == "llm.pp") {
        record["pipeline_wait_ms"] = ms;
      } else {
        exposed_ms += ms;
      }
    }
    record["exposed_comm_ms"] = exposed_ms;
    const double peak = PeakFlops(ctx_.device().Describe(), model_.params().dtype());
    if (peak > 0) record["mfu"] = {{"total", flops / seconds / world_.size() / peak}};
    records_.Write("step", record);
    if (is_first_ && (step_ % spec_.metrics.log_every == 0 || step_ == spec_.run.steps)) {
      PrintProgress(StepLine(record, spec_.run.steps));
    }
  }

  // On a terminal the line is rewritten in place, with a bar; elsewhere each is a line of its own.
  void PrintProgress(const std::string& line) {
    if (isatty(STDERR_FILENO) == 0) {
      std::fprintf(stderr, "%s\n", line.c_str());
      return;
    }
    constexpr int kWidth = 20;
    const int filled = static_cast<int>(kWidth * step_ / spec_.run.steps);
    const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, '.');
    std::fprintf(stderr, "\r\033[K[%s] %s%s", bar.c_str(), line.c_str(),
                 step_ == spec_.run.steps ? "\n" : "");
    std::fflush(stderr);
  }

  [[noreturn]] void Diverged(const StepBatch& batch, const StepParams& params,
                             const StepOutcome& outcome) {
    std::string where;  // how far from the cause, a digit, and then where
    const std::vector<double> losses = executor_.ReplicaLosses();
    // All replicas look together, at as many micro-batches: experts may span them.
    int first_bad = -1;
    for (size_t i = 0; i < losses.size() && first_bad < 0; ++i) {
      if (!std::isfinite(losses[i])) first_bad = static_cast<int>(i);
    }
    const bool anyone = world_.AllReduceScalar(int64_t{first_bad >= 0}, ReduceOp::kMax) > 0;
    if (anyone) {
      const size_t i = static_cast<size_t>(std::max(0, first_bad));
      const StepExecutor::NonFinite found = executor_.FindNonFinite(batch.micro_batches[i]);
      std::string samples;
      for (const std::string& key : batch.micro_batches[i].sample_keys) {
        if (samples.size() < 400) samples += (samples.empty() ? "" : ", ") + key;
      }
      if (first_bad >= 0 && found.distance != StepExecutor::NonFinite::kNowhere) {
        where =
            fmt::format("{}rank {} micro_batch {} (samples {}): first not finite: {}",
                        static_cast<int>(found.distance), world_.rank(), i, samples, found.where);
      }
    }
    if (where.empty()) {
      const std::string grad = optimizer_->FindNonFiniteGrad(ctx_);
      if (!grad.empty()) {
        where =
            fmt::format("{}rank {}: gradient of {}",
                        static_cast<int>(StepExecutor::NonFinite::kNowhere), world_.rank(), grad);
      }
    }
    std::string nearest;
    for (const std::string& text : world_.AllGatherStrings(where)) {
      if (nearest.empty() || (!text.empty() && text[0] < nearest[0])) nearest = text;
    }
    if (!nearest.empty()) nearest.erase(0, 1);
    // Parameters were left alone: what is saved now is the state before this step.
    if (step_ > first_step_) Save();
    Report(checkpoints_.Finish(/*block=*/true));
    Fail(ErrorCode::kDiverged, "step {}: loss {} and gradient norm {} with lr {}: {}", params.step,
         outcome.loss, outcome.grad_norm, params.lr, nearest);
  }

  void Save() {
    checkpoints_.Start(step_, model_.params(), *optimizer_,
                       {{"step", step_}, {"next_index", next_index_}, {"spec", ToJson(spec_)}});
    saved_step_ = step_;
  }

  // A save that failed in mid-run does not end the run: the checkpoints before it stand, and the
  // next may succeed.
  void Report(const std::vector<RunCheckpoints::Result>& results) {
    for (const RunCheckpoints::Result& result : results) {
      last_save_ = result;
      Json record = {{"step", result.step}, {"seconds", result.seconds}};
      record[result.error.empty() ? "path" : "error"] =
          result.error.empty() ? result.path : result.error;
      records_.Write("checkpoint", record);
      if (is_first_ && !result.error.empty()) {
        Log("checkpoint", "step {} was not saved: {}", result.step, result.error);
      }
    }
  }

  void SaveAndWait() {
    if (saved_step_ != step_ || !last_save_.error.empty()) Save();
    Report(checkpoints_.Finish(/*block=*/true));
    OT_REQUIRE(last_save_.error.empty(), ErrorCode::kCheckpoint, "{}", last_save_.error);
  }

  int Stop() {
    SaveAndWait();
    records_.Write("end", {{"step", step_},
                           {"loss", loss_},
                           {"reason", fmt::format("signal {}", signal_)},
                           {"exit_code", 128 + signal_},
                           {"seconds", SecondsSince(start_)}});
    return 128 + signal_;
  }

  // What one rank can run or export by itself: the model, or a copy of what was saved last.
  const MultimodalModel& WholeModel() {
    if (groups_.runs_alone()) return model_;
    if (whole_ == nullptr) {
      whole_ = std::make_unique<MultimodalModel>(inputs_.model);
      ParamStore::AllocateOptions allocate;
      allocate.dtype = model_.params().dtype();
      std::fill(std::begin(allocate.frozen), std::end(allocate.frozen), true);
      whole_->params().Allocate(ctx_.device(), allocate);
      RestoreValues(ctx_, last_save_.path, whole_->params());
    }
    return *whole_;
  }

  int Finish() {
    optimizer_->FinishGather(ctx_);  // what follows reads the values without the executor
    Json record = {{"step", step_}, {"reason", "done"}, {"exit_code", 0}};
    if (step_ > first_step_) record["loss"] = loss_;
    record["train_seconds"] = SecondsSince(start_);
    SaveAndWait();
    if (spec_.checkpoint.hf_export && is_first_) {
      const SaveDtype dtype = spec_.model.save_dtype;
      SaveModel(ctx_, WholeModel(), spec_.run.out + "/hf", SavedDType(dtype, inputs_.model),
                spec_.run.out + "/model");
      record["hf"] = spec_.run.out + "/hf";
    }
    if (!spec_.eval.sources.empty()) {
      record["eval"] = evaluator_->Loss(executor_);
      if (spec_.eval.sight.pairs > 0)
        record["sight"] = evaluator_->Sight(ctx_, WholeModel(), executor_);
      if (spec_.eval.captions > 0) record["captions"] = evaluator_->Captions(ctx_, WholeModel());
    }
    record["skipped"] = skipped_;
    record["seconds"] = SecondsSince(start_);
    records_.Write("end", record);
    if (is_first_) {
      for (const std::string& line : EndLines(record)) std::fprintf(stderr, "%s\n", line.c_str());
    }
    world_.Barrier();
    return 0;
  }

 public:
  static DType SavedDType(SaveDtype dtype, const ModelConfig& model) {
    switch (dtype) {
      case SaveDtype::kAuto:
        return model.saved_dtype;
      case SaveDtype::kFp32:
        return DType::kF32;
      case SaveDtype::kBf16:
        return DType::kBF16;
      case SaveDtype::kFp16:
        return DType::kF16;
    }
    return DType::kF32;
  }

 private:
  const JobSpec& spec_;
  const JobRuntime& runtime_;
  const std::string resume_;
  Context& ctx_;
  Communicator& world_;
  const bool is_first_;
  RecordWriter records_;
  JobInputs inputs_;
  LayoutGroups groups_;
  MultimodalModel model_;
  std::unique_ptr<MultimodalModel> whole_;  // of a model that is split, for export and captions
  WorkCounter work_{inputs_.model};
  StepExecutor executor_;
  std::unique_ptr<ShardedAdamW> optimizer_;
  RunCheckpoints checkpoints_;
  std::unique_ptr<Evaluator> evaluator_;
  std::unique_ptr<Loader> loader_;

  int64_t step_ = 0, first_step_ = 0, saved_step_ = -1;
  int64_t next_index_ = 0;
  int64_t skipped_ = 0;
  double loss_ = 0;
  int signal_ = 0;
  std::string resumed_from_;
  RunCheckpoints::Result last_save_;
  Clock::time_point start_;
};

}  // namespace

int RunTraining(const JobSpec& spec, const JobRuntime& runtime, const std::string& resume) {
  return Trainer(spec, runtime, resume).Run();
}

void ExportRun(Context& ctx, const std::string& run_or_checkpoint, const std::string& target,
               SaveDtype dtype) {
  std::string checkpoint = run_or_checkpoint;
  fs::path run = run_or_checkpoint;
  if (fs::exists(fs::path(checkpoint) / "manifest.json")) {
    run = fs::canonical(run).parent_path().parent_path();
  } else {
    checkpoint = FindLatest(run_or_checkpoint);
    OT_REQUIRE(!checkpoint.empty(), ErrorCode::kSpec, "{}: holds no whole checkpoint",
               run_or_checkpoint);
  }
  const std::string side_files = (run / "model").string();
  MultimodalModel model(LoadModelConfig(side_files));
  ParamStore::AllocateOptions allocate;
  model.params().Allocate(ctx.device(), allocate);
  RestoreValues(ctx, checkpoint, model.params());
  SaveModel(ctx, model, target, Trainer::SavedDType(dtype, model.config()), side_files);
}

}  // namespace omnitrain
