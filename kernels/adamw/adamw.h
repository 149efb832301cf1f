#pragma once

#include "core/runtime/context.h"

namespace omnitrain {

struct AdamWParams {
  double lr = 0;
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;  // decoupled: w -= lr * weight_decay * w, before the step
  int64_t step = 1;         // counts from 1, for the bias corrections
  double grad_scale = 1;    // multiplies the gradient: 1 / loss tokens, times the clipping factor
};

/// One AdamW update, in place, in the order of operations of torch.optim.AdamW:
///   w *= 1 - lr wd;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
///   w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
/// Shapes: all [N], dense.  Dtype: master weight, grad, m, v f32 (f64 for f64); param the compute
/// dtype, written from the master weight; param may be the master weight itself. Source: Loshchilov
/// & Hutter 2019, algorithm 2.
void AdamWStep(Context& ctx, const AdamWParams& params, const Tensor& grad, Tensor master, Tensor m,
               Tensor v, Tensor param);

}  // namespace omnitrain
