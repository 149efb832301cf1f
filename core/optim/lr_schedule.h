#pragma once

#include <cstdint>

namespace omnitrain {

enum class LrDecay { kCosine, kConstant, kLinear };

/// Linear warm-up over the first `warmup_steps`, then decay to `min_ratio * lr` at the last step.
/// Source: Loshchilov & Hutter 2017 (SGDR), eq. 5, one period.
struct LrSchedulePlan {
  double lr = 0;
  double min_ratio = 0;
  int64_t warmup_steps = 0;
  int64_t num_steps = 0;
  LrDecay decay = LrDecay::kCosine;
};

/// The rate of a step; steps count from 1.
double LearningRate(const LrSchedulePlan& plan, int64_t step);

}  // namespace omnitrain
