#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace omnitrain {

// The job spec as plain structs, one per section of the YAML file; a field stands at the path of
// its key (`optim.lr` is JobSpec::optim.lr). fields.h declares every key once: its range, its names
// and its meaning. Paths are relative to the working directory. An empty string, an absent
// std::optional and an empty list are written `null` or left out.

struct RunSpec {
  std::string name = "run";
  std::string out;    // folder of everything the run writes; empty: runs/<name>, filled by Load
  uint64_t seed = 0;  // of initial weights and data order
  int64_t steps = 0;  // optimizer steps in all, resumed ones included
};

/// How matrices of saved models are stored; training keeps its own precision.
enum class SaveDtype { kAuto, kFp32, kBf16, kFp16 };  // auto: as model.hf, else fp32

struct ModelSpec {
  std::string hf;    // Hugging Face directory: config.json, weights, tokenizer, processor settings
  std::string arch;  // JSON text of `arch:` (see ModelConfigFromArch); weights come from run.seed
  SaveDtype save_dtype = SaveDtype::kAuto;
};

struct ModuleTrainSpec {
  bool freeze = false;
  double lr_scale = 1.0;  // times optim.lr
};

/// What a backward makes again instead of finding it; auto: as little as memory allows.
enum class RecomputeChoice { kAuto, kNone, kSelective, kFull };

struct TrainSpec {
  ModuleTrainSpec vision;     // the vision tower without its mergers
  ModuleTrainSpec projector;  // mergers: from tower to LLM width, deep-stack ones included
  ModuleTrainSpec llm;        // embeddings, decoder, head
  RecomputeChoice recompute = RecomputeChoice::kAuto;
  std::optional<int> recompute_layers;  // the first of each stage and of the encoder; absent: all
};

enum class PipelineSchedule { kAuto, kOneFOneB, kInterleaved, kZeroBubble };
/// How attention reaches rows on other cp ranks; auto: the cheaper one, sequence by sequence.
enum class CpMethod { kAuto, kRing, kUlysses };

struct LlmParallelSpec {
  int tp = 1;
  int cp = 1;
  CpMethod cp_method = CpMethod::kAuto;
  std::optional<int> dp;  // absent: world / (tp * cp * pp)
  int pp = 1;
  int vpp = 1;         // chunks per pipeline rank
  int ep = 1;          // a view over dp x cp x tp
  int zero_stage = 1;  // 3: layers are sharded too, not their optimizer state alone
  PipelineSchedule schedule = PipelineSchedule::kAuto;
  std::vector<int64_t> stage_layers;  // of each of the pp * vpp stages; empty: even
};

enum class Placement { kJoint, kThreePhase, kBubble, kFirstStage, kDisaggregated, kAuto };
/// Ranks among which something may move: those of a node, of a replica, all, or none.
enum class PoolScope { kNode, kReplica, kWorld, kNone };

struct EncoderParallelSpec {
  Placement placement = Placement::kAuto;
  int sp_max = 1;                     // most ranks that may share one item
  PoolScope pool = PoolScope::kNode;  // where items may move
  int ranks = 0;                      // encoder ranks of their own; placement disaggregated only
};

struct ParallelSpec {
  LlmParallelSpec llm;
  EncoderParallelSpec encoder;
  std::vector<std::string> order{"tp", "cp", "dp", "pp"};  // axes, fastest-varying rank first
};

enum class SourceFormat { kAuto, kWebDataset, kMessages };

struct DataSource {
  std::string path;  // a file, or a folder of them
  SourceFormat format = SourceFormat::kAuto;
  double weight = 1.0;               // share of the samples, relative to the other sources
  std::vector<std::string> prompts;  // user turns to draw from, for sources of plain captions
};

enum class TooLong { kSkip, kTruncate };
enum class AlphaMode { kWhite, kDrop };

struct ImageSpec {
  std::optional<int64_t> min_pixels;  // absent: as the model's preprocessor_config.json says
  std::optional<int64_t> max_pixels;
};

struct DataSpec {
  std::vector<DataSource> sources;
  std::string tokenizer;  // tokenizer.json or its folder; empty: that of model.hf
  double max_bad_fraction = 0.01;
  PoolScope reorder_group = PoolScope::kNode;
  TooLong too_long = TooLong::kSkip;
  bool shuffle = true;
  AlphaMode alpha = AlphaMode::kWhite;   // what transparency becomes: white, or the colour under it
  int64_t max_image_pixels = 178956970;  // larger files are refused before they are decoded
  ImageSpec image;
  int workers = 2;         // threads that decode and tokenize, per rank
  int prefetch_steps = 2;  // steps that are prepared ahead
};

struct BatchSpec {
  int64_t samples = 0;                // a step's samples over all ranks; 0: tokens decides
  int64_t tokens = 0;                 // a step's tokens over all ranks; 0: samples decides
  int64_t micro_batch_tokens = 4096;  // rows of one packed LLM sequence, on one replica
};

enum class LrSchedule { kCosine, kConstant, kLinear };

struct OptimSpec {
  double lr = 1e-4;           // after warm-up
  double min_lr_ratio = 0.1;  // of lr, where the schedule ends
  std::array<double, 2> betas{0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.0;
  double clip = 1.0;  // largest global gradient norm; 0: no clipping
  int64_t warmup_steps = 0;
  LrSchedule schedule = LrSchedule::kCosine;
};

enum class PlanCosts { kFlops, kFile, kFitted };

struct PlanSpec {
  PlanCosts costs = PlanCosts::kFlops;
};

enum class Precision { kBf16, kFp32, kFp64 };
enum class DeviceChoice { kAuto, kCpu, kCuda };
enum class CommChoice { kAuto, kMpi, kNccl, kInProcess };

struct RuntimeSpec {
  DeviceChoice device = DeviceChoice::kAuto;
  CommChoice comm = CommChoice::kAuto;
  double timeout_s = 600;  // of every wait for other ranks
  int threads = 0;         // per CPU op; 0: as OMP_NUM_THREADS says
};

struct CheckpointSpec {
  int64_t every = 0;  // steps; 0: at the end only
  int keep_last = 2;  // 0: all
  bool async = true;
  bool hf_export = false;  // write run.out/hf, a Hugging Face directory, at the end
};

/// Whether the model sees: the loss of held-out captions with their own picture, with another's,
/// and with a blank one, in nats per caption byte.
struct SightSpec {
  int64_t pairs = 0;   // captions to try; 0: off
  bool kinds = false;  // answers read "Kind: caption": count how often the greedy kind is right
  uint64_t seed = 0;   // of the choice of captions and of the others' pictures
};

struct EvalSpec {
  int64_t every = 0;  // steps; 0: at the end only
  std::vector<DataSource> sources;
  int captions = 0;         // samples to caption and print
  int64_t samples = 0;      // samples of the evaluation loss; 0: all
  int max_new_tokens = 32;  // of a generated caption
  SightSpec sight;
};

struct MetricsSpec {
  std::string tensorboard;           // folder for event files
  std::vector<int64_t> trace_steps;  // steps whose timeline is written to run.out
  int64_t log_every = 1;             // steps between two lines on stderr
};

struct JobSpec {
  RunSpec run;
  ModelSpec model;
  TrainSpec train;
  ParallelSpec parallel;
  DataSpec data;
  BatchSpec batch;
  OptimSpec optim;
  PlanSpec plan;
  Precision precision = Precision::kFp32;
  RuntimeSpec runtime;
  CheckpointSpec checkpoint;
  EvalSpec eval;
  MetricsSpec metrics;
};

/// Merges `files` left to right (maps key by key, scalars and lists replaced), then applies `sets`
/// (`a.b.c=value` with a YAML value, `data.sources.0.path=x` by index, `list+=value` to append).
/// Refuses what is unknown, duplicate, mistyped or out of range, then what Validate refuses.
/// Errors: kSpec, all problems at once, one a line: `job.yaml:12: unknown key
/// 'optim.learning_rate'; did you mean 'optim.lr'?`.
JobSpec LoadJobSpec(const std::vector<std::string>& files, const std::vector<std::string>& sets);

/// LoadJobSpec without the last check: a spec that need not be a whole job.
JobSpec ParseJobSpec(const std::vector<std::string>& files, const std::vector<std::string>& sets);

/// Refuses contradictions between keys, judged without looking at files, ranks or devices. What
/// depends on a choice left to `auto` is judged by calling it again once the choice is filled in.
/// Errors: kSpec, one problem a line, each starting with the key's path.
void Validate(const JobSpec& spec);

/// Refuses paths of the spec that do not exist. Errors: kSpec with key and path.
void CheckPaths(const JobSpec& spec);

/// Refuses what the spec language knows but this version cannot run yet: nothing is ignored in
/// silence. Errors: kSpec with the keys.
void RefuseUnsupported(const JobSpec& spec);

/// Every key with its value, resolved, as YAML that loads back to an equal spec.
std::string ToYaml(const JobSpec& spec);

/// A table of all keys: path, type and range, default, meaning.
std::string KeyReference();

bool operator==(const JobSpec& a, const JobSpec& b);
inline bool operator!=(const JobSpec& a, const JobSpec& b) { return !(a == b); }

/// The spelling of a value in YAML: "bf16", "three_phase".
const char* Name(SaveDtype v);
const char* Name(RecomputeChoice v);
const char* Name(PipelineSchedule v);
const char* Name(CpMethod v);
const char* Name(Placement v);
const char* Name(PoolScope v);
const char* Name(SourceFormat v);
const char* Name(TooLong v);
const char* Name(AlphaMode v);
const char* Name(LrSchedule v);
const char* Name(PlanCosts v);
const char* Name(Precision v);
const char* Name(DeviceChoice v);
const char* Name(CommChoice v);

}  // namespace omnitrain
