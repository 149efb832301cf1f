#include "core/spec/fields.h"

#include <cmath>
#include <iterator>

namespace omnitrain {

// NOLINTNEXTLINE: defines NamesOf and Name of one enum from one list of spellings.
#define OT_ENUM_NAMES(E, ...)                              \
  EnumNames NamesOf(E) {                                   \
    static constexpr const char* kNames[] = {__VA_ARGS__}; \
    return {kNames, static_cast<int>(std::size(kNames))};  \
  }                                                        \
  const char* Name(E v) { return NamesOf(v).names[static_cast<int>(v)]; }

OT_ENUM_NAMES(SaveDtype, "auto", "fp32", "bf16", "fp16")
OT_ENUM_NAMES(RecomputeChoice, "auto", "none", "selective", "full")
OT_ENUM_NAMES(PipelineSchedule, "auto", "1f1b", "interleaved", "zero_bubble")
OT_ENUM_NAMES(CpMethod, "auto", "ring", "ulysses")
OT_ENUM_NAMES(Placement, "joint", "three_phase", "bubble", "first_stage", "disaggregated", "auto")
OT_ENUM_NAMES(PoolScope, "node", "replica", "world", "none")
OT_ENUM_NAMES(SourceFormat, "auto", "webdataset", "messages")
OT_ENUM_NAMES(TooLong, "skip", "truncate")
OT_ENUM_NAMES(AlphaMode, "white", "drop")
OT_ENUM_NAMES(LrSchedule, "cosine", "constant", "linear")
OT_ENUM_NAMES(PlanCosts, "flops", "file", "fitted")
OT_ENUM_NAMES(Precision, "bf16", "fp32", "fp64")
OT_ENUM_NAMES(DeviceChoice, "auto", "cpu", "cuda")
OT_ENUM_NAMES(CommChoice, "auto", "mpi", "nccl", "inprocess")

#undef OT_ENUM_NAMES

namespace {

constexpr IntRange kCount{0};
constexpr IntRange kPositive{1};
constexpr IntRange kZeroStage{1, 3};
constexpr RealRange kNonNegative{0};
constexpr RealRange kAboveZero{0, std::numeric_limits<double>::infinity(),
                               RealRange::Ends::kOpenMin};
constexpr RealRange kShare{0, 1};
constexpr RealRange kBelowOne{0, 1, RealRange::Ends::kOpenMax};

void VisitModule(FieldVisitor& v, const char* key, const char* help, ModuleTrainSpec* s) {
  v.BeginGroup(key, help);
  v.Bool("freeze", &s->freeze, "keep its weights as they are");
  v.Real("lr_scale", &s->lr_scale, kNonNegative, "its learning rate as a multiple of optim.lr");
  v.EndGroup();
}

void VisitSources(FieldVisitor& v, const char* help, std::vector<DataSource>* sources) {
  sources->resize(v.BeginList("sources", sources->size(), help));
  for (size_t i = 0; i < sources->size(); ++i) {
    DataSource& s = (*sources)[i];
    v.BeginItem(i);
    v.String("path", &s.path, "a file, or a folder of them");
    v.Choice("format", &s.format, "how samples are stored; auto: judged by the files");
    v.Real("weight", &s.weight, kAboveZero, "share of the samples, relative to other sources");
    v.Strings("prompts", &s.prompts,
              "what the user says before a plain caption; one is drawn for each sample");
    v.EndItem();
  }
  v.EndList();
}

void VisitParallel(FieldVisitor& v, ParallelSpec* s) {
  v.BeginGroup("parallel", "how the job is laid out over the ranks");
  v.BeginGroup("llm", "degrees of the LLM");
  v.Integer("tp", &s->llm.tp, kPositive, "tensor parallel: ranks that share each matrix");
  v.Integer("cp", &s->llm.cp, kPositive, "context parallel: ranks that share each sequence");
  v.Choice("cp_method", &s->llm.cp_method, "how attention reaches rows on other cp ranks");
  v.Integer("dp", &s->llm.dp, kPositive, "data parallel replicas; null: world / (tp cp pp)");
  v.Integer("pp", &s->llm.pp, kPositive, "pipeline stages");
  v.Integer("vpp", &s->llm.vpp, kPositive, "chunks of layers on each pipeline rank");
  v.Integer("ep", &s->llm.ep, kPositive, "expert parallel: ranks that share the experts");
  v.Integer("zero_stage", &s->llm.zero_stage, kZeroStage,
            "1: optimizer state is divided over data parallel ranks; 3: weights and gradients of "
            "layers too, gathered while they are used");
  v.Choice("schedule", &s->llm.schedule, "order of micro-batches in the pipeline");
  v.Ints("stage_layers", &s->llm.stage_layers, kPositive,
         "layers of each of the pp * vpp stages; empty: as even as can be");
  v.EndGroup();
  v.BeginGroup("encoder", "where encoders run");
  v.Choice("placement", &s->encoder.placement, "where and when encoders run");
  v.Integer("sp_max", &s->encoder.sp_max, kPositive, "most ranks that may share one long item");
  v.Choice("pool", &s->encoder.pool, "ranks among which items may move");
  v.Integer("ranks", &s->encoder.ranks, kCount, "ranks of their own, for disaggregated only");
  v.EndGroup();
  v.Strings("order", &s->order, "mesh axes, from the fastest varying rank to the slowest");
  v.EndGroup();
}

void VisitData(FieldVisitor& v, DataSpec* s) {
  v.BeginGroup("data", "what the model learns from");
  VisitSources(v, "where samples come from, mixed by weight", &s->sources);
  v.String("tokenizer", &s->tokenizer, "tokenizer.json or its folder; null: that of model.hf");
  v.Real("max_bad_fraction", &s->max_bad_fraction, kShare,
         "stop with exit code 3 when more samples than this are unusable");
  v.Choice("reorder_group", &s->reorder_group, "ranks among which samples may move for balance");
  v.Choice("too_long", &s->too_long,
           "samples longer than a micro-batch: skip them, or cut the text behind their last item");
  v.Bool("shuffle", &s->shuffle, "a new order each epoch, from run.seed; false: as stored");
  v.Choice("alpha", &s->alpha, "transparency becomes white, or the colour under it shows");
  v.Integer("max_image_pixels", &s->max_image_pixels, kPositive,
            "pixels as stored; larger images are bad samples");
  v.BeginGroup("image", "overrides of the model's preprocessor_config.json");
  v.Integer("min_pixels", &s->image.min_pixels, kPositive, "smaller images are scaled up to this");
  v.Integer("max_pixels", &s->image.max_pixels, kPositive, "larger images are scaled down to it");
  v.EndGroup();
  v.Integer("workers", &s->workers, kPositive, "threads that decode and tokenize, per rank");
  v.Integer("prefetch_steps", &s->prefetch_steps, kPositive, "steps that are prepared ahead");
  v.EndGroup();
}

void VisitOptim(FieldVisitor& v, OptimSpec* s) {
  v.BeginGroup("optim", "AdamW and its learning rate");
  v.Real("lr", &s->lr, kAboveZero, "learning rate after warm-up");
  v.Real("min_lr_ratio", &s->min_lr_ratio, kShare, "where the schedule ends, as a share of lr");
  v.Reals("betas", s->betas.data(), s->betas.size(), kBelowOne,
          "decay of the first and of the second moment");
  v.Real("eps", &s->eps, kAboveZero, "added to the root of the second moment");
  v.Real("weight_decay", &s->weight_decay, kNonNegative, "of matrices; norms and biases have none");
  v.Real("clip", &s->clip, kNonNegative, "largest global gradient norm; 0: no clipping");
  v.Integer("warmup_steps", &s->warmup_steps, kCount, "steps of linear rise to lr");
  v.Choice("schedule", &s->schedule, "course of the learning rate after warm-up");
  v.EndGroup();
}

void VisitEval(FieldVisitor& v, EvalSpec* s) {
  v.BeginGroup("eval", "what is measured on held-out samples");
  v.Integer("every", &s->every, kCount, "steps between evaluations; 0: at the end only");
  VisitSources(v, "held-out samples; none: no evaluation", &s->sources);
  v.Integer("captions", &s->captions, kCount, "samples to caption and print");
  v.Integer("samples", &s->samples, kCount, "samples of the evaluation loss; 0: all");
  v.Integer("max_new_tokens", &s->max_new_tokens, kPositive, "longest generated caption");
  v.BeginGroup("sight", "loss of captions with their own, another's and a blank picture");
  v.Integer("pairs", &s->sight.pairs, kCount, "captions to try; 0: off");
  v.Bool("kinds", &s->sight.kinds, "answers read 'Kind: caption': score the kind as well");
  v.Integer("seed", &s->sight.seed, kCount, "of the choice of captions and other pictures");
  v.EndGroup();
  v.EndGroup();
}

/// Collects paths.
class KeyCollector : public FieldVisitor {
 public:
  void BeginGroup(const char* key, const char*) override {
    Add(key);
    prefix_.push_back(keys.back() + ".");
  }
  void EndGroup() override { prefix_.pop_back(); }
  size_t BeginList(const char* key, size_t, const char* help) override {
    BeginGroup(key, help);
    return 1;
  }
  void BeginItem(size_t) override { prefix_.push_back(prefix_.back() + "0."); }
  void EndItem() override { prefix_.pop_back(); }
  void EndList() override { EndGroup(); }
  void Bool(const char* key, bool*, const char*) override { Add(key); }
  void Int(const char* key, int64_t*, IntRange, const char*) override { Add(key); }
  void OptionalInt(const char* key, std::optional<int64_t>*, IntRange, const char*) override {
    Add(key);
  }
  void Real(const char* key, double*, RealRange, const char*) override { Add(key); }
  void String(const char* key, std::string*, const char*) override { Add(key); }
  void Enum(const char* key, int*, EnumNames, const char*) override { Add(key); }
  void Ints(const char* key, std::vector<int64_t>*, IntRange, const char*) override { Add(key); }
  void Reals(const char* key, double*, size_t, RealRange, const char*) override { Add(key); }
  void Strings(const char* key, std::vector<std::string>*, const char*) override { Add(key); }
  void AnyMap(const char* key, std::string*, const char*) override { Add(key); }

  std::vector<std::string> keys;

 private:
  void Add(const char* key) { keys.push_back((prefix_.empty() ? "" : prefix_.back()) + key); }

  std::vector<std::string> prefix_;
};

}  // namespace

bool RealRange::Contains(double x) const {
  if (!std::isfinite(x)) return false;
  if (ends == Ends::kOpenMin ? !(x > min) : !(x >= min)) return false;
  return ends == Ends::kOpenMax ? x < max : x <= max;
}

void VisitFields(FieldVisitor& v, JobSpec* spec) {
  v.BeginGroup("run", "the run as a whole");
  v.String("name", &spec->run.name, "what the run is called");
  v.String("out", &spec->run.out, "folder of everything it writes; null: runs/<name>");
  v.Integer("seed", &spec->run.seed, kCount, "of initial weights and data order");
  v.Integer("steps", &spec->run.steps, kCount, "optimizer steps in all, resumed ones included");
  v.EndGroup();

  v.BeginGroup("model", "what is trained: hf or arch");
  v.String("hf", &spec->model.hf, "Hugging Face directory to start from");
  v.AnyMap("arch", &spec->model.arch,
           "{family, text, vision} with the keys of config.json: start from random weights");
  v.Choice("save_dtype", &spec->model.save_dtype,
           "dtype of exported weights; auto: as in model.hf, else fp32");
  v.EndGroup();

  v.BeginGroup("train", "what learns, and what it keeps in memory");
  VisitModule(v, "vision", "the vision tower without its mergers", &spec->train.vision);
  VisitModule(v, "projector", "mergers, deep-stack ones included", &spec->train.projector);
  VisitModule(v, "llm", "embeddings, decoder and head", &spec->train.llm);
  v.Choice("recompute", &spec->train.recompute,
           "what a backward makes again, of encoder and llm; selective: norms and activations");
  v.Integer("recompute_layers", &spec->train.recompute_layers, kPositive,
            "in the first layers of each stage and of the encoder; null: in all");
  v.EndGroup();

  VisitParallel(v, &spec->parallel);
  VisitData(v, &spec->data);

  v.BeginGroup("batch", "how much a step holds: samples or tokens");
  v.Integer("samples", &spec->batch.samples, kCount, "samples of a step, over all ranks");
  v.Integer("tokens", &spec->batch.tokens, kCount, "tokens of a step, over all ranks");
  v.Integer("micro_batch_tokens", &spec->batch.micro_batch_tokens, kPositive,
            "tokens of one packed sequence");
  v.EndGroup();

  VisitOptim(v, &spec->optim);

  v.BeginGroup("plan", "how steps are planned");
  v.Choice("costs", &spec->plan.costs, "where the planner's costs come from");
  v.EndGroup();

  v.Choice("precision", &spec->precision, "of compute; bf16 keeps fp32 master weights");

  v.BeginGroup("runtime", "what the job runs on");
  v.Choice("device", &spec->runtime.device, "auto: cuda if there is one");
  v.Choice("comm", &spec->runtime.comm, "how ranks talk; auto: nccl on cuda, else mpi");
  v.Real("timeout_s", &spec->runtime.timeout_s, kAboveZero, "longest wait for another rank");
  v.Integer("threads", &spec->runtime.threads, kCount, "of a CPU op; 0: as OMP_NUM_THREADS says");
  v.EndGroup();

  v.BeginGroup("checkpoint", "what is saved to resume from");
  v.Integer("every", &spec->checkpoint.every, kCount, "steps between saves; 0: at the end only");
  v.Integer("keep_last", &spec->checkpoint.keep_last, kCount,
            "older ones are removed; 0: keep all");
  v.Bool("async", &spec->checkpoint.async, "write while training goes on");
  v.Bool("hf_export", &spec->checkpoint.hf_export, "write a Hugging Face directory at the end");
  v.EndGroup();

  VisitEval(v, &spec->eval);

  v.BeginGroup("metrics", "what is reported besides stdout");
  v.String("tensorboard", &spec->metrics.tensorboard, "folder for event files; null: none");
  v.Ints("trace_steps", &spec->metrics.trace_steps, kPositive, "steps whose timeline is written");
  v.Integer("log_every", &spec->metrics.log_every, kPositive, "steps between lines on stderr");
  v.EndGroup();
}

std::vector<std::string> AllKeys() {
  KeyCollector collector;
  JobSpec spec;
  VisitFields(collector, &spec);
  return collector.keys;
}

}  // namespace omnitrain
