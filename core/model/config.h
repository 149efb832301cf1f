#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/tensor/dtype.h"
#include "kernels/activation/activation.h"
#include "kernels/rope/rope.h"

namespace omnitrain {

enum class ModelFamily { kQwen2Vl, kQwen25Vl, kQwen3Vl, kQwen3VlMoe };

/// Qwen3-VL, dense or MoE.
bool IsQwen3(ModelFamily family);

/// "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe": `model_type` of config.json.
const char* FamilyName(ModelFamily family);

/// The decoder. Source: transformers, configuration_qwen3_vl.py and its siblings.
struct TextConfig {
  int num_layers = 0;
  int width = 0;            // D
  int num_heads = 0;        // H
  int num_kv_heads = 0;     // G, divides H
  int head_dim = 0;         // K; H * K need not be D
  int ffn_width = 0;        // F
  int64_t vocab_size = -1;  // V; -1: not known before the tokenizer (SetVocabulary)
  double rms_eps = 0;
  MropeParams rope;
  bool attention_bias = false;  // of q, k and v
  bool qk_norm = false;         // RMSNorm over K on q and k, before RoPE
  bool tie_word_embeddings = false;
  Activation activation = Activation::kSilu;  // gated: down(act(gate) * up)
  double initializer_range = 0.02;
  int64_t max_position_embeddings = 0;
  // Mixture of experts: a sparse layer has num_experts MLPs of width expert_ffn_width instead of
  // one of ffn_width.
  int num_experts = 0;            // E; 0: every layer is dense
  int experts_per_token = 0;      // 1 to E
  int expert_ffn_width = 0;       // I
  bool norm_topk_prob = false;    // the weights of a token's experts add up to 1
  int decoder_sparse_step = 1;    // every so many layers one may be sparse
  std::vector<int> dense_layers;  // those that are dense all the same, ascending
  // What the balance loss counts for beside the mean token loss, in training and in the loss that
  // training reports. transformers adds it only with output_router_logits, which has no say here.
  double router_aux_loss_coef = 0;

  bool IsMoeLayer(int layer) const;
  int num_moe_layers() const;
  int query_width() const { return num_heads * head_dim; }  // columns of q
  int kv_width() const { return num_kv_heads * head_dim; }  // columns of k, and of v
};

/// The vision tower.
struct VisionConfig {
  ModelFamily family = ModelFamily::kQwen3Vl;  // fixes norms, MLP and names
  int depth = 0;
  int width = 0;  // D of the tower
  int num_heads = 0;
  int ffn_width = 0;
  Activation activation = Activation::kGeluTanh;
  int patch_size = 0;           // pixels of a patch's side
  int temporal_patch_size = 0;  // frames of a patch
  int merge_size = 0;           // patches of a merged row's side
  int in_channels = 3;
  int out_width = 0;                  // D of the LLM
  int num_position_embeddings = 0;    // a square grid; 0: none are learned
  std::vector<int> deepstack_layers;  // after block deepstack_layers[k] a merger feeds LLM layer k
  double rope_theta = 10000;
  double norm_eps = 1e-6;
  double initializer_range = 0.02;
  // Qwen2.5-VL only.
  int window_size = 0;                     // pixels of an attention window's side; 0: no windows
  std::vector<int> full_attention_layers;  // blocks that attend to whole frames all the same
  double tokens_per_second = 0;            // scale of a video's time positions

  int head_dim() const { return width / num_heads; }
  int patch_dim() const { return in_channels * temporal_patch_size * patch_size * patch_size; }
  /// Side of a window in merged cells; 0 without windows.
  int window_cells() const { return window_size / (patch_size * merge_size); }
  int merged_dim() const { return width * merge_size * merge_size; }  // input of a merger's MLP
};

/// What a model is made of, free of the spellings of config.json.
struct ModelConfig {
  ModelFamily family = ModelFamily::kQwen3Vl;
  TextConfig text;
  VisionConfig vision;
  DType saved_dtype = DType::kF32;  // of the weights on disk
  // Ids of special tokens; -1: not known before the tokenizer.
  int64_t image_token_id = -1;
  int64_t video_token_id = -1;
  int64_t vision_start_token_id = -1;
  int64_t vision_end_token_id = -1;
};

/// Reads the content of a config.json, in the flat and nested spellings of transformers 4 and 5.
/// `where` is the file, for messages. Keys that change the numbers and are not implemented are
/// refused, never ignored; missing sizes of the vision tower take their family's defaults;
/// rope_theta never comes from a default. Errors: kCheckpoint, file and key.
ModelConfig ParseModelConfig(const nlohmann::ordered_json& config, const std::string& where);

/// ParseModelConfig of `hf_dir`/config.json. Errors: kSpec if there is no such file.
ModelConfig LoadModelConfig(const std::string& hf_dir);

/// Reads `model.arch` of a job spec (JobSpec::model.arch): {family, text, vision} and the other top
/// level keys of config.json. Strict: unknown keys are refused. vocab_size may be left to the
/// tokenizer, and so may the ids of special tokens. Errors: kSpec with `model.arch` and the key.
ModelConfig ModelConfigFromArch(const std::string& arch_json);

/// Fills a vocab_size of -1: `num_tokens` rounded up to a multiple of 64. Errors: kSpec if the
/// vocabulary that is given has fewer rows than the tokenizer has ids.
void SetVocabulary(int64_t num_tokens, ModelConfig* config);

/// A config.json (transformers 5 spelling) that loads as this model, with `saved_dtype`.
nlohmann::ordered_json ToHfConfig(const ModelConfig& config);

}  // namespace omnitrain
