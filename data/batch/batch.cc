#include "data/batch/batch.h"

#include <algorithm>

namespace omnitrain {

std::vector<int64_t> ItemBatch::PatchBegins() const {
  std::vector<int64_t> begins = {0};
  for (const ItemGrid& grid : grids) begins.push_back(begins.back() + grid.num_patches());
  return begins;
}

ItemBatch SelectItems(const ItemBatch& batch, const std::vector<int>& items, Pixels pixels) {
  ItemBatch picked;
  picked.patch_dim = batch.patch_dim;
  picked.merge_size = batch.merge_size;
  const std::vector<int64_t> begins = batch.PatchBegins();
  const int64_t patches_per_row = int64_t{batch.merge_size} * batch.merge_size;
  const bool has_patches = pixels == Pixels::kCopy && !batch.patches.empty();
  if (!batch.window_cu_seqlens.empty()) picked.window_cu_seqlens = {0};
  for (int item : items) {
    const auto i = static_cast<size_t>(item);
    const int64_t first = begins[i], last = begins[i + 1], to = picked.num_patches();
    picked.grids.push_back(batch.grids[i]);
    picked.kinds.push_back(batch.kinds[i]);
    const auto append = [&](const auto& from, int64_t per_patch, auto* into) {
      into->insert(into->end(), from.begin() + first * per_patch, from.begin() + last * per_patch);
    };
    if (has_patches) append(batch.patches, batch.patch_dim, &picked.patches);
    append(batch.coordinates, 2, &picked.coordinates);
    // Segments do not cross items: those that end inside this one are its own.
    const auto append_segments = [&](const std::vector<int32_t>& from, std::vector<int32_t>* into) {
      for (int32_t end : from) {
        if (end > first && end <= last) into->push_back(static_cast<int32_t>(end - first + to));
      }
    };
    append_segments(batch.cu_seqlens, &picked.cu_seqlens);
    append_segments(batch.window_cu_seqlens, &picked.window_cu_seqlens);
    if (batch.raster_rows.empty()) continue;
    const int64_t shift = (to - first) / patches_per_row;
    for (int64_t row = first / patches_per_row; row < last / patches_per_row; ++row) {
      picked.raster_rows.push_back(
          static_cast<int32_t>(batch.raster_rows[static_cast<size_t>(row)] + shift));
    }
  }
  return picked;
}

int64_t MicroBatch::num_loss_tokens() const {
  return std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label >= 0; });
}

int64_t MicroBatch::num_padding() const {
  const size_t num_segments = cu_seqlens.size() - 1;
  return num_segments > sample_ids.size() ? num_tokens() - cu_seqlens[sample_ids.size()] : 0;
}

}  // namespace omnitrain
