#include "data/pack/pack.h"

#include <algorithm>

#include "core/base/check.h"

namespace omnitrain {
namespace {

std::vector<ItemShape> ShapesOf(const EncodedSample& sample) {
  std::vector<ItemShape> shapes;
  for (const EncodedItem& item : sample.items) shapes.push_back(item.shape);
  return shapes;
}

// Item rows are in encoder order: items as listed, of each its runs in row order.
void AppendItemRows(const EncodedSample& sample, int32_t first_row, std::vector<int32_t>* rows) {
  std::vector<const ItemRun*> runs;
  for (const ItemRun& run : sample.runs) runs.push_back(&run);
  std::stable_sort(runs.begin(), runs.end(),
                   [](const ItemRun* a, const ItemRun* b) { return a->item < b->item; });
  for (const ItemRun* run : runs) {
    for (int i = 0; i < run->num_rows(); ++i) rows->push_back(first_row + run->first_row + i);
  }
}

// The merged cells of a frame, window by window, each in raster order; windows at the right and
// bottom border may be smaller. Source: transformers, modeling_qwen2_5_vl.py, get_window_index.
void AppendWindows(int rows, int columns, int side, int patches_per_cell, ItemBatch* items) {
  const auto first = static_cast<int32_t>(items->raster_rows.size());
  for (int top = 0; top < rows; top += side) {
    for (int left = 0; left < columns; left += side) {
      const int bottom = std::min(top + side, rows), right = std::min(left + side, columns);
      for (int r = top; r < bottom; ++r) {
        for (int c = left; c < right; ++c) {
          items->raster_rows.push_back(first + static_cast<int32_t>(r * columns + c));
        }
      }
      items->window_cu_seqlens.push_back(items->window_cu_seqlens.back() +
                                         (bottom - top) * (right - left) * patches_per_cell);
    }
  }
}

// Groups of `group` values from their places in raster order to those of rows [first, first + n).
template <typename T>
void OrderGroups(const std::vector<int32_t>& raster_rows, int64_t first, int64_t n, int64_t group,
                 T* values) {
  const std::vector<T> raster(values, values + n * group);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t from = raster_rows[static_cast<size_t>(first + i)] - first;
    std::copy_n(raster.begin() + from * group, group, values + i * group);
  }
}

void AppendItems(const EncodedSample& sample, int window_cells, ItemBatch* items) {
  const int merge = items->merge_size;
  const int64_t first_cell = items->num_merged_rows();
  for (const EncodedItem& item : sample.items) {
    const ItemGrid& grid = item.shape.grid;
    items->grids.push_back(grid);
    items->kinds.push_back(item.shape.kind);
    AppendCoordinates(grid, items->merge_size, &items->coordinates);
    for (int frame = 0; frame < grid.t; ++frame) {
      items->cu_seqlens.push_back(items->cu_seqlens.back() + grid.h * grid.w);
      if (window_cells > 0) {
        AppendWindows(grid.h / merge, grid.w / merge, window_cells, merge * merge, items);
      }
    }
  }
  if (window_cells > 0) {
    const int64_t patches_per_cell = int64_t{merge} * merge;
    OrderGroups(items->raster_rows, first_cell, items->num_merged_rows() - first_cell,
                2 * patches_per_cell,
                items->coordinates.data() + first_cell * 2 * patches_per_cell);
  }
}

}  // namespace

void AppendCoordinates(const ItemGrid& grid, int merge_size, std::vector<int32_t>* coordinates) {
  for (int frame = 0; frame < grid.t; ++frame) {
    for (int block_row = 0; block_row < grid.h; block_row += merge_size) {
      for (int block_column = 0; block_column < grid.w; block_column += merge_size) {
        for (int row = block_row; row < block_row + merge_size; ++row) {
          for (int column = block_column; column < block_column + merge_size; ++column) {
            coordinates->push_back(row);
            coordinates->push_back(column);
          }
        }
      }
    }
  }
}

bool FitSample(EncodedSample* sample, int64_t max_rows, TooLongPolicy policy) {
  if (sample->num_rows() <= max_rows) return true;
  if (policy == TooLongPolicy::kSkip || sample->items_end() > max_rows) return false;
  const auto begin = sample->loss_mask.begin();
  if (std::find(begin, begin + max_rows, uint8_t{1}) == begin + max_rows) return false;
  sample->ids.resize(static_cast<size_t>(max_rows));
  sample->loss_mask.resize(static_cast<size_t>(max_rows));
  return true;
}

MicroBatch BuildMicroBatch(const std::vector<const EncodedSample*>& samples,
                           const PackOptions& options) {
  MicroBatch batch;
  ItemBatch& items = batch.items;
  items.patch_dim = options.patch_dim;
  items.merge_size = options.positions.merge_size;
  if (options.window_cells > 0) items.window_cu_seqlens = {0};
  int64_t num_rows = 0, num_patches = 0;
  for (const EncodedSample* sample : samples) {
    num_rows += sample->num_rows();
    num_patches += sample->num_patches();
  }
  const int64_t multiple = options.pad_multiple;
  const int64_t padded_rows = (num_rows + multiple - 1) / multiple * multiple;
  const auto total = static_cast<size_t>(padded_rows);
  OT_CHECK(padded_rows <= INT32_MAX && num_patches <= INT32_MAX, "{} rows, {} patches", padded_rows,
           num_patches);
  batch.ids.reserve(total);
  batch.labels.reserve(total);
  batch.position_ids.resize(3 * total);
  items.patches.resize(static_cast<size_t>(num_patches * options.patch_dim));

  const auto put_positions = [&](const std::vector<int64_t>& positions, size_t first_row) {
    const size_t rows = positions.size() / 3;
    for (size_t axis = 0; axis < 3; ++axis) {
      std::copy_n(positions.begin() + static_cast<int64_t>(axis * rows), rows,
                  batch.position_ids.begin() + static_cast<int64_t>(axis * total + first_row));
    }
  };
  for (const EncodedSample* sample : samples) {
    const size_t first_row = batch.ids.size(), rows = sample->ids.size();
    batch.ids.insert(batch.ids.end(), sample->ids.begin(), sample->ids.end());
    for (size_t row = 0; row < rows; ++row) {
      const bool predicts = row + 1 < rows && sample->loss_mask[row + 1] != 0;
      batch.labels.push_back(predicts ? sample->ids[row + 1] : -1);
    }
    put_positions(
        PositionIds(static_cast<int>(rows), sample->runs, ShapesOf(*sample), options.positions),
        first_row);
    const auto first_cell = static_cast<int64_t>(batch.item_rows.size());
    AppendItemRows(*sample, static_cast<int32_t>(first_row), &batch.item_rows);
    AppendItems(*sample, options.window_cells, &items);
    if (options.window_cells > 0) {
      const int64_t cells = static_cast<int64_t>(batch.item_rows.size()) - first_cell;
      OrderGroups(items.raster_rows, first_cell, cells, 1, batch.item_rows.data() + first_cell);
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.ids.size()));
    batch.sample_ids.push_back(sample->index);
    batch.sample_keys.push_back(sample->key);
  }
  if (padded_rows > num_rows) {
    put_positions(PositionIds(static_cast<int>(padded_rows - num_rows), {}, {}, options.positions),
                  static_cast<size_t>(num_rows));
    batch.ids.resize(total, options.pad_token);
    batch.labels.resize(total, -1);
    batch.cu_seqlens.push_back(static_cast<int32_t>(padded_rows));
  }
  return batch;
}

void OrderPatches(int64_t first_patch, int64_t num_patches, ItemBatch* items) {
  if (items->raster_rows.empty()) return;
  const int64_t patches_per_cell = int64_t{items->merge_size} * items->merge_size;
  OrderGroups(items->raster_rows, first_patch / patches_per_cell, num_patches / patches_per_cell,
              patches_per_cell * items->patch_dim,
              items->patches.data() + first_patch * items->patch_dim);
}

int64_t DropSample(MicroBatch* batch, size_t sample, int64_t first_patch, int64_t num_patches) {
  int64_t num_labels = 0;
  for (int32_t row = batch->cu_seqlens[sample]; row < batch->cu_seqlens[sample + 1]; ++row) {
    int32_t& label = batch->labels[static_cast<size_t>(row)];
    num_labels += label >= 0 ? 1 : 0;
    label = -1;
  }
  const int64_t dim = batch->items.patch_dim;
  std::fill_n(batch->items.patches.begin() + first_patch * dim, num_patches * dim, 0.0f);
  return num_labels;
}

}  // namespace omnitrain
