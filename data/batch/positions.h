#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/batch/batch.h"

namespace omnitrain {

/// How rows of images and videos are numbered (M-RoPE). Under every rule text advances the three
/// coordinates (time, height, width) by one a row, and an item of t x h x w merged cells that
/// starts at base b has rows (b + time, b + row, b + column), time outermost.
enum class PositionRule {
  /// Qwen3-VL: each frame of a video is a run of its own, with time 0 (text with its time stands
  /// before it). The text behind starts at max + 1. Source: Qwen3-VL technical report, "text-based
  /// time alignment".
  kQwen3Vl,
  /// Qwen2-VL and Qwen2.5-VL as trained: one run per video, frame i at time i, or, where
  /// tokens_per_second is set (2.5), at floor(i * second_per_grid * tokens_per_second). The text
  /// behind starts at max + 1. Source: Wang et al. 2024 (Qwen2-VL), section 2.1; Bai et al. 2025
  /// (Qwen2.5-VL), section 2.1.2.
  kQwen,
  /// What transformers 5 computes for these two: frame i at time i * tokens_per_second *
  /// int(second_per_grid) (or i), and the text behind starts at base + max(h, w), whatever the
  /// time.
  kTransformersV5,
};

struct PositionOptions {
  PositionRule rule = PositionRule::kQwen3Vl;
  int merge_size = 2;
  int32_t image_token_id = -1;
  int32_t video_token_id = -1;
  double tokens_per_second = 0;  // Qwen2.5-VL: vision_config.tokens_per_second; 0: time is i
};

/// An item as positions see it.
struct ItemShape {
  ItemKind kind = ItemKind::kImage;
  ItemGrid grid;                 // patches
  double second_per_grid = 1.0;  // seconds between frames of the grid, of a video
};

/// Consecutive placeholder rows that one item, or one frame of it, fills.
struct ItemRun {
  int item = 0;       // index in the list of items
  int first_row = 0;  // in the sample
  int first_frame = 0;
  ItemGrid merged;  // cells: frames, rows and columns after merging

  int num_rows() const { return merged.t * merged.h * merged.w; }
};

/// Finds the runs of a sample's items, in row order. Images and videos appear in the order of the
/// list, each kind by itself. `name` is what errors call the sample.
/// Errors: kData when the placeholders do not match the grids; the message has both numbers.
std::vector<ItemRun> FindItemRuns(const std::vector<int32_t>& ids,
                                  const std::vector<ItemShape>& items,
                                  const PositionOptions& options, std::string_view name);

/// Position ids of one sample. Shapes: result [3, T], T = num_rows.
/// Requires: runs of FindItemRuns for these items and options.
std::vector<int64_t> PositionIds(int num_rows, const std::vector<ItemRun>& runs,
                                 const std::vector<ItemShape>& items,
                                 const PositionOptions& options);

}  // namespace omnitrain
