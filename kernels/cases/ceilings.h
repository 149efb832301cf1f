#pragma once

#include "core/runtime/context.h"

namespace omnitrain {

// What a device reaches at best, measured in the run that it is compared with: the best of a few
// repetitions. They take seconds and memory: for benchmarks.

/// Floating-point operations a second of a square product that fills the device, on random values
/// (zeros run faster on a GPU).
double MeasureGemmFlops(Context& ctx, DType dtype);

/// Bytes read and written a second by a copy that moves `bytes` in all, half of them each way.
double MeasureCopyRate(Context& ctx, int64_t bytes);

}  // namespace omnitrain
