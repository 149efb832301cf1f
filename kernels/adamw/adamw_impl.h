#pragma once

#include "kernels/adamw/adamw.h"

namespace omnitrain::cpu {

void AdamWStep(const AdamWParams& params, const Tensor& grad, Tensor master, Tensor m, Tensor v,
               Tensor param);

}  // namespace omnitrain::cpu
