#include "data/pack/pack.h"

#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Ints = std::vector<int32_t>;

constexpr int32_t kImage = 300;

PackOptions Options() {
  PackOptions options;
  options.positions.image_token_id = kImage;
  options.positions.video_token_id = 301;
  options.patch_dim = 2;
  options.pad_token = 9;
  return options;
}

EncodedSample Sample(int64_t index, Ints ids, std::vector<uint8_t> mask,
                     const std::vector<ItemGrid>& grids) {
  EncodedSample sample;
  sample.index = index;
  sample.key = "s" + std::to_string(index);
  sample.ids = std::move(ids);
  sample.loss_mask = std::move(mask);
  std::vector<ItemShape> shapes;
  for (const ItemGrid& grid : grids) shapes.push_back({ItemKind::kImage, grid, 1.0});
  for (const ItemShape& shape : shapes) sample.items.push_back({shape, {}});
  sample.runs = FindItemRuns(sample.ids, shapes, Options().positions, sample.key);
  return sample;
}

TEST_CASE("Two samples and padding, row by row") {
  const EncodedSample a = Sample(5, {1, kImage, kImage, 2, 3}, {0, 0, 0, 1, 1}, {{1, 2, 4}});
  const EncodedSample b = Sample(3, {4, 5, 6}, {1, 0, 1}, {});
  PackOptions options = Options();
  options.pad_multiple = 6;
  const MicroBatch batch = BuildMicroBatch({&a, &b}, options);
  CHECK(batch.ids == Ints{1, kImage, kImage, 2, 3, 4, 5, 6, 9, 9, 9, 9});
  // The last row of a sample predicts nothing, also when the next sample's first token is learned.
  CHECK(batch.labels == Ints{-1, -1, 2, 3, -1, -1, 6, -1, -1, -1, -1, -1});
  CHECK(batch.num_loss_tokens() == a.num_loss_tokens() + b.num_loss_tokens());
  CHECK(batch.cu_seqlens == Ints{0, 5, 8, 12});
  CHECK(batch.num_padding() == 4);
  CHECK(batch.sample_ids == std::vector<int64_t>{5, 3});
  CHECK(batch.sample_keys == std::vector<std::string>{"s5", "s3"});
  CHECK(batch.item_rows == Ints{1, 2});
  CHECK(batch.position_ids == std::vector<int64_t>{0, 1, 1, 3, 4, 0, 1, 2, 0, 1, 2, 3,  //
                                                   0, 1, 1, 3, 4, 0, 1, 2, 0, 1, 2, 3,  //
                                                   0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3});
  CHECK(batch.items.coordinates == Ints{0, 0, 0, 1, 1, 0, 1, 1, 0, 2, 0, 3, 1, 2, 1, 3});
  CHECK(batch.items.cu_seqlens == Ints{0, 8});
  CHECK(batch.items.patches == std::vector<float>(16, 0.0f));
  CHECK(batch.items.num_merged_rows() == 2);
}

TEST_CASE("Merged cells go window by window, patches and rows with them") {
  // 3 x 5 cells in windows of 2 x 2: whole ones, two of one row, one of one column, a corner.
  const Ints expected{0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14};
  Ints ids(16, kImage);
  ids[0] = 1;
  const EncodedSample text = Sample(0, {1, kImage}, {0, 0}, {{1, 2, 2}});
  const EncodedSample sample = Sample(1, ids, std::vector<uint8_t>(16, 0), {{1, 6, 10}});
  PackOptions options = Options();
  options.window_cells = 2;
  MicroBatch batch = BuildMicroBatch({&text, &sample}, options);
  const MicroBatch plain = BuildMicroBatch({&text, &sample}, Options());
  ItemBatch& items = batch.items;
  CHECK(items.cu_seqlens == plain.items.cu_seqlens);
  CHECK(items.window_cu_seqlens == Ints{0, 4, 20, 36, 44, 52, 60, 64});
  CHECK(plain.items.raster_rows.empty());
  REQUIRE(items.raster_rows.size() == 16);
  for (size_t i = 0; i < items.patches.size(); ++i) items.patches[i] = static_cast<float>(i);
  OrderPatches(4, 60, &items);
  for (size_t cell = 0; cell < 16; ++cell) {
    const size_t from = cell == 0 ? 0 : static_cast<size_t>(expected[cell - 1]) + 1;
    CHECK(items.raster_rows[cell] == static_cast<int32_t>(from));
    CHECK(batch.item_rows[cell] == plain.item_rows[from]);
    for (size_t i = 0; i < 8; ++i) {
      CHECK(items.coordinates[8 * cell + i] == plain.items.coordinates[8 * from + i]);
      CHECK(items.patches[8 * cell + i] == static_cast<float>(8 * from + i));
    }
  }
}

TEST_CASE("Items of several samples follow each other; frames are segments") {
  const EncodedSample a =
      Sample(0, {kImage, 1, kImage, kImage}, {0, 1, 0, 0}, {{1, 2, 2}, {1, 4, 2}});
  const EncodedSample b = Sample(1, {7, kImage, kImage}, {0, 0, 0}, {{2, 2, 2}});
  const MicroBatch batch = BuildMicroBatch({&a, &b}, Options());
  CHECK(batch.item_rows == Ints{0, 2, 3, 5, 6});
  CHECK(batch.items.cu_seqlens == Ints{0, 4, 12, 16, 20});
  CHECK(batch.items.grids.size() == 3);
  CHECK(batch.items.num_patches() == 20);
  CHECK(batch.num_padding() == 0);
}

TEST_CASE("Picked items are as if they had been packed alone") {
  const EncodedSample a = Sample(0, Ints(15, kImage), std::vector<uint8_t>(15, 0), {{1, 6, 10}});
  const EncodedSample b = Sample(1, {kImage, kImage, 7}, {0, 0, 1}, {{2, 2, 2}});
  const EncodedSample c = Sample(2, Ints(6, kImage), std::vector<uint8_t>(6, 0), {{1, 4, 6}});
  for (int window_cells : {0, 2}) {
    PackOptions options = Options();
    options.window_cells = window_cells;
    const auto numbered = [&](const std::vector<const EncodedSample*>& samples) {
      MicroBatch batch = BuildMicroBatch(samples, options);
      for (size_t i = 0; i < batch.items.patches.size(); ++i) {
        batch.items.patches[i] = static_cast<float>(batch.items.coordinates[i]);
      }
      return batch.items;
    };
    const ItemBatch picked = SelectItems(numbered({&a, &b, &c}), {0, 2}, Pixels::kCopy);
    const ItemBatch alone = numbered({&a, &c});
    CHECK(picked.grids == alone.grids);
    CHECK(picked.kinds == alone.kinds);
    CHECK(picked.patches == alone.patches);
    CHECK(picked.coordinates == alone.coordinates);
    CHECK(picked.cu_seqlens == alone.cu_seqlens);
    CHECK(picked.window_cu_seqlens == alone.window_cu_seqlens);
    CHECK(picked.raster_rows == alone.raster_rows);
  }
}

TEST_CASE("An empty micro_batch") {
  PackOptions options = Options();
  options.pad_multiple = 8;
  const MicroBatch batch = BuildMicroBatch({}, options);
  CHECK(batch.num_tokens() == 0);
  CHECK(batch.cu_seqlens == Ints{0});
  CHECK(batch.items.cu_seqlens == Ints{0});
  CHECK(batch.items.patch_dim == 2);
}

TEST_CASE("A sample that is taken out leaves the others as they are") {
  const EncodedSample a = Sample(0, {kImage, 1, 2}, {0, 1, 1}, {{1, 2, 2}});
  const EncodedSample b = Sample(1, {kImage, 3, 4}, {0, 1, 1}, {{1, 2, 2}});
  MicroBatch batch = BuildMicroBatch({&a, &b}, Options());
  batch.items.patches.assign(16, 1.0f);
  MicroBatch want = batch;
  CHECK(DropSample(&batch, 1, 4, 4) == 2);
  std::fill(want.items.patches.begin() + 8, want.items.patches.end(), 0.0f);
  want.labels = {1, 2, -1, -1, -1, -1};
  CHECK(batch.items.patches == want.items.patches);
  CHECK(batch.labels == want.labels);
  CHECK(batch.ids == want.ids);
}

TEST_CASE("Too long: text behind the last item is cut, an item never") {
  const EncodedSample whole =
      Sample(0, {kImage, kImage, 1, 2, 3, 4}, {0, 0, 0, 1, 1, 1}, {{1, 2, 4}});
  const auto fit = [&](int64_t rows, TooLongPolicy policy) {
    EncodedSample sample = whole;
    return FitSample(&sample, rows, policy) ? sample.num_rows() : -1;
  };
  CHECK(fit(6, TooLongPolicy::kSkip) == 6);
  CHECK(fit(5, TooLongPolicy::kSkip) == -1);
  CHECK(fit(5, TooLongPolicy::kTruncate) == 5);
  CHECK(fit(4, TooLongPolicy::kTruncate) == 4);
  CHECK(fit(3, TooLongPolicy::kTruncate) == -1);  // nothing to learn is left
  CHECK(fit(1, TooLongPolicy::kTruncate) == -1);  // inside the image
}

}  // namespace
}  // namespace omnitrain
