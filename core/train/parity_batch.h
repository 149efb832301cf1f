#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/model/config.h"
#include "data/batch/batch.h"
#include "data/batch/sample.h"

namespace omnitrain {

/// One sample of a prepared batch file.
struct ParitySample {
  EncodedSample encoded;        // its index is i of `i.input_ids`; items are images, then videos
  std::vector<int32_t> labels;  // [T] shifted: row r predicts labels[r]; -1 where none
  std::vector<int64_t> position_ids;  // [3, T], given or computed
  int64_t num_positions_off = 0;      // given positions that the program computes otherwise
  std::vector<float> patches;         // [P, patch_dim] of all items
  int64_t num_image_rows = 0;         // merged rows of images; those of videos follow
  int64_t num_video_rows = 0;

  int64_t index() const { return encoded.index; }
};

/// Reads `i.input_ids`, `i.labels`, `i.position_ids`, `i.pixel_values` + `i.image_grid_thw`,
/// `i.pixel_values_videos` + `i.video_grid_thw` for i = 0, 1, ...; labels as given to the loss of
/// transformers (not shifted, -100 ignored). Errors: kData or kCheckpoint naming the file and
/// tensor.
std::vector<ParitySample> ReadParityBatch(const std::string& path, const ModelConfig& config);

/// Samples in order, `repeat` times over, packed to at most `max_tokens` rows (0: one sample each),
/// dealt to the ranks in turn. All ranks get equally many micro-batches, empty ones where samples
/// run out. Sample ids count copies too: copy k of sample i is k * num_samples + i.
std::vector<MicroBatch> MakeParityMicroBatches(const std::vector<ParitySample>& samples,
                                               const ModelConfig& config, int repeat,
                                               int64_t max_tokens, int dp_rank, int dp_size);

/// How a family numbers the rows of its items, as transformers computes it.
PositionOptions PositionOptionsOf(const ModelConfig& config);

}  // namespace omnitrain
