#include "core/train/bench_step.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>

#include "core/base/rng.h"
#include "core/model/host_tables.h"
#include "core/optim/sharded_adamw.h"
#include "core/train/memory_estimate.h"
#include "core/train/step_executor.h"
#include "core/train/work.h"
#include "data/pack/pack.h"
#include "kernels/cases/ceilings.h"
#include "parallel/schedule/simulate.h"

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

const char kQwen2Vl2bArch[] = R"({"family": "qwen2_vl", "tie_word_embeddings": true,
  "image_token_id": 151655, "video_token_id": 151656,
  "vision_start_token_id": 151652, "vision_end_token_id": 151653,
  "text": {"vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28,
           "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960,
           "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
           "rope_parameters": {"rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}},
  "vision": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4,
             "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}})";

const char kQwen3Vl2bArch[] = R"({"family": "qwen3_vl", "tie_word_embeddings": true,
  "image_token_id": 151655, "video_token_id": 151656,
  "vision_start_token_id": 151652, "vision_end_token_id": 151653,
  "text": {"vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 28,
           "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
           "intermediate_size": 6144, "max_position_embeddings": 262144,
           "rope_parameters": {"rope_theta": 5000000.0, "mrope_section": [24, 20, 20]}},
  "vision": {"depth": 24, "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096,
             "patch_size": 16, "spatial_merge_size": 2, "num_position_embeddings": 2304,
             "deepstack_visual_indexes": [5, 11, 17]}})";

// A quarter of the depth of Qwen2-VL-7B, encoder and LLM alike; the ends of the model stay.
const char kQwen2Vl7bQuarterArch[] = R"({"family": "qwen2_vl", "tie_word_embeddings": false,
  "image_token_id": 151655, "video_token_id": 151656,
  "vision_start_token_id": 151652, "vision_end_token_id": 151653,
  "text": {"vocab_size": 152064, "hidden_size": 3584, "num_hidden_layers": 7,
           "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944,
           "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
           "rope_parameters": {"rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}},
  "vision": {"depth": 8, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4,
             "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}})";

const char kQwen3Vl30bA3bCutArch[] = R"({"family": "qwen3_vl_moe", "tie_word_embeddings": false,
  "image_token_id": 151655, "video_token_id": 151656,
  "vision_start_token_id": 151652, "vision_end_token_id": 151653,
  "text": {"vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 3,
           "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
           "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128,
           "num_experts_per_tok": 8, "norm_topk_prob": true, "decoder_sparse_step": 1,
           "mlp_only_layers": [], "router_aux_loss_coef": 0.001,
           "max_position_embeddings": 262144,
           "rope_parameters": {"rope_theta": 5000000.0, "mrope_section": [24, 20, 20]}},
  "vision": {"depth": 3, "hidden_size": 1152, "out_hidden_size": 2048, "num_heads": 16,
             "intermediate_size": 4304, "patch_size": 16, "spatial_merge_size": 2,
             "num_position_embeddings": 2304, "deepstack_visual_indexes": [0, 1, 2]}})";

EncodedSample MakeSample(const StepBench& bench, const BenchSample& shape, int64_t index) {
  const ModelConfig& model = bench.model;
  EncodedSample sample;
  sample.index = index;
  if (shape.grid_h > 0) {
    EncodedItem item;
    item.shape.grid = {1, shape.grid_h, shape.grid_w};
    const int merge = model.vision.merge_size;
    const int64_t rows = item.shape.grid.num_patches() / (merge * merge);
    sample.items.push_back(std::move(item));
    sample.ids.push_back(static_cast<int32_t>(model.vision_start_token_id));
    sample.ids.insert(sample.ids.end(), static_cast<size_t>(rows),
                      static_cast<int32_t>(model.image_token_id));
    sample.ids.push_back(static_cast<int32_t>(model.vision_end_token_id));
  }
  sample.loss_mask.assign(sample.ids.size(), bench.learns_all_tokens ? 1 : 0);
  for (int64_t i = 0; i < shape.text_tokens; ++i) {
    const uint64_t id =
        RandomBits(1, static_cast<uint64_t>(index), static_cast<uint64_t>(i)) % 4000;
    sample.ids.push_back(static_cast<int32_t>(id));
    sample.loss_mask.push_back(1);
  }
  return sample;
}

std::vector<MicroBatch> MakeBatches(const StepBench& bench, int replica) {
  PackOptions pack;
  pack.positions.merge_size = bench.model.vision.merge_size;
  pack.positions.image_token_id = static_cast<int32_t>(bench.model.image_token_id);
  pack.positions.video_token_id = static_cast<int32_t>(bench.model.video_token_id);
  pack.patch_dim = bench.model.vision.patch_dim();
  pack.window_cells = bench.model.vision.window_cells();
  std::vector<MicroBatch> batches;
  int64_t index = int64_t{replica} << 20;  // every replica has content of its own
  for (const std::vector<BenchSample>& shapes : bench.micro_batches) {
    std::vector<EncodedSample> samples;
    for (const BenchSample& shape : shapes) {
      EncodedSample sample = MakeSample(bench, shape, index++);
      std::vector<ItemShape> items;
      for (const EncodedItem& item : sample.items) items.push_back(item.shape);
      sample.runs = FindItemRuns(sample.ids, items, pack.positions, "bench");
      samples.push_back(std::move(sample));
    }
    std::vector<const EncodedSample*> members;
    for (const EncodedSample& sample : samples) members.push_back(&sample);
    batches.push_back(BuildMicroBatch(members, pack));
    std::vector<float>& patches = batches.back().items.patches;
#pragma omp parallel for
    for (size_t i = 0; i < patches.size(); ++i) {
      patches[i] = static_cast<float>(RandomNormal(2, static_cast<uint64_t>(index), i));
    }
  }
  return batches;
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

}  // namespace

StepBench StepBenchPreset(const std::string& name, const BenchPacking& packing) {
  StepBench bench;
  bench.preset = name;
  const int64_t tokens = packing.micro_batch_tokens;
  if (name == "small") {
    bench.model = ModelConfigFromArch(kSmallArch);
    const BenchSample sample{16, 16, 48};
    constexpr int64_t kRows = 16 * 16 / 4 + 2 + 48;
    const int64_t together = std::max<int64_t>(1, (tokens > 0 ? tokens : 4096) / kRows);
    const int64_t num_samples =
        packing.num_micro_batches > 0 ? packing.num_micro_batches * together : 16;
    for (int64_t i = 0; i < num_samples; i += together) {
      bench.micro_batches.emplace_back(std::min(together, num_samples - i), sample);
    }
    return bench;
  }
  const std::map<std::string, const char*> presets = {{"qwen2-vl-2b", kQwen2Vl2bArch},
                                                      {"qwen3-vl-2b", kQwen3Vl2bArch},
                                                      {"7b-quarter", kQwen2Vl7bQuarterArch},
                                                      {"30b-a3b-cut", kQwen3Vl30bA3bCutArch}};
  const auto preset = presets.find(name);
  OT_REQUIRE(preset != presets.end(), ErrorCode::kSpec,
             "--preset {}: use small, qwen2-vl-2b, qwen3-vl-2b, 7b-quarter or 30b-a3b-cut", name);
  bench.model = ModelConfigFromArch(preset->second);
  bench.learns_all_tokens = true;
  const int num_micro_batches = packing.num_micro_batches > 0 ? packing.num_micro_batches : 4;
  const int64_t rows_wanted = tokens > 0 ? tokens : 8192;
  constexpr int64_t kShortest = 64;
  uint64_t draw = 0;
  for (int m = 0; m < num_micro_batches; ++m) {
    std::vector<BenchSample> samples;
    for (int64_t rows = 0; rows < rows_wanted;) {
      const auto drawn = static_cast<int64_t>(std::exp(6.6 + 0.8 * RandomNormal(4, 0, draw++)));
      const int64_t length = packing.one_sample
                                 ? rows_wanted
                                 : std::min(std::max(drawn, kShortest), rows_wanted - rows);
      rows += length;
      // One row of merged cells: an image's cost depends on its patches, not on its sides. A long
      // sample is text: no picture is that large.
      const int64_t image = length / 2;
      const bool has_image = image >= 4 && !packing.one_sample;
      samples.push_back({has_image ? 2 : 0, has_image ? static_cast<int>(2 * image) : 0,
                         has_image ? length - image - 2 : length});
    }
    bench.micro_batches.push_back(std::move(samples));
  }
  return bench;
}

namespace {

struct Prediction {
  double makespan_ms = 0;
  double busiest_ms = 0;  // of the rank that computes longest: the step if nothing ever waited
  // Of each pipeline rank: "llm:F", of stage 1 "llm:1F" -> all of the step, in ms. What
  // cuts stages of equal length starts from this.
  std::vector<std::map<std::string, double>> op_ms;
};

// The last run's schedule with the times that its ops took on all ranks.
Prediction Predict(const StepExecutor& executor, Communicator& world) {
  std::string mine;
  const auto append = [&](int64_t value) {
    mine.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  append(executor.schedule_rank());
  for (int64_t ns : executor.OpTimes()) append(ns);
  // By rank of the pipeline and place in its list: the slowest of the ranks that share a stage.
  std::vector<std::vector<int64_t>> times(executor.schedule().ranks.size());
  for (const std::string& text : world.AllGatherStrings(mine)) {
    std::vector<int64_t> values(text.size() / sizeof(int64_t));
    std::memcpy(values.data(), text.data(), values.size() * sizeof(int64_t));
    std::vector<int64_t>& slowest = times.at(static_cast<size_t>(values.at(0)));
    slowest.resize(values.size() - 1, 0);
    for (size_t i = 0; i < slowest.size(); ++i) {
      slowest[i] = std::max(slowest[i], values[i + 1]);
    }
  }
  std::vector<std::map<std::string, int64_t>> costs(times.size());
  for (size_t r = 0; r < times.size(); ++r) {
    const std::vector<Op>& ops = executor.schedule().ranks[r];
    OT_CHECK(ops.size() == times[r].size(), "{} times of {} ops", times[r].size(), ops.size());
    for (size_t i = 0; i < ops.size(); ++i) costs[r][ToString(ops[i])] = times[r][i];
  }
  const Simulation simulation =
      Simulate(executor.schedule(), [&](const Op& op, int rank) -> int64_t {
        const bool is_message =
            op.kind == OpKind::kSendForward || op.kind == OpKind::kRecvForward ||
            op.kind == OpKind::kSendBackward || op.kind == OpKind::kRecvBackward;
        // A message is launched and travels beside the compute.
        return is_message ? 0 : costs.at(static_cast<size_t>(rank)).at(ToString(op));
      });
  Prediction prediction;
  for (size_t r = 0; r < times.size(); ++r) {
    std::map<std::string, double>& sums = prediction.op_ms.emplace_back();
    for (size_t i = 0; i < times[r].size(); ++i) {
      Op op = executor.schedule().ranks[r][i];
      op.micro_batch = -1;
      sums[ToString(op)] += static_cast<double>(times[r][i]) / 1e6;
    }
  }
  prediction.makespan_ms = static_cast<double>(simulation.makespan_ns) / 1e6;
  for (const SimulatedRank& rank : simulation.ranks) {
    prediction.busiest_ms =
        std::max(prediction.busiest_ms, static_cast<double>(rank.busy_ns) / 1e6);
  }
  return prediction;
}

// By communicator, the longest of all ranks.  Collective.
Json LongestWaits(const std::map<std::string, double>& mine, Communicator& world) {
  Json longest = Json::object();
  for (const std::string& text : world.AllGatherStrings(Json(mine).dump())) {
    const Json theirs = Json::parse(text);
    for (const auto& [name, ms] : theirs.items()) {
      longest[name] = std::max(longest.value(name, 0.0), ms.get<double>());
    }
  }
  return longest;
}

}  // namespace

Json RunStepBench(const JobRuntime& runtime, const JobSpec& spec, const StepBench& bench) {
  Context& ctx = *runtime.ctx;
  Communicator& world = *runtime.world;
  const LayoutGroups groups(runtime, spec, bench.model.text);
  MultimodalModel model(bench.model, groups.place());
  ParamStore::AllocateOptions allocate =
      ParamLayoutOf(spec, groups.sharing().Sizes(), groups.sharing().Places());
  allocate.dtype = bench.dtype;
  model.params().Allocate(ctx.device(), allocate);
  model.params().Initialize(1, bench.model.text.initializer_range, ctx.stream());
  AdamWConfig config;
  ShardedAdamW optimizer(ctx, model.params(), groups.sharing(), config);
  StepExecutor executor(ctx, model, groups.replica());
  const std::vector<MicroBatch> batches = MakeBatches(bench, groups.replica_idx());

  StepParams params;
  params.lr = 1e-4;
  const WorkCounter work(bench.model);
  int64_t rows = 0;
  double flops = 0;
  for (const MicroBatch& batch : batches) {
    params.global_loss_tokens += batch.num_loss_tokens() * groups.num_replicas();
    rows += batch.num_tokens() * groups.num_replicas();
    const MicroBatchWork of_batch = work.Of(batch);
    flops += 3 * (of_batch.encoder_flops + of_batch.llm_flops) * groups.num_replicas();
  }
  const auto train = [&] {
    ++params.step;
    world.Barrier();
    const auto begin = Clock::now();
    const StepOutcome outcome = executor.Train(batches, params, optimizer);
    optimizer.FinishGather(ctx);
    ctx.stream().Synchronize();
    OT_CHECK(outcome.is_finite, "loss {}", outcome.loss);
    world.Barrier();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  OT_REQUIRE(bench.steps >= 2, ErrorCode::kSpec,
             "--steps: the first step is not counted; ask for two or more");
  params.step = 0;
  train();
  std::vector<double> times;
  for (int i = 1; i < bench.steps; ++i) times.push_back(train());
  const Json waits = LongestWaits(executor.wait_ms(), world);
  executor.set_profiling(true);
  train();
  const Prediction predicted = Predict(executor, world);
  const MemoryEstimate estimate =
      EstimateMemory(model, groups.replica().shape, {{&executor.plan(), &batches}},
                     groups.sharing().Sizes(), ctx.device().kind(), spec.runtime.threads);
  const double peak_flops = PeakFlops(ctx.device().Describe(), bench.dtype);
  const size_t peak_bytes = ctx.device().peak_bytes();
  const double median = Quantile(times, 0.5), gemm = MeasureGemmFlops(ctx, bench.dtype);
  const double tflops = flops / median / world.size();
  Json record = {
      {"bench", "step"},
      {"preset", bench.preset},
      {"device", ctx.device().Describe()},
      {"world", world.size()},
      {"layout", runtime.layout.ToString()},
      {"zero_stage", spec.parallel.llm.zero_stage},
      {"dtype", DTypeName(bench.dtype)},
      {"parameters", MultimodalModel(bench.model).params().num_elements()},
      {"tokens_per_step", rows},
      {"micro_batches", batches.size()},
      {"repetitions", times.size()},
      {"step_ms",
       {{"median", median * 1e3},
        {"p10", Quantile(times, 0.1) * 1e3},
        {"p90", Quantile(times, 0.9) * 1e3}}},
      {"predicted_ms", predicted.makespan_ms},
      {"predicted_to_measured", predicted.makespan_ms / (median * 1e3)},
      {"busiest_ms", predicted.busiest_ms},
      {"busiest_to_measured", predicted.busiest_ms / (median * 1e3)},
      {"exposed_comm_ms", waits},
      {"op_ms", predicted.op_ms},
      {"tokens_per_s", static_cast<double>(rows) / median},
      {"tflop_per_step", flops / 1e12},
      {"tflops", tflops / 1e12},
      {"peak_bytes", peak_bytes},
      {"estimated_bytes", estimate.total()},
      {"recompute", ToString(executor.recompute())},
      {"gemm_tflops", gemm / 1e12},
      {"ratio_to_gemm", tflops / gemm},
      {"copy_gb_s", MeasureCopyRate(ctx, int64_t{ctx.is_cuda() ? 1024 : 256} << 20) / 1e9}};
  if (peak_flops > 0) record["mfu"] = tflops / peak_flops;
  return record;
}

}  // namespace omnitrain
