#include "core/train/step_executor.h"
#include "parallel/comm/inprocess_communicator.h"
#include "tests/core/model/tiny_model.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

constexpr int kSteps = 3, kLayers = 5;

struct Outcome {
  std::vector<double> losses, norms;
  std::vector<double> held_out;  // after the last step
};

std::vector<MicroBatch> Batches(const ModelConfig& config) {
  TinySample pictured, plain;
  pictured.images = {{1, 4, 2}};
  plain.text_after = 7;
  return {TinyBatch(config, {pictured}, 1), TinyBatch(config, {plain, pictured}, 2),
          TinyBatch(config, {plain}, 3)};
}

// Some steps on one rank of `world`, which are replicas: calls of an in-process world write their
// results when they are waited for, so that whoever forgets it reads what was there before.
Outcome Train(Communicator& world, const ModelConfig& config, const RecomputePlan& recompute,
              const std::vector<MicroBatch>& mine, bool is_sharded) {
  CpuContext cpu(1);
  ReplicaGroups groups;
  groups.shape.recompute = recompute;
  groups.sharing = SharingGroups::AllOver(world);
  MultimodalModel model(config);
  ParamStore::AllocateOptions options;
  options.dtype = DType::kF64;
  options.num_shards = groups.sharing.Sizes();
  options.shard_idx = groups.sharing.Places();
  if (is_sharded) options.sharded_stack = "llm";
  model.params().Allocate(*cpu.device, options);
  model.params().Initialize(5, 0.3, cpu.ctx.stream());
  ShardedAdamW optimizer(cpu.ctx, model.params(), groups.sharing, AdamWConfig());
  StepExecutor executor(cpu.ctx, model, groups);
  Outcome out;
  StepParams params;
  params.lr = 0.01;
  for (const MicroBatch& batch : Batches(config)) {
    params.global_loss_tokens += batch.num_loss_tokens();
  }
  for (params.step = 1; params.step <= kSteps; ++params.step) {
    const StepOutcome step = executor.Train(mine, params, optimizer);
    out.losses.push_back(step.loss);
    out.norms.push_back(step.grad_norm);
  }
  optimizer.FinishGather(cpu.ctx);
  out.held_out = executor.Evaluate(Batches(config));
  return out;
}

bool AreNear(const std::vector<double>& a, const std::vector<double>& b) {
  bool are_near = a.size() == b.size();
  for (size_t i = 0; i < a.size() && are_near; ++i) {
    are_near = std::fabs(a[i] - b[i]) <= 1e-10 * std::max(1.0, std::fabs(b[i]));
  }
  return are_near;
}

TEST_CASE("Steps of sharded layers are those of one rank, whoever has an empty micro-batch") {
  ModelConfig dense = TinyModel(/*is_tied=*/true);
  dense.text.num_layers = kLayers;
  ModelConfig sparse = TinyModel(/*is_tied=*/false);
  MakeSparse(&sparse.text);
  for (const ModelConfig& config : {dense, sparse}) {
    const auto self = NewSelfCommunicator();
    const Outcome want = Train(*self, config, {}, Batches(config), false);
    CHECK(want.losses[2] < want.losses[0]);
    for (Recompute kind : {Recompute::kNone, Recompute::kNormsAndActivations, Recompute::kFull}) {
      InProcessWorld(2).Run([&](Communicator& world) {
        std::vector<MicroBatch> mine = Batches(config);
        mine = world.rank() == 0 ? std::vector<MicroBatch>{mine[0], mine[1]}
                                 : std::vector<MicroBatch>{mine[2], MicroBatch()};
        const Outcome got = Train(world, config, {kind}, mine, true);
        OT_CHECK(AreNear(got.losses, want.losses), "losses on rank {}", world.rank());
        OT_CHECK(AreNear(got.norms, want.norms), "gradient norms on rank {}", world.rank());
        OT_CHECK(AreNear(got.held_out, want.held_out), "held-out losses on rank {}", world.rank());
      });
    }
  }
}

}  // namespace
}  // namespace omnitrain
