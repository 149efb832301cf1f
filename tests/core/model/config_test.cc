#include "core/model/config.h"

#include "core/base/json.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

Json Golden(const std::string& family) {
  return ReadJsonFile("tests/golden/configs/" + family + ".json", ErrorCode::kInternal);
}

ModelConfig Parse(const Json& config) { return ParseModelConfig(config, "config.json"); }

/// What ParseModelConfig says to a golden Qwen3-VL config in which `key` (a JSON pointer) is set;
/// null removes it.
std::string Refusal(const std::string& pointer, const Json& value, Json config) {
  config[Json::json_pointer(pointer)] = value;
  try {
    Parse(config);
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kCheckpoint);
    return e.what();
  }
  return "nothing was refused";
}
std::string Refusal(const std::string& pointer, const Json& value) {
  return Refusal(pointer, value, Golden("qwen3_vl"));
}

std::string ArchRefusal(const std::string& arch) {
  try {
    ModelConfigFromArch(arch);
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kSpec);
    return e.what();
  }
  return "nothing was refused";
}

/// The flat spelling of transformers 4 of a nested config.
Json Flattened(Json config) {
  const Json text = config["text_config"];
  config.erase("text_config");
  for (const auto& [key, value] : text.items()) {
    if (key != "model_type" && key != "rope_parameters" && !config.contains(key)) {
      config[key] = value;
    }
  }
  config["rope_theta"] = text["rope_parameters"]["rope_theta"];
  config["rope_scaling"] = {{"type", "mrope"},
                            {"mrope_section", text["rope_parameters"]["mrope_section"]}};
  return config;
}

TEST_CASE("Qwen3-VL") {
  const ModelConfig c = Parse(Golden("qwen3_vl"));
  CHECK(c.family == ModelFamily::kQwen3Vl);
  CHECK(c.text.num_layers == 4);
  CHECK(c.text.width == 64);
  CHECK(c.text.num_heads == 4);
  CHECK(c.text.num_kv_heads == 2);
  CHECK(c.text.head_dim == 16);
  CHECK(c.text.kv_width() == 32);
  CHECK(c.text.ffn_width == 96);
  CHECK(c.text.vocab_size == 320);
  CHECK(c.text.rms_eps == 1e-6);
  CHECK(c.text.rope.theta == 5e6);
  CHECK(c.text.rope.section[0] == 3);
  CHECK(c.text.rope.section[2] == 2);
  CHECK(c.text.rope.layout == MropeLayout::kInterleaved);
  CHECK(c.text.qk_norm);
  CHECK_FALSE(c.text.attention_bias);
  CHECK_FALSE(c.text.tie_word_embeddings);
  CHECK(c.vision.depth == 6);
  CHECK(c.vision.width == 48);
  CHECK(c.vision.out_width == 64);
  CHECK(c.vision.head_dim() == 12);
  CHECK(c.vision.patch_dim() == 3 * 2 * 16 * 16);
  CHECK(c.vision.merged_dim() == 4 * 48);
  CHECK(c.vision.deepstack_layers == std::vector<int>{1, 3, 4});
  CHECK(c.vision.num_position_embeddings == 64);
  CHECK(c.vision.activation == Activation::kGeluTanh);
  CHECK(c.saved_dtype == DType::kF32);
  CHECK(c.image_token_id == 300);
  CHECK(c.vision_end_token_id == 303);
}

TEST_CASE("Qwen2-VL and Qwen2.5-VL, nested and flat") {
  for (const bool is_flat : {false, true}) {
    CAPTURE(is_flat);
    Json j2 = Golden("qwen2_vl"), j25 = Golden("qwen2_5_vl");
    const ModelConfig c2 = Parse(is_flat ? Flattened(j2) : j2);
    CHECK(c2.family == ModelFamily::kQwen2Vl);
    CHECK(c2.text.num_layers == 2);
    CHECK(c2.text.head_dim == 16);
    CHECK(c2.text.attention_bias);
    CHECK_FALSE(c2.text.qk_norm);
    CHECK(c2.text.tie_word_embeddings);
    CHECK(c2.text.rope.theta == 1e6);
    CHECK(c2.text.rope.layout == MropeLayout::kChunked);
    CHECK(c2.text.vocab_size == 320);
    CHECK(c2.vision.width == 48);
    CHECK(c2.vision.out_width == 64);
    CHECK(c2.vision.ffn_width == 192);
    CHECK(c2.vision.activation == Activation::kQuickGelu);
    const ModelConfig c25 = Parse(is_flat ? Flattened(j25) : j25);
    CHECK(c25.vision.ffn_width == 104);
    CHECK(c25.vision.window_size == 56);
    CHECK(c25.vision.full_attention_layers == std::vector<int>{1, 3});
    CHECK(c25.vision.tokens_per_second == 2);
    CHECK_FALSE(c25.text.tie_word_embeddings);
  }
}

TEST_CASE("Qwen3-VL-MoE, with the experts' number under its old and its new name") {
  const Json golden = Golden("qwen3_vl_moe");
  Json old = golden;
  old["text_config"]["num_experts"] = golden["text_config"]["num_local_experts"];
  Json both = old;
  old["text_config"].erase("num_local_experts");
  for (const Json& j : {golden, old, both}) {
    const TextConfig c = Parse(j).text;
    CHECK(c.num_experts == 8);
    CHECK(c.experts_per_token == 2);
    CHECK(c.expert_ffn_width == 40);
    CHECK(c.norm_topk_prob);
    CHECK(c.router_aux_loss_coef == 0);
    CHECK(c.num_moe_layers() == 4);
  }
  CHECK(Parse(Golden("qwen3_vl")).text.num_moe_layers() == 0);

  const std::string text = "config.json: text_config.";
  const auto refusal = [&](const char* key, const Json& value) {
    return Refusal(std::string("/text_config/") + key, value, both);
  };
  CHECK(refusal("num_local_experts", 4) ==
        text + "num_local_experts: 4 here, 8 in num_experts: remove one");
  CHECK(refusal("num_experts_per_tok", 9) == text + "num_experts_per_tok: 9 of 8 experts");
  CHECK(refusal("num_experts_per_tok", nullptr) == text + "num_experts_per_tok: missing");
  CHECK(refusal("norm_topk_prob", false) == text + "norm_topk_prob: qwen3_vl_moe always has true");
  CHECK(refusal("decoder_sparse_step", 0) == text + "decoder_sparse_step: 0 is not a size");
  CHECK(refusal("mlp_only_layers", {4}) == text + "mlp_only_layers: there is no layer 4 among 4");
  CHECK(refusal("mlp_only_layers", {2, 1}) == text + "mlp_only_layers: not in ascending order");
  CHECK(refusal("router_aux_loss_coef", -1.0) == text + "router_aux_loss_coef: -1 is below 0");
  old["text_config"].erase("num_experts");
  CHECK(Refusal("/x", nullptr, old) == text + "num_experts: missing");
}

TEST_CASE("Which layers are sparse") {
  const auto sparse = [](int step, const std::vector<int>& dense) {
    Json j = Golden("qwen3_vl_moe");
    j["text_config"]["decoder_sparse_step"] = step;
    j["text_config"]["mlp_only_layers"] = dense;
    const TextConfig c = Parse(j).text;
    std::vector<int> layers;
    for (int i = 0; i < c.num_layers; ++i) {
      if (c.IsMoeLayer(i)) layers.push_back(i);
    }
    CHECK(c.num_moe_layers() == static_cast<int>(layers.size()));
    return layers;
  };
  CHECK(sparse(1, {}) == std::vector<int>{0, 1, 2, 3});
  CHECK(sparse(2, {}) == std::vector<int>{1, 3});
  CHECK(sparse(3, {}) == std::vector<int>{2});
  CHECK(sparse(1, {0, 3}) == std::vector<int>{1, 2});
  CHECK(sparse(2, {3}) == std::vector<int>{1});
}

TEST_CASE("families are told apart, and unknown ones refused by name") {
  const ModelConfig moe = Parse(Golden("qwen3_vl_moe"));
  CHECK(moe.family == ModelFamily::kQwen3VlMoe);
  CHECK_FALSE(moe.text.tie_word_embeddings);  // true in text_config, false on top
  CHECK(Refusal("/model_type", "qwen2_5_omni_thinker", Golden("qwen2_5_omni")) ==
        "config.json: model_type: 'qwen2_5_omni_thinker' is not known; known are qwen2_vl, "
        "qwen2_5_vl, qwen3_vl, qwen3_vl_moe");
}

TEST_CASE("both spellings together, the nested one incomplete") {
  Json both = Flattened(Golden("qwen2_vl"));
  both["text_config"] = {{"model_type", "qwen2_vl_text"}, {"num_hidden_layers", 2}};
  CHECK(Parse(both).text.width == 64);
  CHECK(Parse(both).text.rope.theta == 1e6);
}

TEST_CASE("rope in the spelling of transformers 4") {
  Json j = Golden("qwen3_vl");
  Json& text = j["text_config"];
  text["rope_scaling"] = {
      {"rope_type", "default"}, {"mrope_section", {3, 3, 2}}, {"mrope_interleaved", true}};
  text["rope_theta"] = 5e6;
  CHECK(Parse(j).text.rope.theta == 5e6);  // both spellings, which agree
  text.erase("rope_parameters");
  CHECK(Parse(j).text.rope.theta == 5e6);
  CHECK(Parse(j).text.rope.section[1] == 3);
  text.erase("rope_theta");
  CHECK(Refusal("/x", nullptr, j) == "config.json: text_config.rope_theta: missing");
  text.erase("rope_scaling");
  CHECK(Refusal("/x", nullptr, j) ==
        "config.json: text_config.rope_parameters: missing (mrope_section and rope_theta)");
}

TEST_CASE("dtype under its old and new name") {
  Json j = Golden("qwen3_vl");
  j["dtype"] = "bfloat16";
  CHECK(Parse(j).saved_dtype == DType::kBF16);
  j.erase("dtype");
  CHECK(Parse(j).saved_dtype == DType::kF32);
  j["text_config"]["dtype"] = "float16";
  CHECK(Parse(j).saved_dtype == DType::kF16);
  j["torch_dtype"] = "bfloat16";
  CHECK(Parse(j).saved_dtype == DType::kBF16);
  CHECK(Refusal("/dtype", "float8_e4m3fn") ==
        "config.json: dtype: 'float8_e4m3fn' is not implemented");
}

TEST_CASE("a partial vision_config takes the defaults of its family") {
  Json j = Golden("qwen3_vl");
  j["text_config"]["num_hidden_layers"] = 3;
  j["vision_config"] = {{"model_type", "qwen3_vl"}, {"in_chans", 3}, {"spatial_patch_size", 16}};
  const VisionConfig v = Parse(j).vision;
  CHECK(v.depth == 27);
  CHECK(v.width == 1152);
  CHECK(v.ffn_width == 4304);
  CHECK(v.out_width == 64);
  CHECK(v.patch_size == 16);
  CHECK(v.num_position_embeddings == 2304);
  CHECK(v.deepstack_layers == std::vector<int>{8, 16, 24});

  Json j25 = Golden("qwen2_5_vl");
  j25["vision_config"] = {{"hidden_size", 1280}, {"in_chans", 3}, {"tokens_per_second", 2}};
  CHECK(Parse(j25).vision.ffn_width == 3420);
  CHECK(Parse(j25).vision.window_size == 112);
  CHECK(Parse(j25).vision.out_width == 64);
  j25["vision_config"].erase("tokens_per_second");
  CHECK(Refusal("/x", nullptr, j25) == "config.json: vision_config.tokens_per_second: missing");
}

TEST_CASE("the top level decides on tied embeddings") {
  Json j = Golden("qwen3_vl");
  j["text_config"]["tie_word_embeddings"] = true;
  CHECK_FALSE(Parse(j).text.tie_word_embeddings);
  j.erase("tie_word_embeddings");
  CHECK(Parse(j).text.tie_word_embeddings);
}

TEST_CASE("a sliding window that is switched off is void") {
  Json j = Golden("qwen2_vl");
  j["text_config"]["sliding_window"] = 4096;
  CHECK_NOTHROW(Parse(j));
  CHECK(Refusal("/text_config/use_sliding_window", true, j) ==
        "config.json: text_config.use_sliding_window: sliding windows are not implemented");
  CHECK(Refusal("/text_config/layer_types", {"full_attention", "sliding_attention"}, j) ==
        "config.json: text_config.layer_types: \"sliding_attention\" is not implemented");
}

TEST_CASE("what would change the numbers is refused") {
  const std::string text = "config.json: text_config.", vision = "config.json: vision_config.";
  CHECK(Refusal("/text_config/rope_parameters/rope_type", "yarn") ==
        text + "rope_parameters.rope_type: 'yarn' is not implemented, only default is");
  CHECK(Refusal("/text_config/rope_parameters/factor", 2.0) ==
        text + "rope_parameters.factor: not implemented");
  CHECK(Refusal("/text_config/rope_parameters/mrope_interleaved", false) ==
        text + "rope_parameters.mrope_interleaved: qwen3_vl always has true");
  CHECK(Refusal("/text_config/rope_parameters/mrope_section", {3, 3, 3}) ==
        text +
            "rope_parameters.mrope_section: expected 3 counts with a sum of 8 (half of head_dim), "
            "got [3,3,3]");
  CHECK(Refusal("/text_config/rope_theta", 1e6) ==
        text + "rope_theta: 1000000 here, 5000000 in rope_parameters: remove one");
  CHECK(Refusal("/text_config/rope_scaling", {{"mrope_section", {2, 3, 3}}}) ==
        text + "rope_scaling: its mrope_section is not that of rope_parameters");
  CHECK(Refusal("/text_config/attention_dropout", 0.1) ==
        text + "attention_dropout: 0.1 would act in training and is not implemented; set it to 0");
  CHECK(Refusal("/text_config/attention_bias", true) ==
        text + "attention_bias: true is not implemented for qwen3_vl");
  CHECK(Refusal("/text_config/hidden_act", "relu") ==
        text +
            "hidden_act: 'relu' is not implemented; known are silu, gelu, gelu_pytorch_tanh, "
            "quick_gelu");
  CHECK(Refusal("/quantization_config", {{"bits", 4}}) ==
        "config.json: quantization_config: quantized weights cannot be trained; start from the "
        "unquantized model");
  CHECK(Refusal("/vision_config/rope_parameters/rope_type", "yarn") ==
        vision + "rope_parameters.rope_type: 'yarn' is not implemented");
}

TEST_CASE("sizes that do not fit each other are refused") {
  const std::string text = "config.json: text_config.", vision = "config.json: vision_config.";
  CHECK(Refusal("/text_config", nullptr) == "config.json: text_config: missing");
  CHECK(Refusal("/text_config", 3) ==
        "config.json: text_config: expected an object of keys, got 3");
  CHECK(Refusal("/text_config/hidden_size", nullptr) == text + "hidden_size: missing");
  CHECK(Refusal("/text_config/hidden_size", "64") ==
        text + "hidden_size: expected an integer, got \"64\"");
  CHECK(Refusal("/text_config/hidden_size", 0) == text + "hidden_size: 0 is not a size");
  CHECK(Refusal("/text_config/head_dim", 15) == text + "head_dim: 15 is odd");
  CHECK(Refusal("/text_config/num_key_value_heads", 3) ==
        text + "num_key_value_heads: 4 query heads do not share 3 kv heads evenly");
  CHECK(Refusal("/vision_config/num_heads", 5) ==
        vision + "num_heads: 5 heads do not split a width of 48 into multiples of 4");
  CHECK(Refusal("/vision_config/out_hidden_size", 63) ==
        vision + "out_hidden_size: 63 is not the LLM's hidden_size, 64");
  CHECK(Refusal("/vision_config/num_position_embeddings", 63) ==
        vision + "num_position_embeddings: 63 is not a square");
  CHECK(Refusal("/vision_config/deepstack_visual_indexes", {1, 3, 6}) ==
        vision + "deepstack_visual_indexes: there is no layer 6 among 6");
  CHECK(Refusal("/vision_config/deepstack_visual_indexes", {3, 1}) ==
        vision + "deepstack_visual_indexes: not in ascending order");
  CHECK(Refusal("/vision_config/deepstack_visual_indexes", {0, 1, 2, 3, 4}) ==
        vision + "deepstack_visual_indexes: 5 features for an LLM of 4 layers");
  CHECK(Refusal("/image_token_id", 320) ==
        "config.json: image_token_id: 320 is not an id of a vocabulary of 320");
  CHECK(Refusal("/image_token_id", nullptr) == "config.json: image_token_id: missing");
}

TEST_CASE("a directory without config.json is named") {
  try {
    LoadModelConfig("/tmp/omnitrain-no-such-model");
    FAIL("loaded");
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kSpec);
    CHECK(
        std::string(e.what()) ==
        "model.hf: /tmp/omnitrain-no-such-model/config.json: no such file; expected a Hugging Face "
        "model directory");
  }
}

const char* const kArch = R"({"family": "qwen3_vl", "tie_word_embeddings": true,
  "text": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
           "rope_parameters": {"rope_theta": 10000, "mrope_section": [4, 2, 2]}},
  "vision": {"depth": 2, "hidden_size": 48, "num_heads": 4, "intermediate_size": 96,
             "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}})";

TEST_CASE("model.arch leaves the vocabulary to the tokenizer") {
  ModelConfig c = ModelConfigFromArch(kArch);
  CHECK(c.text.vocab_size == -1);
  CHECK(c.image_token_id == -1);
  CHECK(c.text.tie_word_embeddings);
  CHECK(c.text.rope.theta == 1e4);
  CHECK(c.vision.patch_size == 16);
  SetVocabulary(561, &c);
  CHECK(c.text.vocab_size == 576);
  CHECK_NOTHROW(SetVocabulary(576, &c));
  CHECK(c.text.vocab_size == 576);
  try {
    SetVocabulary(577, &c);
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(std::string(e.what()) ==
          "the model's vocab_size, 576, is less than the tokenizer's 577 ids; the tokenizer "
          "belongs to another model");
  }
}

TEST_CASE("model.arch is strict") {
  Json j = Json::parse(kArch);
  j["text"]["hidden_siz"] = 3;
  CHECK(ArchRefusal(j.dump()) ==
        "model.arch: unknown key 'text.hidden_siz'; did you mean 'text.hidden_size'?");
  j["text"].erase("hidden_siz");
  j["text"].erase("head_dim");
  CHECK(ArchRefusal(j.dump()) == "model.arch: text.head_dim: missing");
  j["text"]["head_dim"] = 16;
  j["vision"].erase("depth");
  CHECK(ArchRefusal(j.dump()) == "model.arch: vision.depth: missing");
  j["family"] = "qwen2_vl";
  CHECK(ArchRefusal(j.dump()) == "model.arch: vision.depth: missing");
  j["family"] = "qwen9_vl";
  CHECK_THAT(ArchRefusal(j.dump()), Catch::Matchers::Contains("qwen9_vl"));
  CHECK(ArchRefusal("{}") == "model.arch: family: missing");
}

TEST_CASE("model.arch of a mixture of experts") {
  Json j = Json::parse(kArch);
  j["family"] = "qwen3_vl_moe";
  CHECK(ArchRefusal(j.dump()) == "model.arch: text.num_experts: missing");
  j["text"]["num_experts"] = 16;
  j["text"]["num_experts_per_tok"] = 4;
  CHECK(ArchRefusal(j.dump()) == "model.arch: text.moe_intermediate_size: missing");
  j["text"]["moe_intermediate_size"] = 24;
  j["text"]["mlp_only_layers"] = {0};
  const TextConfig c = ModelConfigFromArch(j.dump()).text;
  CHECK(c.num_experts == 16);
  CHECK(c.experts_per_token == 4);
  CHECK(c.expert_ffn_width == 24);
  CHECK(c.num_moe_layers() == 1);
  CHECK(c.router_aux_loss_coef == 0.001);
  j["family"] = "qwen3_vl";
  CHECK_THAT(ArchRefusal(j.dump()), Catch::Matchers::Contains("unknown key 'text.num_experts'"));
}

TEST_CASE("what is written reads back the same") {
  ModelConfig c = ModelConfigFromArch(kArch);
  SetVocabulary(600, &c);
  c.image_token_id = 596;
  c.video_token_id = 597;
  c.vision_start_token_id = 598;
  c.vision_end_token_id = 599;
  c.saved_dtype = DType::kBF16;
  const Json written = ToHfConfig(c);
  const ModelConfig again = Parse(written);
  CHECK(ToHfConfig(again) == written);
  CHECK(again.text.rope.theta == 1e4);
  CHECK(again.text.vocab_size == 640);
  CHECK(again.text.tie_word_embeddings);
  CHECK(again.vision.deepstack_layers == std::vector<int>{0});
  CHECK(again.saved_dtype == DType::kBF16);

  for (const char* family : {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"}) {
    const Json once = ToHfConfig(Parse(Golden(family)));
    CHECK(once.at("model_type") == family);
    CHECK(ToHfConfig(Parse(once)) == once);
    // Every size of the original is in what is written.
    for (const char* part : {"text_config", "vision_config"}) {
      for (const auto& [key, value] : Golden(family).at(part).items()) {
        if (value.is_number_integer() && once.at(part).contains(key)) {
          CHECK(once.at(part).at(key) == value);
        }
      }
    }
  }
}

}  // namespace
}  // namespace omnitrain
