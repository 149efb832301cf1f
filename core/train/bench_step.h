#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/json.h"
#include "core/model/config.h"
#include "core/train/layout_groups.h"

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
  std::vector<std::vector<BenchSample>> micro_batches;  // of each replica
  bool learns_all_tokens = false;                       // else the text alone
  int steps = 6;                                        // the first is not counted
  DType dtype = DType::kF32;
};

/// How the samples of a preset are packed; 0: as the preset says.
struct BenchPacking {
  int64_t micro_batch_tokens = 0;
  int num_micro_batches = 0;
  bool one_sample = false;  // each micro-batch is one long sample
};

/// "small": a Qwen3-VL of 6.7 million parameters with the shapes that PyTorch programs for CPUs are
/// measured with here, micro-batches of 4,096 tokens. "qwen2-vl-2b": Qwen2-VL-2B over 4
/// micro-batches of 8,192 tokens, half of them image tokens, sample lengths log-normal(6.6, 0.8),
/// every token learned; the same samples with "qwen3-vl-2b": Qwen3-VL-2B, "7b-quarter": Qwen2-VL-7B
/// with a quarter of its layers (7 and, of the encoder, 8), "30b-a3b-cut": the widths of
/// Qwen3-VL-30B-A3B with 3.  Errors: kSpec for other names.
StepBench StepBenchPreset(const std::string& name, const BenchPacking& packing);

/// Runs it under the layout of a spec's `parallel` section and returns a record: shape, layout,
/// step_ms {median, p10, p90}, tokens_per_s of the median (image rows count) over all ranks, tflops
/// of a rank, memory, and the machine's own rates in the same run: a large GEMM and a large copy.
/// predicted_ms: the makespan that the simulator gives for the step's schedule with the times that
/// its ops took in one profiled step; busiest_ms: what the pipeline rank that computes longest
/// would take if it never waited (no bubble). exposed_comm_ms: by communicator, how long a rank
/// waited at most in one step; of llm.pp that is bubble and messages. estimated_bytes: the memory
/// estimate, beside peak_bytes.  Collective; the record is that of rank 0.
Json RunStepBench(const JobRuntime& runtime, const JobSpec& spec, const StepBench& bench);

}  // namespace omnitrain
