#include "data/tokenizer/trainer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "core/base/check.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/bpe_learner.h"
#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/unicode.h"
#include "data/tokenizer/word_counts.h"

namespace omnitrain {
namespace {

constexpr size_t kFilePart = size_t{8} << 20;

constexpr char kChatTemplate[] =
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ['image', 'image_url'] %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

// Where `text` may be cut without cutting a word: behind the last line break that no white space
// follows.
size_t LastCut(std::string_view text) {
  for (size_t i = text.size(); i-- > 1;) {
    if (text[i - 1] == '\n' && !std::strchr(" \t\r\n\v\f", text[i])) return i;
  }
  return 0;
}

Json AddedTokenJson(const std::string& content) {
  return {{"content", content}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false},    {"normalized", false},  {"special", true}};
}

// The vocabulary and the merges are written by hand: a Json object searches its keys one by one.
std::string ModelText(const LearnedBpe& bpe) {
  const auto quoted = [&](int32_t id) {
    return Json(BytesToText(bpe.tokens[static_cast<size_t>(id)])).dump();
  };
  std::string text = R"({"type": "BPE", "dropout": null, "unk_token": null,)"
                     R"( "continuing_subword_prefix": null, "end_of_word_suffix": null,)"
                     R"( "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,)"
                     "\n  \"vocab\": {";
  for (int32_t id = 0; id < static_cast<int32_t>(bpe.tokens.size()); ++id) {
    text += fmt::format("{}\n    {}: {}", id == 0 ? "" : ",", quoted(id), id);
  }
  text += "\n  },\n  \"merges\": [";
  for (size_t i = 0; i < bpe.merges.size(); ++i) {
    text += fmt::format("{}\n    [{}, {}]", i == 0 ? "" : ",", quoted(bpe.merges[i].left),
                        quoted(bpe.merges[i].right));
  }
  return text + "\n  ]\n }";
}

std::string TokenizerText(const LearnedBpe& bpe, const std::vector<std::string>& special_tokens) {
  Json added = Json::array();
  for (size_t i = 0; i < special_tokens.size(); ++i) {
    Json token = {{"id", bpe.tokens.size() + i}};
    token.update(AddedTokenJson(special_tokens[i]));
    added.push_back(std::move(token));
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", false},
                           {"use_regex", false}};
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", std::string(kQwenPattern)}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const Json pre_tokenizer = {{"type", "Sequence"},
                              {"pretokenizers", Json::array({split, byte_level})}};
  return fmt::format(
      "{{\n \"version\": \"1.0\",\n \"truncation\": null,\n \"padding\": null,\n"
      " \"added_tokens\": {},\n \"normalizer\": {{\"type\": \"NFC\"}},\n \"pre_tokenizer\": {},\n"
      " \"post_processor\": null,\n \"decoder\": {},\n \"model\": {}\n}}\n",
      added.dump(), pre_tokenizer.dump(), byte_level.dump(), ModelText(bpe));
}

std::string ConfigText(const LearnedBpe& bpe, const std::vector<std::string>& special_tokens) {
  const auto has = [&](const char* token) {
    return std::find(special_tokens.begin(), special_tokens.end(), token) != special_tokens.end();
  };
  Json decoder = Json::object();
  for (size_t i = 0; i < special_tokens.size(); ++i) {
    decoder[std::to_string(bpe.tokens.size() + i)] = AddedTokenJson(special_tokens[i]);
  }
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"added_tokens_decoder", decoder},
                 {"additional_special_tokens", special_tokens},
                 {"clean_up_tokenization_spaces", false},
                 {"model_max_length", 131072}};
  if (has("<|endoftext|>")) config["pad_token"] = "<|endoftext|>";
  if (has("<|im_end|>")) config["eos_token"] = "<|im_end|>";
  if (has("<|im_start|>") && has("<|im_end|>")) config["chat_template"] = kChatTemplate;
  return config.dump(1) + "\n";
}

}  // namespace

std::vector<std::string> QwenSpecialTokens() {
  return {"<|endoftext|>",      "<|im_start|>",     "<|im_end|>",      "<|object_ref_start|>",
          "<|object_ref_end|>", "<|box_start|>",    "<|box_end|>",     "<|quad_start|>",
          "<|quad_end|>",       "<|vision_start|>", "<|vision_end|>",  "<|vision_pad|>",
          "<|image_pad|>",      "<|video_pad|>",    "<|audio_start|>", "<|audio_end|>",
          "<|audio_pad|>"};
}

struct TokenizerTrainer::State {
  explicit State(TokenizerTraining options)
      : training(std::move(options)),
        pre_tokenizer({{SplitRule::Kind::kMatches, std::string(kQwenPattern)}},
                      "tokenizer trainer") {}

  TokenizerTraining training;
  PreTokenizer pre_tokenizer;
  AddedTokenMatcher special_tokens;
  WordCounts words;
};

TokenizerTrainer::TokenizerTrainer(TokenizerTraining training)
    : state_(std::make_unique<State>(std::move(training))) {
  const auto& specials = state_->training.special_tokens;
  const size_t least = 256 + specials.size();
  OT_REQUIRE(
      state_->training.vocab_size >= static_cast<int>(least), ErrorCode::kSpec,
      "a vocabulary of {} has no room for 256 bytes and {} special tokens: ask for {} or more",
      state_->training.vocab_size, specials.size(), least);
  OT_REQUIRE(state_->training.min_count >= 1, ErrorCode::kSpec, "min_count {} is not positive",
             state_->training.min_count);
  std::vector<AddedToken> tokens;
  for (size_t i = 0; i < specials.size(); ++i) {
    OT_REQUIRE(!specials[i].empty() && IsValidUtf8(specials[i]) &&
                   std::find(specials.begin(), specials.begin() + static_cast<std::ptrdiff_t>(i),
                             specials[i]) == specials.begin() + static_cast<std::ptrdiff_t>(i),
               ErrorCode::kSpec, "special token {} ('{}') is empty, not UTF-8 or there twice", i,
               specials[i]);
    AddedToken token;
    token.content = specials[i];
    tokens.push_back(token);
  }
  state_->special_tokens = AddedTokenMatcher(std::move(tokens));
}

TokenizerTrainer::~TokenizerTrainer() = default;

void TokenizerTrainer::AddText(std::string_view text) {
  std::string valid;
  if (!IsValidUtf8(text)) {
    valid = ReplaceInvalidUtf8(text);
    text = valid;
  }
  const auto count = [&](std::string_view word) { state_->words.Add(word); };
  state_->special_tokens.Split(
      text,
      [&](std::string_view part) {
        if (IsSurelyNfc(part)) return state_->pre_tokenizer.Split(part, count);
        state_->pre_tokenizer.Split(NormalizeNfc(part), count);
      },
      [](int32_t) {});
}

void TokenizerTrainer::AddFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  OT_REQUIRE(in.is_open() && !std::filesystem::is_directory(path), ErrorCode::kData,
             "{}: cannot open: {}", path, std::strerror(errno != 0 ? errno : EISDIR));
  std::string part;
  while (true) {
    const size_t kept = part.size();
    part.resize(kept + kFilePart);
    in.read(&part[kept], static_cast<std::streamsize>(kFilePart));
    part.resize(kept + static_cast<size_t>(in.gcount()));
    OT_REQUIRE(!in.bad(), ErrorCode::kData, "{}: cannot read: {}", path, std::strerror(errno));
    if (in.eof()) break;
    const size_t cut = LastCut(part);
    AddText(std::string_view(part).substr(0, cut));
    part.erase(0, cut);
  }
  AddText(part);
}

int TokenizerTrainer::Write(const std::string& dir) const {
  OT_REQUIRE(state_->words.size() > 0, ErrorCode::kData,
             "no text to train a tokenizer on: the files are empty");
  const TokenizerTraining& training = state_->training;
  const int num_tokens = training.vocab_size - static_cast<int>(training.special_tokens.size());
  const LearnedBpe bpe = LearnBpe(state_->words, num_tokens, training.min_count);
  const int vocab_size = static_cast<int>(bpe.tokens.size() + training.special_tokens.size());
  if (vocab_size < training.vocab_size) {
    Log("data",
        "tokenizer: the text supports a vocabulary of {}, not {}: no other pair occurs {} times",
        vocab_size, training.vocab_size, training.min_count);
  }
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  OT_REQUIRE(!error, ErrorCode::kSpec, "{}: cannot create: {}", dir, error.message());
  WriteFileAtomically(dir + "/tokenizer.json", TokenizerText(bpe, training.special_tokens),
                      ErrorCode::kSpec);
  WriteFileAtomically(dir + "/tokenizer_config.json", ConfigText(bpe, training.special_tokens),
                      ErrorCode::kSpec);
  return vocab_size;
}

int TrainTokenizer(const std::vector<std::string>& files, const TokenizerTraining& training,
                   const std::string& dir) {
  TokenizerTrainer trainer(training);
  for (const std::string& file : files) trainer.AddFile(file);
  return trainer.Write(dir);
}

}  // namespace omnitrain
