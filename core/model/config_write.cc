#include "core/base/check.h"
#include "core/base/json.h"
#include "core/model/config.h"

namespace omnitrain {
namespace {

const char* HfName(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return "silu";
    case Activation::kGeluTanh:
      return "gelu_pytorch_tanh";
    case Activation::kGeluErf:
      return "gelu";
    case Activation::kQuickGelu:
      return "quick_gelu";
  }
  return "";
}

const char* HfName(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "float64";
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    default:
      return "float32";
  }
}

Json TextJson(const TextConfig& c, const char* dtype) {
  Json rope;
  rope["rope_type"] = "default";
  rope["mrope_section"] = c.rope.section;
  rope["mrope_interleaved"] = c.rope.layout == MropeLayout::kInterleaved;
  Json j;
  j["model_type"] = "qwen3_vl_text";
  j["attention_bias"] = c.attention_bias;
  j["attention_dropout"] = 0.0;
  j["dtype"] = dtype;
  j["head_dim"] = c.head_dim;
  j["hidden_act"] = HfName(c.activation);
  j["hidden_size"] = c.width;
  j["initializer_range"] = c.initializer_range;
  j["intermediate_size"] = c.ffn_width;
  j["max_position_embeddings"] = c.max_position_embeddings;
  j["num_attention_heads"] = c.num_heads;
  j["num_hidden_layers"] = c.num_layers;
  j["num_key_value_heads"] = c.num_kv_heads;
  j["rms_norm_eps"] = c.rms_eps;
  // transformers 4 reads rope_scaling and rope_theta, 5 reads either.
  j["rope_scaling"] = rope;
  j["rope_theta"] = c.rope.theta;
  rope["rope_theta"] = c.rope.theta;
  j["rope_parameters"] = rope;
  j["tie_word_embeddings"] = c.tie_word_embeddings;
  j["use_cache"] = true;
  j["vocab_size"] = c.vocab_size;
  return j;
}

Json VisionJson(const VisionConfig& c) {
  Json j;
  j["model_type"] = "qwen3_vl_vision";
  j["deepstack_visual_indexes"] = c.deepstack_layers;
  j["depth"] = c.depth;
  j["hidden_act"] = HfName(c.activation);
  j["hidden_size"] = c.width;
  j["in_channels"] = c.in_channels;
  j["initializer_range"] = c.initializer_range;
  j["intermediate_size"] = c.ffn_width;
  j["num_heads"] = c.num_heads;
  j["num_position_embeddings"] = c.num_position_embeddings;
  j["out_hidden_size"] = c.out_width;
  j["patch_size"] = c.patch_size;
  j["rope_parameters"] = {{"rope_theta", c.rope_theta}, {"rope_type", "axial"}};
  j["spatial_merge_size"] = c.merge_size;
  j["temporal_patch_size"] = c.temporal_patch_size;
  return j;
}

}  // namespace

Json ToHfConfig(const ModelConfig& c) {
  OT_CHECK(c.family == ModelFamily::kQwen3Vl, "{}", FamilyName(c.family));
  OT_CHECK(c.text.vocab_size > 0 && c.image_token_id >= 0 && c.video_token_id >= 0 &&
               c.vision_start_token_id >= 0 && c.vision_end_token_id >= 0,
           "vocabulary or special tokens are not known yet");
  Json j;
  j["architectures"] = {"Qwen3VLForConditionalGeneration"};
  j["model_type"] = FamilyName(c.family);
  j["dtype"] = HfName(c.saved_dtype);
  j["image_token_id"] = c.image_token_id;
  j["video_token_id"] = c.video_token_id;
  j["vision_start_token_id"] = c.vision_start_token_id;
  j["vision_end_token_id"] = c.vision_end_token_id;
  j["tie_word_embeddings"] = c.text.tie_word_embeddings;
  j["text_config"] = TextJson(c.text, HfName(c.saved_dtype));
  j["vision_config"] = VisionJson(c.vision);
  return j;
}

}  // namespace omnitrain
