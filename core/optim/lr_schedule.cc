#include "core/optim/lr_schedule.h"

#include <algorithm>
#include <cmath>

namespace omnitrain {

double LearningRate(const LrSchedulePlan& plan, int64_t step) {
  if (step <= plan.warmup_steps) {
    return plan.lr * static_cast<double>(step) / static_cast<double>(plan.warmup_steps);
  }
  const double decay_steps =
      static_cast<double>(std::max<int64_t>(1, plan.num_steps - plan.warmup_steps));
  const double progress =
      std::min(1.0, static_cast<double>(step - plan.warmup_steps) / decay_steps);
  double share = 1.0;
  if (plan.decay == LrDecay::kCosine) share = 0.5 * (1.0 + std::cos(M_PI * progress));
  if (plan.decay == LrDecay::kLinear) share = 1.0 - progress;
  return plan.lr * (plan.min_ratio + (1.0 - plan.min_ratio) * share);
}

}  // namespace omnitrain
