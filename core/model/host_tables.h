#pragma once

#include <cstdint>
#include <vector>

#include "core/model/transformer_stack.h"
#include "core/runtime/context.h"
#include "data/batch/batch.h"

namespace omnitrain {

/// Which learned positions a patch mixes, and how much of each: bilinear resampling of a side x
/// side grid onto the h x w patches of an item, corners aligned, the same for each frame. Computed
/// in f32, as transformers does. Source: transformers, modeling_qwen3_vl.py,
/// fast_pos_embed_interpolate.
struct InterpolationTable {
  std::vector<int32_t> index;  // [P, 4]
  std::vector<float> weight;   // [P, 4]
};
InterpolationTable BuildInterpolationTable(const ItemBatch& items, int side);

/// Place for cu_seqlens on the device, with its longest segment.
SequenceInputs::Segments CarveSegments(Carver& carver, const std::vector<int32_t>& cu_seqlens);

/// Host values into a tensor of the context's device, converted to its dtype.  Shapes: as many
/// values as elements.
void Upload(Context& ctx, const std::vector<float>& values, Tensor to);
void Upload(Context& ctx, const std::vector<int32_t>& values, Tensor to);

}  // namespace omnitrain
