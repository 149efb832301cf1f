#pragma once

#include "core/optim/sharded_adamw.h"
#include "core/runtime/context.h"
#include "core/train/comparison.h"

namespace omnitrain {

/// The reduced gradients of the whole model by Hugging Face name, as f64, on every rank of `world`,
/// whatever the layout: for comparison. Reductions must have finished.
/// Collective over `world`.  Errors: kInternal when an element of a tensor comes from no rank or
/// from two.  Cost: the model in f64, on every rank.
NamedTensors GatherGradients(Context& ctx, const ShardedAdamW& optimizer, const ParamStore& params,
                             Communicator& world);

}  // namespace omnitrain
