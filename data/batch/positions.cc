#include "data/batch/positions.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/check.h"

namespace omnitrain {
namespace {

const char* KindName(ItemKind kind) { return kind == ItemKind::kImage ? "image" : "video"; }

int64_t FrameTime(int frame, const ItemShape& item, const PositionOptions& options) {
  if (options.rule == PositionRule::kQwen3Vl || item.kind == ItemKind::kImage) return 0;
  if (options.tokens_per_second <= 0) return frame;
  if (options.rule == PositionRule::kQwen) {
    return static_cast<int64_t>(
        std::floor(frame * item.second_per_grid * options.tokens_per_second));
  }
  return static_cast<int64_t>(frame * options.tokens_per_second * std::trunc(item.second_per_grid));
}

}  // namespace

std::vector<ItemRun> FindItemRuns(const std::vector<int32_t>& ids,
                                  const std::vector<ItemShape>& items,
                                  const PositionOptions& options, std::string_view name) {
  const int m = options.merge_size;
  std::array<std::vector<int>, 2> of_kind;  // items of each kind, in order
  std::array<int64_t, 2> wanted{};          // rows they fill
  for (size_t i = 0; i < items.size(); ++i) {
    const ItemGrid& grid = items[i].grid;
    OT_REQUIRE(grid.t > 0 && grid.h > 0 && grid.w > 0 && grid.h % m == 0 && grid.w % m == 0,
               ErrorCode::kData, "{}: item {}: a grid of {} x {} x {} patches does not merge by {}",
               name, i, grid.t, grid.h, grid.w, m);
    const auto kind = static_cast<size_t>(items[i].kind);
    of_kind[kind].push_back(static_cast<int>(i));
    wanted[kind] += grid.num_patches() / (m * m);
  }
  const std::array<int32_t, 2> tokens = {options.image_token_id, options.video_token_id};
  std::array<int64_t, 2> found{};
  for (const int32_t id : ids) {
    for (size_t k = 0; k < 2; ++k) found[k] += id == tokens[k] ? 1 : 0;
  }
  for (size_t k = 0; k < 2; ++k) {
    OT_REQUIRE(found[k] == wanted[k], ErrorCode::kData,
               "{}: {} {} tokens in the text, but its {} {}s fill {} rows", name, found[k],
               KindName(static_cast<ItemKind>(k)), of_kind[k].size(),
               KindName(static_cast<ItemKind>(k)), wanted[k]);
  }

  std::vector<ItemRun> runs;
  std::array<size_t, 2> next{};     // item of its kind
  std::array<int, 2> next_frame{};  // of that item
  const int num_rows = static_cast<int>(ids.size());
  for (int row = 0; row < num_rows;) {
    const int32_t id = ids[static_cast<size_t>(row)];
    const size_t k = id == tokens[0] ? 0 : 1;
    if (id != tokens[k]) {
      ++row;
      continue;
    }
    ItemRun run;
    run.item = of_kind[k][next[k]];
    run.first_row = row;
    run.first_frame = next_frame[k];
    const ItemGrid& grid = items[static_cast<size_t>(run.item)].grid;
    const bool is_per_frame = options.rule == PositionRule::kQwen3Vl;
    run.merged = {is_per_frame ? 1 : grid.t, grid.h / m, grid.w / m};
    const int end = row + run.num_rows();
    while (row < num_rows && row < end && ids[static_cast<size_t>(row)] == id) ++row;
    OT_REQUIRE(row == end, ErrorCode::kData,
               "{}: a run of {} {} tokens at row {}, but item {}{} fills {} consecutive rows", name,
               row - run.first_row, KindName(static_cast<ItemKind>(k)), run.first_row, run.item,
               is_per_frame && grid.t > 1 ? " (a frame of it)" : "", run.num_rows());
    next_frame[k] += run.merged.t;
    if (next_frame[k] == grid.t) {
      next_frame[k] = 0;
      ++next[k];
    }
    runs.push_back(run);
  }
  return runs;
}

std::vector<int64_t> PositionIds(int num_rows, const std::vector<ItemRun>& runs,
                                 const std::vector<ItemShape>& items,
                                 const PositionOptions& options) {
  const auto rows = static_cast<size_t>(num_rows);
  std::vector<int64_t> out(3 * rows);
  int64_t* const time = out.data();
  int64_t* const height = time + rows;
  int64_t* const width = height + rows;
  int64_t base = 0;
  size_t row = 0;
  const auto text_until = [&](size_t end) {
    for (; row < end; ++row, ++base) time[row] = height[row] = width[row] = base;
  };
  for (const ItemRun& run : runs) {
    text_until(static_cast<size_t>(run.first_row));
    int64_t last_time = 0;
    for (int f = 0; f < run.merged.t; ++f) {
      last_time = FrameTime(run.first_frame + f, items[static_cast<size_t>(run.item)], options);
      for (int h = 0; h < run.merged.h; ++h) {
        for (int w = 0; w < run.merged.w; ++w, ++row) {
          time[row] = base + last_time;
          height[row] = base + h;
          width[row] = base + w;
        }
      }
    }
    int64_t extent = std::max(run.merged.h, run.merged.w);
    if (options.rule == PositionRule::kQwen) extent = std::max(extent, last_time + 1);
    base += extent;
  }
  text_until(rows);
  OT_CHECK(row == rows, "{} rows, the runs reach {}", rows, row);
  return out;
}

}  // namespace omnitrain
