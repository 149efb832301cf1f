#pragma once

#include <string>

#include "core/model/multimodal_model.h"
#include "core/spec/job_spec.h"

namespace omnitrain {

// The one FLOP counter: metrics, `check` and planning read it.

/// Floating-point operations of one forward over a micro-batch (a multiply-add is two).
struct MicroBatchWork {
  double encoder_flops = 0, llm_flops = 0;
};
class WorkCounter {
 public:
  /// Of the whole model, however it is laid out.
  explicit WorkCounter(const ModelConfig& config) : model_(config) {}
  MicroBatchWork Of(const MicroBatch& batch) const;

 private:
  MultimodalModel model_;  // declared, never allocated
};

/// Forward and backward: a backward costs one forward for each of the two gradients that is needed;
/// a frozen encoder has none, a frozen LLM only that of its inputs.
double TrainFlops(const JobSpec& spec, double encoder_forward, double llm_forward);

/// Dense matrix operations a second that the maker states for a device, by its name
/// (Device::Describe), in a compute dtype; 0 when it is not in the table. Source: NVIDIA's data
/// sheets of the A100, H100, H200, B200 (without sparsity; f32 outside the tensor cores).
double PeakFlops(const std::string& device, DType compute);

}  // namespace omnitrain
