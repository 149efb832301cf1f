#pragma once

#include <array>
#include <string>
#include <vector>

#include "core/train/step_plan.h"

namespace omnitrain {

/// Bytes of device memory that a rank holds at most in a training step, by what they are for.
struct MemoryEstimate {
  int64_t parameters = 0;
  int64_t gradients = 0;    // main gradients
  int64_t optimizer = 0;    // moments, masters, reduced gradients of the shard
  int64_t slots = 0;        // of sharded layers, whole values and gradients
  int64_t activations = 0;  // the arena of the step's plan
  int64_t context = 0;      // workspace of attention over cp ranks
  int64_t experts = 0;      // pooled memory of sparse layers, rows evenly routed
  int64_t scratch = 0;      // of the op that takes most, and of libraries

  int64_t total() const {
    return parameters + gradients + optimizer + slots + activations + context + experts + scratch;
  }
};

/// One planned step of a rank.
struct PlannedStep {
  const StepPlan* plan = nullptr;
  const std::vector<MicroBatch>* batches = nullptr;
};

/// What the rank of `shape` and of the model's place holds at most over these steps; later ones may
/// be larger. Its device allocates the same blocks: what is left out is the unevenness of routing,
/// and on a GPU what attention takes beside its statistics, and libraries but cuBLAS.
/// `num_threads`: of the CPU's ops.  Requires: the model's parameters are planned.
MemoryEstimate EstimateMemory(const MultimodalModel& model, const ReplicaShape& shape,
                              const std::vector<PlannedStep>& steps,
                              const std::array<int, kNumParamSharings>& num_shards,
                              DeviceKind device, int num_threads);

/// One line an entry, "  parameters   1.2 MiB"; what is zero is left out.
std::string MemoryTable(const std::vector<std::string>& columns,
                        const std::vector<MemoryEstimate>& estimates);

}  // namespace omnitrain
