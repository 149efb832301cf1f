#include "data/batch/batch.h"

#include <algorithm>

namespace omnitrain {

int64_t MicroBatch::num_loss_tokens() const {
  return std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label >= 0; });
}

int64_t MicroBatch::num_padding() const {
  const size_t num_segments = cu_seqlens.size() - 1;
  return num_segments > sample_ids.size() ? num_tokens() - cu_seqlens[sample_ids.size()] : 0;
}

}  // namespace omnitrain
