#include "core/train/work.h"

namespace omnitrain {
namespace {

std::vector<int64_t> Segments(const std::vector<int32_t>& cu_seqlens) {
  std::vector<int64_t> lengths;
  for (size_t i = 1; i < cu_seqlens.size(); ++i) {
    lengths.push_back(cu_seqlens[i] - cu_seqlens[i - 1]);
  }
  return lengths;
}

}  // namespace

MicroBatchWork WorkOf(const MultimodalModel& model, const MicroBatch& batch) {
  return {model.vision().ForwardFlops(Segments(batch.items.cu_seqlens)),
          model.llm().ForwardFlops(Segments(batch.cu_seqlens), batch.num_loss_tokens())};
}

double TrainFlops(const JobSpec& spec, double encoder_forward, double llm_forward) {
  const bool trains_encoder = !spec.train.vision.freeze || !spec.train.projector.freeze;
  const double encoder_passes = spec.train.vision.freeze ? 1.0 : 3.0;
  const double llm_passes = spec.train.llm.freeze ? (trains_encoder ? 2.0 : 1.0) : 3.0;
  return encoder_forward * encoder_passes + llm_forward * llm_passes;
}

}  // namespace omnitrain
