#include "core/train/choose_plan.h"

#include <algorithm>

namespace omnitrain {
namespace {

// Levels of recomputation, ever less memory for ever more work: 0 none; 1 what is cheap, in all
// layers; n + 1 that, and whole the first n layers.
RecomputePlan RecomputeAt(int level) {
  if (level == 0) return {};
  return {Recompute::kFull, level - 1, Recompute::kNormsAndActivations};
}

// Levels above have no more layers to recompute.
int HighestLevel(const MultimodalModel& model) {
  int layers = model.has_vision() ? model.vision().config().depth : 0;
  for (int stage : model.llm().place().stages) {
    const LayerRange range = model.llm().LayersOf(stage);
    layers = std::max(layers, range.end - range.begin);
  }
  return layers + 1;
}

}  // namespace

StepPlan ChoosePlan(const MultimodalModel& model, const ReplicaShape& shape,
                    const std::shared_ptr<const Schedule>& schedule,
                    const std::vector<MicroBatch>& batches, DeviceKind device,
                    const std::function<bool(size_t)>& fits, Communicator* peers) {
  const auto plan_with = [&](const RecomputePlan& recompute) {
    return PlanStep(model, shape, schedule, batches, recompute, device);
  };
  if (shape.recompute) return plan_with(*shape.recompute);
  int level = 0;
  StepPlan plan = plan_with(RecomputeAt(level));
  if (schedule->purpose == SchedulePurpose::kEvaluate) {
    return fits(plan.arena_bytes) ? plan : plan_with({Recompute::kFull});
  }
  // A split backward keeps all that it needs.
  if (!CanRecompute(shape)) return plan;
  const auto try_level = [&](int wanted) {
    if (wanted != level) plan = plan_with(RecomputeAt(wanted));
    level = wanted;
    return fits(plan.arena_bytes);
  };
  if (!try_level(0) && !try_level(1)) {
    int least = 2, most = HighestLevel(model);
    while (least < most) {
      const int middle = (least + most) / 2;
      if (try_level(middle)) {
        most = middle;
      } else {
        least = middle + 1;
      }
    }
    try_level(most);
  }
  if (peers != nullptr) {
    try_level(static_cast<int>(peers->AllReduceScalar(int64_t{level}, ReduceOp::kMax)));
  }
  return plan;
}

}  // namespace omnitrain
