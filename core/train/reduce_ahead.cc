#include "core/train/reduce_ahead.h"

namespace omnitrain {

ReduceAhead::ReduceAhead(const ParamStore& params)
    : params_(params), bucket_of_(static_cast<size_t>(params.num_params()), -1) {
  for (size_t b = 0; b < params.buckets().size(); ++b) {
    for (ParamId id : params.buckets()[b].params) {
      bucket_of_[static_cast<size_t>(id)] = static_cast<int>(b);
    }
  }
  for (ParamId id = 0; id < params.num_params(); ++id) {
    layers_[LayerOfName(params.spec(id).name)].push_back(id);
  }
  Begin();
}

void ReduceAhead::Begin() {
  is_marked_.assign(bucket_of_.size(), false);
  num_waiting_.clear();
  for (const ParamBucket& bucket : params_.buckets()) {
    num_waiting_.push_back(static_cast<int>(bucket.params.size()));
  }
  next_ = static_cast<int>(num_waiting_.size()) - 1;
}

void ReduceAhead::Mark(ParamId id) {
  const auto i = static_cast<size_t>(id);
  if (bucket_of_[i] < 0 || is_marked_[i]) return;
  is_marked_[i] = true;
  --num_waiting_[static_cast<size_t>(bucket_of_[i])];
}

void ReduceAhead::MarkLayer(const std::string& stack, int layer) {
  for (ParamId id : layers_[{stack, layer}]) Mark(id);
}

void ReduceAhead::MarkGroup(ParamGroup group) {
  for (ParamId id = 0; id < params_.num_params(); ++id) {
    if (params_.spec(id).group == group) Mark(id);
  }
}

int ReduceAhead::Take() {
  if (next_ < 0 || num_waiting_[static_cast<size_t>(next_)] != 0) return -1;
  if (params_.buckets()[static_cast<size_t>(next_)].sharing == ParamSharing::kTied) return -1;
  return next_--;
}

}  // namespace omnitrain
