#pragma once

#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/model/multimodal_model.h"
#include "data/batch/sample.h"
#include "data/pack/pack.h"

namespace omnitrain {

constexpr int kTinyVocabulary = 37;

/// Experts in two of three LLM layers, with a balance loss that shows.
inline void MakeSparse(TextConfig* text) {
  text->num_layers = 3;
  text->dense_layers = {1};
  text->num_experts = 4;
  text->experts_per_token = 2;
  text->expert_ffn_width = 6;
  text->norm_topk_prob = true;
  text->router_aux_loss_coef = 0.3;
}

/// The smallest Qwen3-VL with every part in it: two vision layers of which one feeds a deep-stack
/// merger, two LLM layers, grouped queries.
inline ModelConfig TinyModel(bool is_tied) {
  return ModelConfigFromArch(std::string(R"({"family": "qwen3_vl",
      "image_token_id": 33, "video_token_id": 34,
      "vision_start_token_id": 35, "vision_end_token_id": 36,
      "text": {"vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 2,
               "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
               "intermediate_size": 10, "max_position_embeddings": 128,
               "rope_parameters": {"rope_theta": 100.0, "mrope_section": [2, 1, 1]}},
      "vision": {"depth": 2, "hidden_size": 8, "num_heads": 2, "intermediate_size": 6,
                 "patch_size": 2, "temporal_patch_size": 1, "spatial_merge_size": 2,
                 "num_position_embeddings": 9, "deepstack_visual_indexes": [0]},
      "tie_word_embeddings": )") +
                             (is_tied ? "true}" : "false}"));
}

/// Parameters that look trained: no zero bias, no norm weight of one.
inline void FillWithNoise(ParamStore& params, uint64_t seed) {
  for (ParamId id = 0; id < params.num_params(); ++id) {
    const ParamSpec& spec = params.spec(id);
    const double mean = spec.init == ParamInit::kOne ? 1.0 : 0.0;
    const double std = spec.shape.rank() > 1 ? 0.35 : 0.2;
    double* value = params.value(id).ptr<double>();
    for (int64_t i = 0; i < spec.shape.num_elements(); ++i) {
      value[i] = mean + std * RandomNormal(seed, static_cast<uint64_t>(id), i);
    }
  }
}

/// One sample of a batch: text around images of these grids, in patches.
struct TinySample {
  std::vector<ItemGrid> images;
  int text_before = 2, text_after = 4;  // the rows after are learned
};

/// Samples packed into one micro-batch with pixels of noise, its tail padded to a multiple of 4.
inline MicroBatch TinyBatch(const ModelConfig& model, const std::vector<TinySample>& samples,
                            uint64_t seed) {
  PackOptions pack;
  pack.positions.merge_size = model.vision.merge_size;
  pack.positions.image_token_id = static_cast<int32_t>(model.image_token_id);
  pack.positions.video_token_id = static_cast<int32_t>(model.video_token_id);
  pack.patch_dim = model.vision.patch_dim();
  pack.pad_multiple = 4;
  pack.window_cells = model.vision.window_cells();
  const int64_t merged = model.vision.merge_size * model.vision.merge_size;

  std::vector<EncodedSample> encoded(samples.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    EncodedSample& sample = encoded[i];
    sample.index = static_cast<int64_t>(i);
    const auto add_text = [&](int count, uint8_t is_learned) {
      for (int k = 0; k < count; ++k) {
        const uint64_t bits = RandomBits(seed, i, sample.ids.size());
        sample.ids.push_back(static_cast<int32_t>(bits % 33));
        sample.loss_mask.push_back(is_learned);
      }
    };
    add_text(samples[i].text_before, 0);
    std::vector<ItemShape> shapes;
    for (const ItemGrid& grid : samples[i].images) {
      const size_t rows = static_cast<size_t>(grid.num_patches() / merged);
      sample.ids.insert(sample.ids.end(), rows, static_cast<int32_t>(model.image_token_id));
      sample.loss_mask.insert(sample.loss_mask.end(), rows, 0);
      add_text(1, 0);
      EncodedItem item;
      item.shape.grid = grid;
      shapes.push_back(item.shape);
      sample.items.push_back(std::move(item));
    }
    add_text(samples[i].text_after, 1);
    sample.runs = FindItemRuns(sample.ids, shapes, pack.positions, "tiny");
  }
  std::vector<const EncodedSample*> members;
  for (const EncodedSample& sample : encoded) members.push_back(&sample);
  MicroBatch batch = BuildMicroBatch(members, pack);
  for (size_t i = 0; i < batch.items.patches.size(); ++i) {
    batch.items.patches[i] = static_cast<float>(RandomNormal(seed, 99, i));
  }
  return batch;
}

}  // namespace omnitrain
