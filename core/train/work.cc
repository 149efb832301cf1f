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

MicroBatchWork WorkCounter::Of(const MicroBatch& batch) const {
  return {model_.vision().ForwardFlops(Segments(batch.items.cu_seqlens),
                                       Segments(batch.items.window_cu_seqlens)),
          model_.llm().ForwardFlops(Segments(batch.cu_seqlens), batch.num_loss_tokens())};
}

double TrainFlops(const JobSpec& spec, double encoder_forward, double llm_forward) {
  const bool trains_encoder = !spec.train.vision.freeze || !spec.train.projector.freeze;
  const double encoder_passes = spec.train.vision.freeze ? 1.0 : 3.0;
  const double llm_passes = spec.train.llm.freeze ? (trains_encoder ? 2.0 : 1.0) : 3.0;
  return encoder_forward * encoder_passes + llm_forward * llm_passes;
}

double PeakFlops(const std::string& device, DType compute) {
  struct Entry {
    const char* name;
    double bf16, f32;
  };
  // The first match counts: parts with a slower form of the chip come before the plain name.
  static constexpr Entry kDevices[] = {{"B200", 2250e12, 80e12},    {"GH200", 989.4e12, 66.9e12},
                                       {"H200", 989.4e12, 66.9e12}, {"H100 PCIe", 756e12, 51e12},
                                       {"H100 NVL", 835e12, 60e12}, {"H100", 989.4e12, 66.9e12},
                                       {"A100", 312e12, 19.5e12}};
  for (const Entry& entry : kDevices) {
    if (device.find(entry.name) == std::string::npos) continue;
    return compute == DType::kBF16 ? entry.bf16 : compute == DType::kF32 ? entry.f32 : 0;
  }
  return 0;
}

}  // namespace omnitrain
