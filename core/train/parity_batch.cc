#include "core/train/parity_batch.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/checkpoint/safetensors.h"
#include "data/pack/pack.h"

namespace omnitrain {
namespace {

// Adds the items of `i.PIXELS` with `i.GRID` and returns their merged rows.
int64_t ReadItems(const SafetensorsFile& file, int index, const char* pixels, const char* grid,
                  ItemKind kind, const ModelConfig& config, EncodedSample* encoded,
                  std::vector<float>* patches) {
  const std::string pixel_name = fmt::format("{}.{}", index, pixels);
  if (!file.Has(pixel_name)) return 0;
  const std::vector<int64_t> grids = file.ReadAll<int64_t>(fmt::format("{}.{}", index, grid));
  int64_t num_patches = 0;
  for (size_t k = 0; k + 2 < grids.size(); k += 3) {
    EncodedItem item;
    item.shape.kind = kind;
    item.shape.grid = {static_cast<int>(grids[k]), static_cast<int>(grids[k + 1]),
                       static_cast<int>(grids[k + 2])};
    num_patches += item.shape.grid.num_patches();
    encoded->items.push_back(std::move(item));
  }
  file.RequireShape(pixel_name, {num_patches, config.vision.patch_dim()});
  const std::vector<float> values = file.ReadAll<float>(pixel_name);
  patches->insert(patches->end(), values.begin(), values.end());
  return num_patches / (config.vision.merge_size * config.vision.merge_size);
}

ParitySample ReadSample(const SafetensorsFile& file, int index, const ModelConfig& config) {
  ParitySample s;
  EncodedSample& e = s.encoded;
  e.index = index;
  e.key = fmt::format("{} sample {}", file.path(), index);
  const auto name = [&](const char* field) { return fmt::format("{}.{}", index, field); };
  const auto ids = file.ReadAll<int64_t>(name("input_ids"));
  const auto labels = file.ReadAll<int64_t>(name("labels"));
  const size_t T = ids.size();
  OT_REQUIRE(labels.size() == T, ErrorCode::kData, "{}: {} has {} values, {} has {}", file.path(),
             name("labels"), labels.size(), name("input_ids"), T);
  for (size_t r = 0; r < T; ++r) {
    OT_REQUIRE(ids[r] >= 0 && ids[r] < config.text.vocab_size, ErrorCode::kData,
               "{}: {}[{}] = {} is no id of a vocabulary of {}", file.path(), name("input_ids"), r,
               ids[r], config.text.vocab_size);
    e.ids.push_back(static_cast<int32_t>(ids[r]));
    const int64_t next = r + 1 < T ? labels[r + 1] : -100;
    OT_REQUIRE(next < config.text.vocab_size, ErrorCode::kData,
               "{}: {}[{}] = {} is no id of a vocabulary of {}", file.path(), name("labels"), r + 1,
               next, config.text.vocab_size);
    s.labels.push_back(next >= 0 ? static_cast<int32_t>(next) : -1);
    e.loss_mask.push_back(labels[r] >= 0 ? 1 : 0);
  }
  s.num_image_rows = ReadItems(file, index, "pixel_values", "image_grid_thw", ItemKind::kImage,
                               config, &e, &s.patches);
  s.num_video_rows = ReadItems(file, index, "pixel_values_videos", "video_grid_thw",
                               ItemKind::kVideo, config, &e, &s.patches);

  const PositionOptions options = PositionOptionsOf(config);
  std::vector<ItemShape> shapes;
  for (const EncodedItem& item : e.items) shapes.push_back(item.shape);
  e.runs = FindItemRuns(e.ids, shapes, options, e.key);
  s.position_ids = PositionIds(static_cast<int>(T), e.runs, shapes, options);
  if (file.Has(name("position_ids"))) {
    const auto given = file.ReadAll<int64_t>(name("position_ids"));
    OT_REQUIRE(given.size() == 3 * T, ErrorCode::kData, "{}: {} has {} values, not 3 x {}",
               file.path(), name("position_ids"), given.size(), T);
    for (size_t k = 0; k < given.size(); ++k) {
      s.num_positions_off += given[k] != s.position_ids[k] ? 1 : 0;
    }
    s.position_ids = given;
  }
  return s;
}

}  // namespace

PositionOptions PositionOptionsOf(const ModelConfig& config) {
  PositionOptions options;
  options.rule = IsQwen3(config.family) ? PositionRule::kQwen3Vl : PositionRule::kTransformersV5;
  options.merge_size = config.vision.merge_size;
  options.image_token_id = static_cast<int32_t>(config.image_token_id);
  options.video_token_id = static_cast<int32_t>(config.video_token_id);
  options.tokens_per_second = config.vision.tokens_per_second;
  return options;
}

std::vector<ParitySample> ReadParityBatch(const std::string& path, const ModelConfig& config) {
  const SafetensorsFile file = SafetensorsFile::Open(path);
  std::vector<ParitySample> samples;
  for (int i = 0; file.Has(fmt::format("{}.input_ids", i)); ++i) {
    samples.push_back(ReadSample(file, i, config));
  }
  OT_REQUIRE(!samples.empty(), ErrorCode::kData, "{}: holds no '0.input_ids'", path);
  return samples;
}

std::vector<MicroBatch> MakeParityMicroBatches(const std::vector<ParitySample>& samples,
                                               const ModelConfig& config, int repeat,
                                               int64_t max_tokens, int dp_rank, int dp_size) {
  const int64_t n = static_cast<int64_t>(samples.size());
  // Copy k of sample i has index k * n + i; a group becomes a micro-batch.
  std::vector<std::vector<int64_t>> groups;
  int64_t rows = 0;
  for (int64_t k = 0; k < repeat * n; ++k) {
    const int64_t T = samples[k % n].encoded.num_rows();
    if (groups.empty() || max_tokens == 0 || rows + T > max_tokens) {
      groups.emplace_back();
      rows = 0;
    }
    groups.back().push_back(k);
    rows += T;
  }

  PackOptions options;
  options.positions = PositionOptionsOf(config);
  options.patch_dim = config.vision.patch_dim();
  options.window_cells = config.vision.window_cells();
  const auto build = [&](const std::vector<int64_t>& group) {
    std::vector<EncodedSample> copies;
    for (int64_t k : group) {
      copies.push_back(samples[k % n].encoded);
      copies.back().index = k;
    }
    std::vector<const EncodedSample*> pointers;
    for (const EncodedSample& copy : copies) pointers.push_back(&copy);
    MicroBatch batch = BuildMicroBatch(pointers, options);
    auto out = batch.items.patches.begin();
    for (int64_t k : group) {
      out = std::copy(samples[k % n].patches.begin(), samples[k % n].patches.end(), out);
    }
    OrderPatches(0, batch.items.num_patches(), &batch.items);
    // The file's own labels and positions count, not those that follow from its ids.
    for (size_t s = 0; s < group.size(); ++s) {
      const ParitySample& sample = samples[group[s] % n];
      const int64_t T = sample.encoded.num_rows(), begin = batch.cu_seqlens[s];
      std::copy(sample.labels.begin(), sample.labels.end(), batch.labels.begin() + begin);
      for (int axis = 0; axis < 3; ++axis) {
        const auto from = sample.position_ids.begin() + axis * T;
        std::copy(from, from + T, batch.position_ids.begin() + axis * batch.num_tokens() + begin);
      }
    }
    return batch;
  };
  const size_t per_rank = (groups.size() + dp_size - 1) / dp_size;
  std::vector<MicroBatch> mine;
  for (size_t i = 0; i < per_rank; ++i) {
    const size_t k = i * dp_size + dp_rank;
    mine.push_back(build(k < groups.size() ? groups[k] : std::vector<int64_t>()));
  }
  return mine;
}

}  // namespace omnitrain
