#include <algorithm>
#include <array>
#include <optional>

#include "core/train/step_executor.h"
#include "parallel/comm/inprocess_communicator.h"
#include "tests/core/model/tiny_model.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

constexpr Recompute kNone = Recompute::kNone, kFull = Recompute::kFull,
                    kSelective = Recompute::kNormsAndActivations;

/// The host, with so much memory left for arenas.
class SmallDevice : public Device {
 public:
  explicit SmallDevice(size_t arena_bytes)
      : available_(static_cast<size_t>(kReservedBytes) + arena_bytes) {}
  DeviceKind kind() const override { return host_->kind(); }
  int index() const override { return 0; }
  std::string Describe() const override { return "a small host"; }
  std::unique_ptr<Stream> NewStream() override { return host_->NewStream(); }
  std::unique_ptr<Event> NewEvent() override { return host_->NewEvent(); }
  void* Allocate(size_t bytes) override { return host_->Allocate(bytes); }
  void Free(void* data) override { host_->Free(data); }
  void* AllocateHost(size_t bytes) override { return host_->AllocateHost(bytes); }
  void FreeHost(void* data) override { host_->FreeHost(data); }
  size_t allocated_bytes() const override { return host_->allocated_bytes(); }
  size_t peak_bytes() const override { return host_->peak_bytes(); }
  size_t available_bytes() const override { return available_; }
  void Copy(void* destination, const void* source, size_t bytes, Stream& stream) override {
    host_->Copy(destination, source, bytes, stream);
  }
  void Fill(void* destination, int byte, size_t bytes, Stream& stream) override {
    host_->Fill(destination, byte, bytes, stream);
  }

 private:
  std::unique_ptr<Device> host_ = NewCpuDevice(1);
  size_t available_;
};

/// A Qwen2.5-VL: windows in two of four encoder layers.
ModelConfig WindowedModel() {
  return ModelConfigFromArch(R"({"family": "qwen2_5_vl",
      "image_token_id": 33, "video_token_id": 34,
      "vision_start_token_id": 35, "vision_end_token_id": 36,
      "text": {"vocab_size": 37, "hidden_size": 32, "num_hidden_layers": 4,
               "num_attention_heads": 4, "num_key_value_heads": 2,
               "intermediate_size": 10, "max_position_embeddings": 128,
               "rope_parameters": {"rope_theta": 100.0, "mrope_section": [2, 1, 1]}},
      "vision": {"depth": 4, "hidden_size": 16, "num_heads": 2, "intermediate_size": 6,
                 "patch_size": 2, "temporal_patch_size": 1, "spatial_merge_size": 2,
                 "window_size": 8, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2,
                 "out_hidden_size": 32},
      "tie_word_embeddings": true})");
}

ModelConfig DeepModel() {
  ModelConfig config = TinyModel(/*is_tied=*/true);
  config.text.num_layers = 6;
  return config;
}

ModelConfig SparseModel() {
  ModelConfig config = TinyModel(/*is_tied=*/true);
  MakeSparse(&config.text);
  config.text.num_layers = 4;
  return config;
}

struct Run {
  double loss = 0;
  std::vector<double> grads;
  size_t arena_bytes = 0;
  RecomputePlan recompute;
};

std::vector<int> Values(const RecomputePlan& plan) {
  return {static_cast<int>(plan.kind), plan.num_layers, static_cast<int>(plan.rest)};
}

/// What a rank may know of its memory and of the others.
struct Setting {
  std::optional<RecomputePlan> by_hand;
  size_t arena_bytes = size_t{1} << 40;
  bool is_llm_frozen = false;
  Communicator* tp = nullptr;
};

Run Gradients(const ModelConfig& config, const Setting& setting, bool evaluates = false) {
  SmallDevice device(setting.arena_bytes);
  const auto stream = device.NewStream();
  Context ctx(device, *stream);
  LlmPlace place;
  ReplicaGroups groups;
  groups.shape.recompute = setting.by_hand;
  if (setting.tp != nullptr) {
    place.tp = {setting.tp->size(), setting.tp->rank(), setting.tp};
    place.rows = groups.stage = groups.replica = setting.tp;
    groups.shape.seats = {{0, 0}, {0, 1}};
    groups.shape.seat = setting.tp->rank();
  }
  MultimodalModel model(config, place);
  ParamStore::AllocateOptions options;
  options.dtype = DType::kF64;
  options.frozen[static_cast<int>(ParamGroup::kLlm)] = setting.is_llm_frozen;
  model.params().Allocate(device, options);
  FillWithNoise(model.params(), 3);
  const std::vector<MicroBatch> batches = {
      TinyBatch(config, {{{{1, 2, 6}}, 1, 3}, {{}, 3, 2}, {{{1, 6, 10}}, 2, 5}}, 4),
      TinyBatch(config, {{{}, 5, 4}}, 6), TinyBatch(config, {{{{1, 2, 2}, {1, 10, 2}}, 0, 4}}, 5)};
  const auto self = NewSelfCommunicator();
  ShardedAdamW optimizer(ctx, model.params(), *self, AdamWConfig());
  StepExecutor executor(ctx, model, groups);
  Run run;
  if (evaluates) {
    for (double loss : executor.Evaluate(batches)) run.loss += loss;
  } else {
    run.loss = executor.Gradients(batches, optimizer);
    for (const ParamBucket& bucket : model.params().buckets()) {
      const Tensor grads = model.params().bucket_grads(bucket);
      if (!grads) continue;
      run.grads.insert(run.grads.end(), grads.ptr<double>(),
                       grads.ptr<double>() + grads.num_elements());
    }
  }
  run.arena_bytes = executor.planned_bytes();
  run.recompute = executor.recompute();
  return run;
}

Setting ByHand(const RecomputePlan& recompute) {
  Setting setting;
  setting.by_hand = recompute;
  return setting;
}

TEST_CASE("a step with less memory has the same gradients, bit by bit") {
  const int model = GENERATE(0, 1, 2);
  const ModelConfig config = model == 0   ? DeepModel()
                             : model == 1 ? WindowedModel()
                                          : SparseModel();
  const bool is_llm_frozen = GENERATE(false, true);
  const auto run_with = [&](const RecomputePlan& recompute) {
    Setting setting = ByHand(recompute);
    setting.is_llm_frozen = is_llm_frozen;
    return Gradients(config, setting);
  };
  const Run none = run_with({kNone}), selective = run_with({kSelective}), full = run_with({kFull});
  CHECK(none.loss > 10);
  CHECK(none.arena_bytes > selective.arena_bytes);
  CHECK(selective.arena_bytes > full.arena_bytes);
  for (const Run& run : {selective, full, run_with({kFull, 2}), run_with({kFull, 2, kSelective}),
                         run_with({kSelective, 1})}) {
    CHECK(run.loss == none.loss);
    CHECK(run.grads == none.grads);
    CHECK(run.arena_bytes < none.arena_bytes);
  }
}

TEST_CASE("auto recomputes the least that fits, and all where nothing does") {
  const ModelConfig config = GENERATE(0, 1) == 0 ? DeepModel() : WindowedModel();
  std::vector<RecomputePlan> levels = {{}};
  const int most = std::max(config.text.num_layers, config.vision.depth);
  for (int n = 0; n <= most; ++n) levels.push_back({kFull, n, kSelective});
  std::vector<size_t> bytes;
  for (const RecomputePlan& level : levels) {
    bytes.push_back(Gradients(config, ByHand(level)).arena_bytes);
  }
  const Run want = Gradients(config, {});
  CHECK(Values(want.recompute) == Values(levels[0]));
  for (const size_t arena_bytes : bytes) {
    Setting setting;
    setting.arena_bytes = arena_bytes;
    const Run run = Gradients(config, setting);
    const auto first = std::find_if(bytes.begin(), bytes.end(),
                                    [&](size_t level) { return level <= arena_bytes; });
    CAPTURE(arena_bytes, first - bytes.begin(), run.recompute.num_layers);
    CHECK(Values(run.recompute) == Values(levels[static_cast<size_t>(first - bytes.begin())]));
    CHECK(run.arena_bytes == *first);
    CHECK(run.grads == want.grads);
  }
  Setting none;
  none.arena_bytes = 0;
  CHECK(Values(Gradients(config, none).recompute) == Values(levels.back()));
}

TEST_CASE("an evaluation that does not fit shares all that it can, and computes nothing twice") {
  const Run roomy = Gradients(DeepModel(), {}, /*evaluates=*/true);
  Setting tight;
  tight.arena_bytes = roomy.arena_bytes - 1;
  const Run run = Gradients(DeepModel(), tight, /*evaluates=*/true);
  CHECK(Values(roomy.recompute) == Values(RecomputePlan{}));
  CHECK(Values(run.recompute) == Values(RecomputePlan{kFull}));
  CHECK(run.loss == roomy.loss);
  CHECK(run.arena_bytes < roomy.arena_bytes);
}

TEST_CASE("ranks of a replica recompute what the one with the least memory must") {
  std::array<Run, 2> roomy, tight;
  InProcessWorld(2).Run([&](Communicator& world) {
    Setting setting;
    setting.tp = &world;
    roomy[static_cast<size_t>(world.rank())] = Gradients(DeepModel(), setting);
    if (world.rank() == 1) setting.arena_bytes = 0;
    tight[static_cast<size_t>(world.rank())] = Gradients(DeepModel(), setting);
  });
  for (size_t rank = 0; rank < 2; ++rank) {
    CHECK(Values(roomy[rank].recompute) == Values(RecomputePlan{}));
    CHECK(Values(tight[rank].recompute) == Values(RecomputePlan{kFull, 6, kSelective}));
    CHECK(tight[rank].loss == roomy[rank].loss);
    CHECK(tight[rank].grads == roomy[rank].grads);
  }
}

}  // namespace
}  // namespace omnitrain
