#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace omnitrain {

/// Patches of one item on their grid: frames, rows and columns before merging.
struct ItemGrid {
  int t = 0, h = 0, w = 0;
  int64_t num_patches() const { return int64_t{t} * h * w; }
  bool operator==(const ItemGrid& o) const { return t == o.t && h == o.h && w == o.w; }
};

enum class ItemKind : uint8_t { kImage, kVideo };

/// The items of one micro_batch as an encoder takes them, on the host, packed one after the other.
/// May be empty. Patches of an item are in merge-block order: frames, then blocks of merge x merge
/// patches in raster order, then the patches of a block in raster order; so `merge * merge`
/// consecutive rows make one row of the LLM. For an encoder with windowed attention the blocks of a
/// frame stand window by window instead, in raster order within each.
struct ItemBatch {
  int patch_dim = 0;  // channels * temporal_patch * patch * patch
  int merge_size = 2;
  std::vector<float> patches;          // [P, patch_dim], normalised
  std::vector<ItemGrid> grids;         // per item
  std::vector<ItemKind> kinds;         // per item
  std::vector<int32_t> coordinates;    // [P, 2]: row, column of each patch on its un-merged grid
  std::vector<int32_t> cu_seqlens{0};  // attention segments: one per frame of each item, in patches
  // With windows only (else empty):
  std::vector<int32_t> window_cu_seqlens;  // their segments, in patches
  std::vector<int32_t> raster_rows;        // [N]: where merged row n stands without windows

  int64_t num_patches() const { return static_cast<int64_t>(coordinates.size()) / 2; }
  int64_t num_merged_rows() const { return num_patches() / (merge_size * merge_size); }
  int num_items() const { return static_cast<int>(grids.size()); }
  /// [num_items + 1]: where the patches of each item begin.
  std::vector<int64_t> PatchBegins() const;
};

/// The given items of a batch, ascending, as a batch of their own. A plan needs no pixels.
enum class Pixels { kCopy, kLeaveOut };
ItemBatch SelectItems(const ItemBatch& batch, const std::vector<int>& items, Pixels pixels);

/// Samples packed into one LLM sequence, on the host. Rows past the last sample (padding) form a
/// segment of their own, without labels.
struct MicroBatch {
  std::vector<int32_t> ids;  // [T]; rows that an encoder fills hold the placeholder's id
  std::vector<int32_t>
      labels;  // [T]: the token that row i predicts (already shifted), -1 where none
  std::vector<float> loss_weights;     // [T] or empty (all 1)
  std::vector<int64_t> position_ids;   // [3, T]: time, height, width; start anew at each sample
  std::vector<int32_t> cu_seqlens{0};  // samples (and padding) in rows
  std::vector<int32_t>
      item_rows;  // [N]: the row that merged encoder row n goes to, in encoder order
  std::vector<int64_t> sample_ids;       // global index of each sample in the order of the data
  std::vector<std::string> sample_keys;  // where each sample came from, for messages
  ItemBatch items;

  int64_t num_tokens() const { return static_cast<int64_t>(ids.size()); }
  int64_t num_loss_tokens() const;  // labels that are not -1
  int64_t num_padding() const;      // rows that belong to no sample
};

}  // namespace omnitrain
