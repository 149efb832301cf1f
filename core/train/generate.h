#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/model/multimodal_model.h"
#include "core/runtime/context.h"
#include "data/batch/sample.h"
#include "data/pack/pack.h"

namespace omnitrain {

/// Writes the [num_patches, patch_dim] patches of a sample; false when its picture cannot be had.
using PixelReader = std::function<bool(const EncodedSample& sample, float* out)>;

/// BuildMicroBatch with pixels; a sample without its picture loses its labels (DropSample).
MicroBatch BuildWithPixels(const std::vector<const EncodedSample*>& samples,
                           const PackOptions& pack, const PixelReader& read_pixels);

struct GenerateOptions {
  int max_new_tokens = 32;
  std::vector<int32_t> stop_ids;  // end an answer; not part of it
  std::string stop_text;          // ends an answer once it stands in its text; empty: none
  int64_t max_rows = 4096;        // of the samples that are decoded together
};

/// Greedy answers to `questions` (SampleEncoder::EncodeQuestion), for evaluation: the most likely
/// token each time, the smaller id of equals. Encoders run once; the LLM runs over the whole
/// sequence for each token, without a cache. One rank alone; no communication.
std::vector<std::string> GenerateGreedy(Context& ctx, const MultimodalModel& model,
                                        const Tokenizer& tokenizer, const PackOptions& pack,
                                        const std::vector<EncodedSample>& questions,
                                        const PixelReader& read_pixels,
                                        const GenerateOptions& options);

}  // namespace omnitrain
