#include "core/model/config.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "core/base/check.h"
#include "core/base/json.h"
#include "core/model/config_reader.h"

namespace omnitrain {
namespace {

/// What transformers assumes for keys that a config.json leaves out, where an assumption is safe:
/// the released models agree with it, or differ only in keys that they all spell out.
/// Source: transformers, configuration_qwen{2,2_5,3}_vl.py.
struct FamilyDefaults {
  ModelFamily family;
  const char* name;
  bool is_flat;  // text keys may stand at the top level
  double rms_eps;
  Activation vision_activation;
  int vision_depth;
  int vision_width;
  int vision_ffn_width;
  int patch_size;
};

// Qwen2.5-VL: 1280 is the width of every release, the class default of 3584 of none.
constexpr std::array<FamilyDefaults, 4> kFamilies{{
    {ModelFamily::kQwen2Vl, "qwen2_vl", true, 1e-5, Activation::kQuickGelu, 32, 1280, 5120, 14},
    {ModelFamily::kQwen25Vl, "qwen2_5_vl", true, 1e-5, Activation::kSilu, 32, 1280, 3420, 14},
    {ModelFamily::kQwen3Vl, "qwen3_vl", false, 1e-6, Activation::kGeluTanh, 27, 1152, 4304, 16},
    {ModelFamily::kQwen3VlMoe, "qwen3_vl_moe", false, 1e-6, Activation::kGeluTanh, 27, 1152, 4304,
     16},
}};

const FamilyDefaults& DefaultsOf(ModelFamily family) {
  return kFamilies[static_cast<size_t>(family)];
}

/// Who wrote the configuration: transformers, which leaves out what equals its defaults, or the
/// author of a job spec, who is to say every size.
enum class Spelling { kHf, kArch };

template <typename T>
std::optional<T> IfHf(Spelling spelling, T value) {
  if (spelling == Spelling::kArch) return std::nullopt;
  return value;
}

Activation ReadActivation(ConfigReader& reader, const std::string& key, Activation absent) {
  if (!reader.Has(key)) return absent;
  const std::string name = reader.String(key);
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGeluErf;
  reader.Require(name == "quick_gelu", key,
                 "'{}' is not implemented; known are silu, gelu, gelu_pytorch_tanh, quick_gelu",
                 name);
  return Activation::kQuickGelu;
}

/// RoPE of the LLM as one object of the config spells it; theta 0 if it is not in there.
MropeParams ReadRopeObject(ConfigReader rope, ModelFamily family, int head_dim) {
  const std::string type = rope.String("rope_type", rope.String("type", "default"));
  rope.Require(type == "default" || type == "mrope", "rope_type",
               "'{}' is not implemented, only default is", type);
  rope.Require(rope.Real("partial_rotary_factor", 1.0) == 1.0, "partial_rotary_factor",
               "only 1 is implemented");

  MropeParams params;
  params.head_dim = head_dim;
  params.layout = IsQwen3(family) ? MropeLayout::kInterleaved : MropeLayout::kChunked;
  const bool is_interleaved = params.layout == MropeLayout::kInterleaved;
  rope.Require(rope.Bool("mrope_interleaved", is_interleaved) == is_interleaved,
               "mrope_interleaved", "{} always has {}", FamilyName(family), is_interleaved);

  const std::vector<int64_t> section = rope.Ints("mrope_section");
  int64_t sum = 0;
  for (int64_t s : section) sum += s < 0 ? head_dim : s;
  rope.Require(section.size() == 3 && sum * 2 == head_dim, "mrope_section",
               "expected 3 counts with a sum of {} (half of head_dim), got {}", head_dim / 2,
               Json(section).dump());
  for (size_t i = 0; i < 3; ++i) params.section[i] = static_cast<int>(section[i]);

  params.theta = rope.Real("rope_theta", 0.0);
  rope.RefuseOthers({});
  return params;
}

/// RoPE of the LLM from rope_parameters (transformers 5), or rope_scaling and rope_theta (4), or
/// both. theta never comes from a default: those of transformers changed between versions.
MropeParams ReadRope(ConfigReader& text, ModelFamily family, int head_dim) {
  std::optional<MropeParams> found;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!text.Has(key)) continue;
    const MropeParams params = ReadRopeObject(text.Object(key), family, head_dim);
    text.Require(!found || std::equal(params.section, params.section + 3, found->section), key,
                 "its mrope_section is not that of rope_parameters");
    if (!found) found = params;
    if (found->theta == 0) found->theta = params.theta;
  }
  text.Require(found.has_value(), "rope_parameters", "missing (mrope_section and rope_theta)");

  const double outer = text.Real("rope_theta", found->theta);
  text.Require(found->theta == 0 || outer == found->theta, "rope_theta",
               "{} here, {} in rope_parameters: remove one", outer, found->theta);
  found->theta = outer;
  text.Require(outer != 0, "rope_theta", "missing");
  text.Require(outer > 1, "rope_theta", "{} is not above 1", outer);
  return *found;
}

void RefuseTextOptions(ConfigReader& text, ModelFamily family) {
  const double dropout = text.Real("attention_dropout", 0.0);
  text.Require(dropout == 0, "attention_dropout",
               "{} would act in training and is not implemented; set it to 0", dropout);
  // Without use_sliding_window the window's size and first layer are void.
  text.Require(!text.Bool("use_sliding_window", false), "use_sliding_window",
               "sliding windows are not implemented");
  if (const Json* types = text.Find("layer_types")) {
    for (const Json& type : *types) {
      text.Require(type == "full_attention", "layer_types", "{} is not implemented", type.dump());
    }
  }
  text.Require(!IsQwen3(family) || !text.Bool("attention_bias", false), "attention_bias",
               "true is not implemented for {}", FamilyName(family));
}

std::vector<int> ReadLayers(ConfigReader& reader, const std::string& key, int depth,
                            std::optional<std::vector<int64_t>> absent) {
  std::vector<int> layers;
  for (int64_t layer : reader.Ints(key, std::move(absent))) {
    reader.Require(layer >= 0 && layer < depth, key, "there is no layer {} among {}", layer, depth);
    reader.Require(layers.empty() || layer > layers.back(), key, "not in ascending order");
    layers.push_back(static_cast<int>(layer));
  }
  return layers;
}

/// transformers 4 says num_experts, 5 num_local_experts.
int ReadNumExperts(ConfigReader& text) {
  const char* const name = text.Has("num_experts") ? "num_experts" : "num_local_experts";
  text.Require(text.Has(name), "num_experts", "missing");
  const int num_experts = text.Size(name);
  const int other = text.Size("num_local_experts", num_experts);
  text.Require(other == num_experts, "num_local_experts", "{} here, {} in num_experts: remove one",
               other, num_experts);
  return num_experts;
}

void ReadMoe(ConfigReader& text, ModelFamily family, TextConfig* c) {
  c->num_experts = ReadNumExperts(text);
  c->experts_per_token = text.Size("num_experts_per_tok");
  text.Require(c->experts_per_token <= c->num_experts, "num_experts_per_tok", "{} of {} experts",
               c->experts_per_token, c->num_experts);
  c->expert_ffn_width = text.Size("moe_intermediate_size");
  // transformers divides by the sum whatever is said here.
  c->norm_topk_prob = text.Bool("norm_topk_prob", true);
  text.Require(c->norm_topk_prob, "norm_topk_prob", "{} always has true", FamilyName(family));
  c->decoder_sparse_step = text.Size("decoder_sparse_step", 1);
  c->dense_layers = ReadLayers(text, "mlp_only_layers", c->num_layers, std::vector<int64_t>{});
  c->router_aux_loss_coef = text.Real("router_aux_loss_coef", 0.001);
  text.Require(c->router_aux_loss_coef >= 0, "router_aux_loss_coef", "{} is below 0",
               c->router_aux_loss_coef);
  text.Bool("output_router_logits", false);
}

TextConfig ReadText(ConfigReader& text, ModelFamily family, Spelling spelling) {
  RefuseTextOptions(text, family);
  TextConfig c;
  c.num_layers = text.Size("num_hidden_layers");
  c.width = text.Size("hidden_size");
  c.num_heads = text.Size("num_attention_heads");
  c.num_kv_heads = text.Size("num_key_value_heads");
  c.ffn_width = text.Size("intermediate_size");
  text.Require(c.num_heads % c.num_kv_heads == 0, "num_key_value_heads",
               "{} query heads do not share {} kv heads evenly", c.num_heads, c.num_kv_heads);
  if (IsQwen3(family)) {
    c.head_dim = text.Size("head_dim", IfHf(spelling, 128));
  } else {
    text.Require(c.width % c.num_heads == 0, "num_attention_heads",
                 "{} heads do not split hidden_size {}", c.num_heads, c.width);
    c.head_dim = text.Size("head_dim", c.width / c.num_heads);
    text.Require(c.head_dim == c.width / c.num_heads, "head_dim",
                 "{} always has hidden_size / num_attention_heads = {}", FamilyName(family),
                 c.width / c.num_heads);
  }
  text.Require(c.head_dim % 2 == 0, "head_dim", "{} is odd", c.head_dim);
  const bool may_lack_vocab = spelling == Spelling::kArch;
  if (!may_lack_vocab || text.Has("vocab_size")) c.vocab_size = text.Size("vocab_size");
  c.rms_eps = text.Real("rms_norm_eps", DefaultsOf(family).rms_eps);
  text.Require(c.rms_eps > 0, "rms_norm_eps", "{} is not above 0", c.rms_eps);
  c.rope = ReadRope(text, family, c.head_dim);
  c.attention_bias = !IsQwen3(family);
  c.qk_norm = IsQwen3(family);
  c.activation = ReadActivation(text, "hidden_act", Activation::kSilu);
  c.initializer_range = text.Real("initializer_range", 0.02);
  c.max_position_embeddings = text.Int("max_position_embeddings", IsQwen3(family) ? 128000 : 32768);
  if (family == ModelFamily::kQwen3VlMoe) ReadMoe(text, family, &c);
  return c;
}

void ReadVisionWidths(ConfigReader& vision, ModelFamily family, Spelling spelling, int text_width,
                      VisionConfig* c) {
  const FamilyDefaults& defaults = DefaultsOf(family);
  if (family == ModelFamily::kQwen2Vl) {
    // Here hidden_size is the LLM's.
    c->width = vision.Size("embed_dim", IfHf(spelling, defaults.vision_width));
    c->out_width = vision.Size("hidden_size", text_width);
    c->ffn_width = c->width * vision.Size("mlp_ratio", 4);
  } else {
    c->width = vision.Size("hidden_size", IfHf(spelling, defaults.vision_width));
    c->out_width = vision.Size("out_hidden_size", text_width);
    c->ffn_width = vision.Size("intermediate_size", IfHf(spelling, defaults.vision_ffn_width));
  }
  vision.Require(c->out_width == text_width,
                 family == ModelFamily::kQwen2Vl ? "hidden_size" : "out_hidden_size",
                 "{} is not the LLM's hidden_size, {}", c->out_width, text_width);
}

void ReadQwen3Vision(ConfigReader& vision, Spelling spelling, int num_text_layers,
                     VisionConfig* c) {
  c->num_position_embeddings = vision.Size("num_position_embeddings", IfHf(spelling, 2304));
  const int side = static_cast<int>(std::lround(std::sqrt(c->num_position_embeddings)));
  vision.Require(side * side == c->num_position_embeddings, "num_position_embeddings",
                 "{} is not a square", c->num_position_embeddings);
  c->deepstack_layers = ReadLayers(vision, "deepstack_visual_indexes", c->depth,
                                   IfHf(spelling, std::vector<int64_t>{8, 16, 24}));
  vision.Require(static_cast<int>(c->deepstack_layers.size()) <= num_text_layers,
                 "deepstack_visual_indexes", "{} features for an LLM of {} layers",
                 c->deepstack_layers.size(), num_text_layers);
}

void ReadQwen25Vision(ConfigReader& vision, VisionConfig* c) {
  c->window_size = vision.Size("window_size", 112);
  const int unit = c->patch_size * c->merge_size;
  vision.Require(c->window_size % unit == 0, "window_size",
                 "{} is not a multiple of patch_size * spatial_merge_size = {}", c->window_size,
                 unit);
  c->full_attention_layers =
      ReadLayers(vision, "fullatt_block_indexes", c->depth, std::vector<int64_t>{7, 15, 23, 31});
  // The class default, 4, is that of no release.
  c->tokens_per_second = vision.Real("tokens_per_second");
}

VisionConfig ReadVision(ConfigReader& vision, ModelFamily family, Spelling spelling,
                        const TextConfig& text) {
  const FamilyDefaults& defaults = DefaultsOf(family);
  VisionConfig c;
  c.family = family;
  c.depth = vision.Size("depth", IfHf(spelling, defaults.vision_depth));
  ReadVisionWidths(vision, family, spelling, text.width, &c);
  c.num_heads = vision.Size("num_heads", IfHf(spelling, 16));
  vision.Require(c.width % c.num_heads == 0 && c.head_dim() % 4 == 0, "num_heads",
                 "{} heads do not split a width of {} into multiples of 4", c.num_heads, c.width);
  c.activation = ReadActivation(vision, "hidden_act", defaults.vision_activation);
  c.patch_size = vision.Size("patch_size", vision.Size("spatial_patch_size", defaults.patch_size));
  c.temporal_patch_size = vision.Size("temporal_patch_size", 2);
  c.merge_size = vision.Size("spatial_merge_size", 2);
  c.in_channels = vision.Size("in_channels", vision.Size("in_chans", 3));
  vision.Require(c.in_channels == 3, "in_channels", "{}: pictures are RGB", c.in_channels);
  c.initializer_range = vision.Real("initializer_range", 0.02);
  if (vision.Has("rope_parameters")) {
    // The base is a constant of the code, 10000, that transformers 5 writes out.
    ConfigReader rope = vision.Object("rope_parameters");
    const std::string type = rope.String("rope_type", "axial");
    rope.Require(type == "axial" || type == "default", "rope_type", "'{}' is not implemented",
                 type);
    c.rope_theta = rope.Real("rope_theta", c.rope_theta);
    rope.RefuseOthers({"partial_rotary_factor"});
  }
  if (IsQwen3(family)) ReadQwen3Vision(vision, spelling, text.num_layers, &c);
  if (family == ModelFamily::kQwen25Vl) ReadQwen25Vision(vision, &c);
  return c;
}

DType ReadDType(ConfigReader& root, ConfigReader& text) {
  const std::string inner = text.String("dtype", text.String("torch_dtype", "float32"));
  const std::string name = root.String("dtype", root.String("torch_dtype", inner));
  if (name == "float64") return DType::kF64;
  if (name == "float32") return DType::kF32;
  if (name == "float16") return DType::kF16;
  root.Require(name == "bfloat16", "dtype", "'{}' is not implemented", name);
  return DType::kBF16;
}

/// `absent`: what stands for an id that is not known yet, or nothing if it must be.
int64_t ReadTokenId(ConfigReader& root, const std::string& key, std::optional<int64_t> absent,
                    int64_t vocab_size) {
  const int64_t id = root.Int(key, absent);
  const bool is_known = !(absent.has_value() && id == *absent);
  root.Require(!is_known || (id >= 0 && (vocab_size < 0 || id < vocab_size)), key,
               "{} is not an id of a vocabulary of {}", id, vocab_size);
  return id;
}

/// At the top level, where it wins, or else in text_config.
bool ReadTie(ConfigReader& root, ConfigReader& text) {
  const bool inner = text.Bool("tie_word_embeddings", false);
  return root.Bool("tie_word_embeddings", inner);
}

void RefuseQuantization(ConfigReader& reader) {
  reader.Require(!reader.Has("quantization_config"), "quantization_config",
                 "quantized weights cannot be trained; start from the unquantized model");
}

ModelFamily ReadFamily(ConfigReader& root, const std::string& key) {
  const std::string name = root.String(key);
  for (const FamilyDefaults& defaults : kFamilies) {
    if (name == defaults.name) return defaults.family;
  }
  root.Require(false, key,
               "'{}' is not known; known are qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe", name);
  return ModelFamily::kQwen3Vl;
}

/// Keys of config.json that say nothing about the numbers of training.
std::vector<std::string> VoidKeys() {
  return {"architectures",     "model_type",   "transformers_version", "use_cache",
          "bos_token_id",      "eos_token_id", "pad_token_id",         "sliding_window",
          "max_window_layers", "dtype",        "torch_dtype"};
}

}  // namespace

bool IsQwen3(ModelFamily family) {
  return family == ModelFamily::kQwen3Vl || family == ModelFamily::kQwen3VlMoe;
}

const char* FamilyName(ModelFamily family) { return DefaultsOf(family).name; }

bool TextConfig::IsMoeLayer(int layer) const {
  return num_experts > 0 && (layer + 1) % decoder_sparse_step == 0 &&
         !std::binary_search(dense_layers.begin(), dense_layers.end(), layer);
}

int TextConfig::num_moe_layers() const {
  int num_sparse = 0;
  for (int layer = 0; layer < num_layers; ++layer) num_sparse += IsMoeLayer(layer) ? 1 : 0;
  return num_sparse;
}

ModelConfig ParseModelConfig(const Json& config, const std::string& where) {
  ConfigReader root(config, where, "", ErrorCode::kCheckpoint);
  ModelConfig c;
  c.family = ReadFamily(root, "model_type");
  RefuseQuantization(root);

  const bool has_nested_text = root.Has("text_config");
  root.Require(has_nested_text || DefaultsOf(c.family).is_flat, "text_config", "missing");
  const Json& text_json = has_nested_text ? config.at("text_config") : config;
  // Some flat models were saved again with both spellings, one of them incomplete.
  ConfigReader text(text_json, where, has_nested_text ? "text_config" : "", ErrorCode::kCheckpoint,
                    DefaultsOf(c.family).is_flat ? &config : nullptr);
  RefuseQuantization(text);
  ConfigReader vision = root.Object("vision_config");
  c.text = ReadText(text, c.family, Spelling::kHf);
  c.text.tie_word_embeddings = ReadTie(root, text);
  c.vision = ReadVision(vision, c.family, Spelling::kHf, c.text);
  c.saved_dtype = ReadDType(root, text);
  c.image_token_id = ReadTokenId(root, "image_token_id", std::nullopt, c.text.vocab_size);
  c.video_token_id = ReadTokenId(root, "video_token_id", std::nullopt, c.text.vocab_size);
  c.vision_start_token_id =
      ReadTokenId(root, "vision_start_token_id", std::nullopt, c.text.vocab_size);
  c.vision_end_token_id = ReadTokenId(root, "vision_end_token_id", std::nullopt, c.text.vocab_size);
  return c;
}

ModelConfig LoadModelConfig(const std::string& hf_dir) {
  const std::string path = hf_dir + "/config.json";
  struct stat status;
  OT_REQUIRE(::stat(path.c_str(), &status) == 0, ErrorCode::kSpec,
             "model.hf: {}: no such file; expected a Hugging Face model directory", path);
  return ParseModelConfig(ReadJsonFile(path, ErrorCode::kCheckpoint), path);
}

ModelConfig ModelConfigFromArch(const std::string& arch_json) {
  const Json arch = Json::parse(arch_json);
  ConfigReader root(arch, "model.arch", "", ErrorCode::kSpec);
  ModelConfig c;
  c.family = ReadFamily(root, "family");
  ConfigReader text = root.Object("text");
  ConfigReader vision = root.Object("vision");
  c.text = ReadText(text, c.family, Spelling::kArch);
  c.text.tie_word_embeddings = ReadTie(root, text);
  c.vision = ReadVision(vision, c.family, Spelling::kArch, c.text);
  c.image_token_id = ReadTokenId(root, "image_token_id", -1, c.text.vocab_size);
  c.video_token_id = ReadTokenId(root, "video_token_id", -1, c.text.vocab_size);
  c.vision_start_token_id = ReadTokenId(root, "vision_start_token_id", -1, c.text.vocab_size);
  c.vision_end_token_id = ReadTokenId(root, "vision_end_token_id", -1, c.text.vocab_size);
  root.RefuseOthers(VoidKeys());
  text.RefuseOthers(VoidKeys());
  vision.RefuseOthers(VoidKeys());
  return c;
}

void SetVocabulary(int64_t num_tokens, ModelConfig* config) {
  int64_t& vocab_size = config->text.vocab_size;
  if (vocab_size < 0) vocab_size = (num_tokens + 63) / 64 * 64;
  OT_REQUIRE(
      vocab_size >= num_tokens, ErrorCode::kSpec,
      "the model's vocab_size, {}, is less than the tokenizer's {} ids; the tokenizer belongs "
      "to another model",
      vocab_size, num_tokens);
}

}  // namespace omnitrain
