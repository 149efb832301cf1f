#pragma once

#include <functional>
#include <vector>

#include "core/train/step_plan.h"
#include "parallel/comm/communicator.h"

namespace omnitrain {

/// The plan of a step that recomputes what the shape says, or else as little as fits: nothing; what
/// is cheap, in all layers; also whole layers, the first of each stage and of the encoder, as few
/// as will do. A plan that fits in no way recomputes all layers. An evaluation that does not fit
/// lays layers out as if all were recomputed, which costs no work.
/// `fits`: whether this rank has so many bytes for an arena. `peers`: the ranks whose collectives
/// meet in a backward; all of them recompute as much as the one that must most; null: none.
/// Collective over `peers`, in training.  Deterministic.
/// Cost: a PlanStep; log2(layers) more where that does not fit.
StepPlan ChoosePlan(const MultimodalModel& model, const ReplicaShape& shape,
                    const std::shared_ptr<const Schedule>& schedule,
                    const std::vector<MicroBatch>& micro_batches, DeviceKind device,
                    const std::function<bool(size_t)>& fits, Communicator* peers);

}  // namespace omnitrain
