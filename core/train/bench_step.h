#pragma once

#include <cstdint>
#include <string>

#include "core/base/json.h"
#include "core/model/config.h"
#include "core/runtime/context.h"

namespace omnitrain {

/// A synthetic training step: samples of one image and some text, through the real executor and
/// optimizer.
struct StepBench {
  std::string preset;  // names the shape in the record
  ModelConfig model;
  int samples = 16;
  int grid_h = 16, grid_w = 16;  // patches of a sample's image
  int text_tokens = 48;          // behind the image, all learned
  int64_t micro_batch_tokens = 4096;
  int steps = 6;  // the first is not counted
  DType dtype = DType::kF32;
};

/// A small Qwen3-VL (6.7 million parameters) with the shapes that PyTorch programs for CPUs are
/// measured with here.
StepBench SmallStepBench();

/// Runs it and returns a record: shape, step_ms {median, p10, p90}, tokens_per_s of the median
/// (image rows count), gflops, and the rate of a large GEMM of the same run with its ratio.
Json RunStepBench(Context& ctx, const StepBench& bench);

}  // namespace omnitrain
