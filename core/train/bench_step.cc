#include "core/train/bench_step.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "core/base/rng.h"
#include "core/optim/sharded_adamw.h"
#include "core/train/step_executor.h"
#include "core/train/work.h"
#include "data/pack/pack.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/gemm/gemm.h"
#include "parallel/comm/inprocess_communicator.h"

namespace omnitrain {
namespace {

using Clock = std::chrono::steady_clock;

// The config.json of the small model.
const char kSmallArch[] = R"({"family": "qwen3_vl", "tie_word_embeddings": true,
  "image_token_id": 4001, "video_token_id": 4002,
  "vision_start_token_id": 4003, "vision_end_token_id": 4004,
  "text": {"vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8,
           "num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 768,
           "max_position_embeddings": 4096,
           "rope_parameters": {"rope_theta": 1000000.0, "mrope_section": [6, 5, 5]}},
  "vision": {"depth": 4, "hidden_size": 128, "num_heads": 4, "intermediate_size": 384,
             "patch_size": 16, "spatial_merge_size": 2, "num_position_embeddings": 256,
             "deepstack_visual_indexes": [1, 2, 3]}})";

EncodedSample MakeSample(const StepBench& bench, int64_t index) {
  const ModelConfig& model = bench.model;
  EncodedSample sample;
  sample.index = index;
  EncodedItem item;
  item.shape.grid = {1, bench.grid_h, bench.grid_w};
  const int merge = model.vision.merge_size;
  const int64_t rows = item.shape.grid.num_patches() / (merge * merge);
  sample.items.push_back(std::move(item));
  sample.ids.push_back(static_cast<int32_t>(model.vision_start_token_id));
  sample.ids.insert(sample.ids.end(), static_cast<size_t>(rows),
                    static_cast<int32_t>(model.image_token_id));
  sample.ids.push_back(static_cast<int32_t>(model.vision_end_token_id));
  sample.loss_mask.assign(sample.ids.size(), 0);
  for (int i = 0; i < bench.text_tokens; ++i) {
    const uint64_t id =
        RandomBits(1, static_cast<uint64_t>(index), static_cast<uint64_t>(i)) % 4000;
    sample.ids.push_back(static_cast<int32_t>(id));
    sample.loss_mask.push_back(1);
  }
  return sample;
}

std::vector<MicroBatch> MakeBatches(const StepBench& bench) {
  PackOptions pack;
  pack.positions.merge_size = bench.model.vision.merge_size;
  pack.positions.image_token_id = static_cast<int32_t>(bench.model.image_token_id);
  pack.positions.video_token_id = static_cast<int32_t>(bench.model.video_token_id);
  pack.patch_dim = bench.model.vision.patch_dim();
  std::vector<EncodedSample> samples;
  for (int i = 0; i < bench.samples; ++i) {
    samples.push_back(MakeSample(bench, i));
    EncodedSample& s = samples.back();
    s.runs = FindItemRuns(s.ids, {s.items[0].shape}, pack.positions, "bench");
  }
  std::vector<MicroBatch> batches;
  const int64_t per_batch = std::max<int64_t>(1, bench.micro_batch_tokens / samples[0].num_rows());
  for (size_t begin = 0; begin < samples.size(); begin += static_cast<size_t>(per_batch)) {
    std::vector<const EncodedSample*> members;
    for (size_t i = begin; i < std::min(samples.size(), begin + static_cast<size_t>(per_batch));
         ++i) {
      members.push_back(&samples[i]);
    }
    batches.push_back(BuildMicroBatch(members, pack));
    std::vector<float>& patches = batches.back().items.patches;
    for (size_t i = 0; i < patches.size(); ++i) {
      patches[i] = static_cast<float>(RandomNormal(2, begin, i));
    }
  }
  return batches;
}

// Rate of a 1,024^3 product, best of a few: what this machine gives in this run.
double GemmRate(Context& ctx, DType dtype) {
  constexpr int64_t kSide = 1024;
  const OwnedTensor a(ctx.device(), dtype, {kSide, kSide}), b(ctx.device(), dtype, {kSide, kSide}),
      c(ctx.device(), dtype, {kSide, kSide});
  Zero(ctx, *a);
  Zero(ctx, *b);
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    const auto begin = Clock::now();
    LinearForward(ctx, *a, *b, Tensor(), Write::kOverwrite, *c);
    ctx.stream().Synchronize();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, 2.0 * kSide * kSide * kSide / seconds / 1e9);
  }
  return best;
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

}  // namespace

StepBench SmallStepBench() {
  StepBench bench;
  bench.preset = "small";
  bench.model = ModelConfigFromArch(kSmallArch);
  return bench;
}

Json RunStepBench(Context& ctx, const StepBench& bench) {
  MultimodalModel model(bench.model);
  ParamStore::AllocateOptions allocate;
  allocate.dtype = bench.dtype;
  model.params().Allocate(ctx.device(), allocate);
  model.params().Initialize(1, bench.model.text.initializer_range, ctx.stream());
  const auto self = NewSelfCommunicator();
  AdamWConfig config;
  ShardedAdamW optimizer(ctx, model.params(), *self, config);
  StepExecutor executor(ctx, model);
  const std::vector<MicroBatch> batches = MakeBatches(bench);

  StepParams params;
  params.lr = 1e-4;
  int64_t rows = 0;
  double flops = 0;
  for (const MicroBatch& batch : batches) {
    params.global_loss_tokens += batch.num_loss_tokens();
    rows += batch.num_tokens();
    const MicroBatchWork work = WorkOf(model, batch);
    flops += 3 * (work.encoder_flops + work.llm_flops);
  }
  std::vector<double> times;
  for (int i = 0; i < bench.steps; ++i) {
    params.step = i + 1;
    const auto begin = Clock::now();
    const StepOutcome outcome = executor.Train(batches, params, optimizer);
    ctx.stream().Synchronize();
    OT_CHECK(outcome.is_finite, "loss {}", outcome.loss);
    if (i > 0) times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  OT_REQUIRE(!times.empty(), ErrorCode::kSpec,
             "--steps: the first step is not counted; ask for two or more");
  const double median = Quantile(times, 0.5), ceiling = GemmRate(ctx, bench.dtype);
  return {{"bench", "step"},
          {"preset", bench.preset},
          {"device", ctx.device().Describe()},
          {"dtype", DTypeName(bench.dtype)},
          {"parameters", model.params().num_elements()},
          {"tokens_per_step", rows},
          {"micro_batches", batches.size()},
          {"repetitions", times.size()},
          {"step_ms",
           {{"median", median * 1e3},
            {"p10", Quantile(times, 0.1) * 1e3},
            {"p90", Quantile(times, 0.9) * 1e3}}},
          {"tokens_per_s", static_cast<double>(rows) / median},
          {"gflop_per_step", flops / 1e9},
          {"gflop_s", flops / median / 1e9},
          {"gemm_gflop_s", ceiling},
          {"ratio_to_gemm", flops / median / 1e9 / ceiling}};
}

}  // namespace omnitrain
