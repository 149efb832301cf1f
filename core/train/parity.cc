#include "core/train/parity.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/checkpoint/hf_directory.h"
#include "core/model/multimodal_model.h"
#include "core/train/gather_gradients.h"
#include "core/train/model_io.h"
#include "core/train/parity_batch.h"
#include "core/train/step_executor.h"
#include "kernels/elementwise/elementwise.h"

namespace omnitrain {
namespace {

// Values of a tensor on the host, in f64.
std::vector<double> ToHost(Context& ctx, const Tensor& t) {
  std::vector<double> values(static_cast<size_t>(t.num_elements()));
  if (values.empty()) return values;
  const OwnedTensor wide(ctx.device(), DType::kF64, t.shape);
  Cast(ctx, t, *wide);
  ctx.device().Copy(values.data(), wide->data, values.size() * sizeof(double), ctx.stream());
  ctx.stream().Synchronize();
  return values;
}

// One model under one layout, with all that a comparison takes from it.
// Merged rows [first, ...) of an encoder with windows as the reference has them.
std::vector<double> InRasterOrder(const ItemBatch& items, int64_t first, int64_t width,
                                  const std::vector<double>& values) {
  if (items.raster_rows.empty()) return values;
  std::vector<double> raster(values.size());
  for (int64_t i = 0; i < static_cast<int64_t>(values.size()) / width; ++i) {
    const int64_t to = items.raster_rows[static_cast<size_t>(first + i)] - first;
    std::copy_n(values.begin() + i * width, width, raster.begin() + to * width);
  }
  return raster;
}

class ParityRun {
 public:
  ParityRun(const JobRuntime& runtime, const JobSpec& spec, const ParityOptions& options)
      : ctx_(*runtime.ctx),
        world_(*runtime.world),
        options_(options),
        spec_(spec),
        config_(LoadModelConfig(options.model)),
        groups_(runtime, spec, config_.text),
        samples_(ReadParityBatch(options.batch, config_)),
        micro_batches_(MakeParityMicroBatches(samples_, config_, options.repeat,
                                              options.micro_batch_tokens, groups_.replica_idx(),
                                              groups_.num_replicas())) {
    int vision_out = 0;
    for (const ParitySample& sample : samples_) {
      first_vision_out_.push_back(vision_out);
      vision_out += (sample.num_image_rows > 0) + (sample.num_video_rows > 0);
      for (int32_t label : sample.labels) loss_tokens_ += label >= 0 ? 1 : 0;
    }
    OT_REQUIRE(loss_tokens_ > 0, ErrorCode::kData, "{}: no label in any sample", options.batch);
    loss_tokens_ *= options.repeat;
  }

  // Loss, logits, encoder outputs and gradients; whole on every rank.
  NamedTensors Compute() {
    Load();
    ShardedAdamW optimizer(ctx_, model_->params(), groups_.sharing(), AdamWConfig());
    StepExecutor executor(ctx_, *model_, groups_.replica());
    std::vector<ResultPiece> mine;
    executor.set_forward_observer(
        [&](const StepExecutor::ForwardView& view) { Observe(view, &mine); });
    const double loss = executor.Gradients(micro_batches_, optimizer) / loss_tokens_;
    NamedTensors all;
    for (const std::string& pieces : world_.AllGatherStrings(Serialize(mine))) {
      AddPieces(pieces, &all);
    }
    all["loss"] = {{1}, {loss}};
    NamedTensors grads = GatherGradients(ctx_, optimizer, model_->params(), world_);
    for (auto& [name, grad] : grads) {
      for (double& g : grad.values) g /= static_cast<double>(loss_tokens_);
      all["grad." + name] = std::move(grad);
    }
    return all;
  }

  void CompareCurve(const Json& reference, const std::string& where, double bound,
                    ComparisonReport* report) {
    const Json& hyper = reference.at("hyper");
    AdamWConfig config;
    config.beta1 = hyper.at("betas").at(0);
    config.beta2 = hyper.at("betas").at(1);
    config.eps = hyper.at("eps");
    config.weight_decay = hyper.at("weight_decay");
    config.clip = hyper.at("clip");
    Load();
    ShardedAdamW optimizer(ctx_, model_->params(), groups_.sharing(), config);
    StepExecutor executor(ctx_, *model_, groups_.replica());
    StepParams step;
    step.lr = hyper.at("lr");
    step.global_loss_tokens = loss_tokens_;
    const Json& curve = reference.at("curve_loss_gradnorm");
    OT_REQUIRE(!curve.empty(), ErrorCode::kData, "{}: the curve has no points", where);
    for (size_t i = 0; i < curve.size(); ++i) {
      step.step = static_cast<int64_t>(i) + 1;
      const StepOutcome outcome = executor.Train(micro_batches_, step, optimizer);
      CompareScalar(fmt::format("curve.{}.loss", i), outcome.loss, curve[i].at(0), bound, report);
      CompareScalar(fmt::format("curve.{}.grad_norm", i), outcome.grad_norm, curve[i].at(1), bound,
                    report);
    }
  }

  int64_t num_tokens() const {
    int64_t tokens = 0;
    for (const ParitySample& sample : samples_)
      tokens += static_cast<int64_t>(sample.labels.size());
    return tokens;
  }

  // Given positions that differ from the program's own are a failure of their own.
  void ComparePositions(ComparisonReport* report) const {
    for (const ParitySample& sample : samples_) {
      ComparedTensor c;
      c.name = fmt::format("{}.position_ids", sample.index());
      c.error = static_cast<double>(sample.num_positions_off);
      report->compared.push_back(c);
    }
  }

 private:
  // A fresh model with the weights of the directory.
  void Load() {
    model_ = std::make_unique<MultimodalModel>(config_, groups_.place());
    const SharingGroups& sharing = groups_.sharing();
    model_->params().Allocate(ctx_.device(),
                              ParamLayoutOf(spec_, sharing.Sizes(), sharing.Places()));
    LoadWeights(ctx_, HfDirectory::Open(options_.model), *model_);
  }

  // What this rank holds of the results: encoder rows of its items, logits of its rows and its
  // slice of the vocabulary.
  void Observe(const StepExecutor::ForwardView& view, std::vector<ResultPiece>* mine) {
    const MicroBatch& batch = micro_batches_[static_cast<size_t>(view.micro_batch)];
    if (view.llm == nullptr) {
      AddVisionOut(batch, *view.items, (*view.encoded)[0], mine);
    } else if (view.llm->stage == groups_.place().num_stages - 1) {
      AddLogits(batch, *view.llm, mine);
    }
  }

  bool IsRepetition(int64_t sample_id) const {
    return sample_id >= static_cast<int64_t>(samples_.size());
  }

  void AddLogits(const MicroBatch& batch, const LlmActivations& acts,
                 std::vector<ResultPiece>* mine) {
    const RowRuns runs = model_->llm().ContextRowsAt(batch, groups_.place().cp.rank);
    const VocabRange vocab = model_->llm().vocab();
    const int64_t num_rows = NumRows(runs);
    const OwnedTensor logits(ctx_.device(), model_->params().dtype(), {num_rows, vocab.count});
    model_->llm().Logits(ctx_, acts, 0, *logits);  // collective over tp
    const std::vector<double> values = ToHost(ctx_, *logits);
    std::vector<int64_t> row_of;  // of each local row
    for (const RowRun& run : runs) {
      for (int64_t row = run.begin; row < run.end(); ++row) row_of.push_back(row);
    }
    for (size_t s = 0; s < batch.sample_ids.size(); ++s) {
      if (IsRepetition(batch.sample_ids[s])) continue;
      ResultPiece piece;
      piece.name = fmt::format("{}.logits", samples_[batch.sample_ids[s]].index());
      const int64_t begin = batch.cu_seqlens[s], end = batch.cu_seqlens[s + 1];
      piece.shape = {end - begin, config_.text.vocab_size};
      piece.first_column = vocab.first;
      piece.num_columns = vocab.count;
      for (size_t i = 0; i < row_of.size(); ++i) {
        if (row_of[i] < begin || row_of[i] >= end) continue;
        piece.rows.push_back(row_of[i] - begin);
        const auto from = values.begin() + static_cast<std::ptrdiff_t>(i) * vocab.count;
        piece.values.insert(piece.values.end(), from, from + vocab.count);
      }
      mine->push_back(std::move(piece));
    }
  }

  void AddVisionOut(const MicroBatch& batch, const std::vector<int>& items, const Tensor& rows,
                    std::vector<ResultPiece>* mine) {
    const int64_t width = config_.vision.out_width;
    const ItemBatch own = SelectItems(batch.items, items, Pixels::kLeaveOut);
    const std::vector<double> values = InRasterOrder(own, 0, width, ToHost(ctx_, rows));
    const std::vector<int64_t> begins = batch.items.PatchBegins();
    const int64_t per_row = int64_t{batch.items.merge_size} * batch.items.merge_size;
    int64_t sample_row = 0;  // where the rows of a sample begin among those of the micro-batch
    for (size_t s = 0; s < batch.sample_ids.size(); ++s) {
      const ParitySample& sample = samples_[batch.sample_ids[s] % samples_.size()];
      const int64_t image_row = sample_row, video_row = image_row + sample.num_image_rows;
      sample_row = video_row + sample.num_video_rows;
      if (IsRepetition(batch.sample_ids[s])) continue;
      int call = first_vision_out_[static_cast<size_t>(sample.index())];
      const auto add = [&](int64_t first, int64_t count) {
        if (count == 0) return;
        ResultPiece piece;
        piece.name = fmt::format("vision_out.{}", call++);
        piece.shape = {count, width};
        piece.num_columns = width;
        int64_t local = 0;
        for (int item : items) {
          const int64_t from = begins[static_cast<size_t>(item)] / per_row;
          const int64_t to = begins[static_cast<size_t>(item) + 1] / per_row;
          for (int64_t row = from; row < to; ++row, ++local) {
            if (row < first || row >= first + count) continue;
            piece.rows.push_back(row - first);
            piece.values.insert(piece.values.end(), values.begin() + local * width,
                                values.begin() + (local + 1) * width);
          }
        }
        mine->push_back(std::move(piece));
      };
      add(image_row, sample.num_image_rows);
      add(video_row, sample.num_video_rows);
    }
  }

  Context& ctx_;
  Communicator& world_;
  const ParityOptions& options_;
  const JobSpec& spec_;
  ModelConfig config_;
  LayoutGroups groups_;
  std::vector<ParitySample> samples_;
  std::vector<MicroBatch> micro_batches_;
  std::vector<int> first_vision_out_;  // per sample
  int64_t loss_tokens_ = 0;
  std::unique_ptr<MultimodalModel> model_;
};

// "dir/expected.json" of "dir/expected.safetensors".
std::string JsonBeside(const std::string& path) {
  return std::filesystem::path(path).replace_extension(".json").string();
}

// Bounds in bf16: how far the same model strays when PyTorch runs it in bf16, tensor by tensor.
class Bf16Bounds {
 public:
  Bf16Bounds(const std::string& path, int64_t num_tokens)
      : one_token_(std::sqrt(2.0 / static_cast<double>(num_tokens))) {
    const Json reference = ReadJsonFile(path, ErrorCode::kData);
    OT_REQUIRE(reference.contains("bf16_relative_error"), ErrorCode::kData,
               "{}: no key 'bf16_relative_error' to compare bf16 with; give --tolerance", path);
    errors_ = reference.at("bf16_relative_error").get<std::map<std::string, double>>();
    for (const auto& [name, error] : errors_) largest_ = std::max(largest_, error);
  }
  // Twice the reference's error; of what it does not list (logits), twice its largest. Weights
  // rounded to bf16 are enough to turn a choice of experts that is nearly a tie, and that of
  // PyTorch may have stood by luck: a router may send one token elsewhere, which moves a share of
  // the gradient from one row to another.
  double operator()(const std::string& name) const {
    const auto it = errors_.find(name);
    const double bound = 2 * (it == errors_.end() ? largest_ : std::max(it->second, kRounding));
    const std::string router = ".mlp.gate.weight";
    const bool is_router = name.size() > router.size() &&
                           name.compare(name.size() - router.size(), router.size(), router) == 0;
    return is_router ? std::max(bound, one_token_) : bound;
  }
  // Half of the tensors must come out better than the reference.
  void CompareMedian(ComparisonReport* report) const {
    std::vector<double> ratios;
    for (const ComparedTensor& c : report->compared) {
      const auto it = errors_.find(c.name);
      if (it != errors_.end() && it->second > kRounding) ratios.push_back(c.error / it->second);
    }
    if (ratios.empty()) return;
    // NaN sorts nowhere: it has failed as a tensor already.
    std::sort(ratios.begin(), ratios.end());
    ComparedTensor median;
    median.name = "median of error / bf16_relative_error";
    median.error = ratios[ratios.size() / 2];
    median.bound = 1;
    report->compared.push_back(median);
  }

 private:
  // Errors far below the rounding of one bf16 number are luck.
  static constexpr double kRounding = 1.0 / 1024;
  const double one_token_;
  std::map<std::string, double> errors_;
  double largest_ = 0;
};

}  // namespace

ParityTolerances DefaultTolerances(Precision precision, DeviceKind device) {
  if (precision == Precision::kFp64) return {1e-8, 5e-6, 1e-5};
  // The tensors of a bf16 run have bounds of their own.
  if (precision == Precision::kBf16) return {2e-3, 0, 5e-2};
  // Rounding grows from step to step on the curve; f32 has no claim there beyond the tensors' own.
  if (device == DeviceKind::kCpu) return {2e-5, 2e-5, 1e-3};
  return {1e-4, 1e-4, 1e-3};
}

ComparisonReport RunParity(const JobRuntime& runtime, const JobSpec& spec,
                           const ParityOptions& options) {
  ParityTolerances bounds = DefaultTolerances(spec.precision, runtime.ctx->device().kind());
  if (options.tolerance > 0) bounds.tensor = options.tolerance;
  if (options.loss_tolerance > 0) bounds.loss = options.loss_tolerance;
  if (options.curve_tolerance > 0) bounds.curve = options.curve_tolerance;

  ParityRun run(runtime, spec, options);
  NamedTensors got = run.Compute();
  if (!options.dump.empty() && runtime.world->rank() == 0) WriteNamedTensors(options.dump, got);

  ComparisonReport report;
  run.ComparePositions(&report);
  const double loss = got.at("loss").values[0];
  if (!options.expected.empty()) {
    NamedTensors want = ReadNamedTensors(options.expected);
    const std::string json = JsonBeside(options.expected);
    if (want.count("loss") != 0) {
      CompareScalar("loss", loss, want.at("loss").values.at(0), bounds.loss, &report);
      want.erase("loss");
    } else if (std::filesystem::exists(json)) {
      CompareScalar("loss", loss, ReadJsonFile(json, ErrorCode::kData).at("loss"), bounds.loss,
                    &report);
    }
    got.erase("loss");
    if (bounds.tensor > 0) {
      CompareTensors(got, want, bounds.tensor, &report);
    } else {
      const Bf16Bounds bf16(json, run.num_tokens());
      CompareTensors(got, want, bf16, &report);
      bf16.CompareMedian(&report);
    }
  }
  if (!options.curve.empty()) {
    const Json reference = ReadJsonFile(options.curve, ErrorCode::kData);
    for (const char* key : {"loss", "hyper", "curve_loss_gradnorm"}) {
      OT_REQUIRE(reference.contains(key), ErrorCode::kData, "{}: no key '{}'", options.curve, key);
    }
    CompareScalar("curve file: loss", loss, reference.at("loss"), bounds.loss, &report);
    run.CompareCurve(reference, options.curve, bounds.curve, &report);
  }
  return report;
}

}  // namespace omnitrain
