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

Json TextJson(const TextConfig& c, ModelFamily family, const char* dtype) {
  const bool is_interleaved = c.rope.layout == MropeLayout::kInterleaved;
  Json rope;
  rope["rope_type"] = "default";
  rope["mrope_section"] = c.rope.section;
  if (is_interleaved) rope["mrope_interleaved"] = true;
  Json j;
  j["model_type"] = std::string(FamilyName(family)) + "_text";
  if (IsQwen3(family)) {
    j["attention_bias"] = c.attention_bias;
    j["head_dim"] = c.head_dim;
  } else {
    j["use_sliding_window"] = false;
  }
  j["attention_dropout"] = 0.0;
  j["dtype"] = dtype;
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
  if (c.num_experts > 0) {
    j["decoder_sparse_step"] = c.decoder_sparse_step;
    j["mlp_only_layers"] = c.dense_layers;
    j["moe_intermediate_size"] = c.expert_ffn_width;
    j["norm_topk_prob"] = c.norm_topk_prob;
    // transformers 4 reads num_experts, 5 num_local_experts.
    j["num_experts"] = c.num_experts;
    j["num_local_experts"] = c.num_experts;
    j["num_experts_per_tok"] = c.experts_per_token;
    j["router_aux_loss_coef"] = c.router_aux_loss_coef;
  }
  j["tie_word_embeddings"] = c.tie_word_embeddings;
  j["use_cache"] = true;
  j["vocab_size"] = c.vocab_size;
  return j;
}

Json VisionJson(const VisionConfig& c) {
  Json j;
  j["model_type"] = std::string(FamilyName(c.family)) + "_vision";
  j["depth"] = c.depth;
  j["hidden_act"] = HfName(c.activation);
  j["in_channels"] = c.in_channels;
  j["initializer_range"] = c.initializer_range;
  j["num_heads"] = c.num_heads;
  j["patch_size"] = c.patch_size;
  j["rope_parameters"] = {{"rope_theta", c.rope_theta}, {"rope_type", "axial"}};
  j["spatial_merge_size"] = c.merge_size;
  j["temporal_patch_size"] = c.temporal_patch_size;
  if (c.family == ModelFamily::kQwen2Vl) {
    j["embed_dim"] = c.width;
    j["hidden_size"] = c.out_width;
    j["mlp_ratio"] = c.ffn_width / c.width;
    return j;
  }
  j["hidden_size"] = c.width;
  j["intermediate_size"] = c.ffn_width;
  j["out_hidden_size"] = c.out_width;
  if (c.family == ModelFamily::kQwen25Vl) {
    j["fullatt_block_indexes"] = c.full_attention_layers;
    const auto whole = static_cast<int64_t>(c.tokens_per_second);
    // transformers insists on an int.
    if (static_cast<double>(whole) == c.tokens_per_second) {
      j["tokens_per_second"] = whole;
    } else {
      j["tokens_per_second"] = c.tokens_per_second;
    }
    j["window_size"] = c.window_size;
  } else {
    j["deepstack_visual_indexes"] = c.deepstack_layers;
    j["num_position_embeddings"] = c.num_position_embeddings;
  }
  return j;
}

const char* ArchitectureOf(ModelFamily family) {
  switch (family) {
    case ModelFamily::kQwen2Vl:
      return "Qwen2VLForConditionalGeneration";
    case ModelFamily::kQwen25Vl:
      return "Qwen2_5_VLForConditionalGeneration";
    case ModelFamily::kQwen3Vl:
      return "Qwen3VLForConditionalGeneration";
    case ModelFamily::kQwen3VlMoe:
      return "Qwen3VLMoeForConditionalGeneration";
  }
  return "";
}

}  // namespace

Json ToHfConfig(const ModelConfig& c) {
  OT_CHECK(c.text.vocab_size > 0 && c.image_token_id >= 0 && c.video_token_id >= 0 &&
               c.vision_start_token_id >= 0 && c.vision_end_token_id >= 0,
           "vocabulary or special tokens are not known yet");
  Json j;
  j["architectures"] = {ArchitectureOf(c.family)};
  j["model_type"] = FamilyName(c.family);
  j["dtype"] = HfName(c.saved_dtype);
  j["image_token_id"] = c.image_token_id;
  j["video_token_id"] = c.video_token_id;
  j["vision_start_token_id"] = c.vision_start_token_id;
  j["vision_end_token_id"] = c.vision_end_token_id;
  j["tie_word_embeddings"] = c.text.tie_word_embeddings;
  j["text_config"] = TextJson(c.text, c.family, HfName(c.saved_dtype));
  j["vision_config"] = VisionJson(c.vision);
  return j;
}

}  // namespace omnitrain
