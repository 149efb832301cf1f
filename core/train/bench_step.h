#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/json.h"
#include "core/model/config.h"
#include "core/runtime/context.h"

namespace omnitrain {

/// One sample of a synthetic step: an image of so many patches, then text.
struct BenchSample {
  int grid_h = 0, grid_w = 0;  // 0: no image
  int64_t text_tokens = 0;
};

/// A synthetic training step through the real executor and optimizer.
struct StepBench {
  std::string preset;  // names the shape in the record
  ModelConfig model;
  std::vector<std::vector<BenchSample>> micro_batches;
  bool learns_all_tokens = false;  // else the text alone
  int steps = 6;                   // the first is not counted
  DType dtype = DType::kF32;
};

/// "small": a Qwen3-VL of 6.7 million parameters with the shapes that PyTorch programs for CPUs are
/// measured with here, packed to `micro_batch_tokens`. "qwen2-vl-2b": Qwen2-VL-2B over 4
/// micro-batches of 8,192 tokens, half of them image tokens, sample lengths log-normal(6.6, 0.8),
/// every token learned; "qwen3-vl-2b": the same samples with Qwen3-VL-2B.  Errors: kSpec for other
/// names.
StepBench StepBenchPreset(const std::string& name, int64_t micro_batch_tokens);

/// Runs it and returns a record: shape, step_ms {median, p10, p90}, tokens_per_s of the median
/// (image rows count), tflops, memory, and the machine's own rates in the same run: a large GEMM
/// and a large copy.
Json RunStepBench(Context& ctx, const StepBench& bench);

}  // namespace omnitrain
