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
