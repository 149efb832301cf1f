#include "data/tokenizer/tokenizer_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>

#include "core/base/check.h"
#include "core/base/json.h"
#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/unicode.h"

namespace omnitrain {
namespace {

// Not core/base's Json: its objects keep the order of keys and search linearly, too slow for
// 150,000 of them.
using Object = nlohmann::json;
using IdOfText = std::unordered_map<std::string_view, int32_t>;

constexpr char kGpt2Pattern[] =
    R"re('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)re";

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  TokenizerFile Read() {
    const std::string text = ReadFile(path_, ErrorCode::kData);
    try {
      const Object root = Object::parse(text);
      OT_REQUIRE(root.is_object(), ErrorCode::kData, "{}: not a tokenizer.json: no object", path_);
      Normalizer(Part(root, "normalizer"));
      PreTokenizerPart(Part(root, "pre_tokenizer"));
      OT_REQUIRE(
          has_byte_level_, ErrorCode::kData,
          "{}: pre_tokenizer has no ByteLevel entry: only byte-level tokenizers are supported",
          path_);
      Model(Part(root, "model"));
      AddedTokens(Part(root, "added_tokens"));
      Decoder(Part(root, "decoder"));
      PostProcessor(Part(root, "post_processor"));
    } catch (const Object::exception& e) {
      Fail(ErrorCode::kData, "{}: not a tokenizer.json: {}", path_, e.what());
    }
    return std::move(file_);
  }

 private:
  static const Object& Part(const Object& object, const char* key) {
    static const Object null;
    const auto it = object.find(key);
    return it == object.end() ? null : *it;
  }
  static bool Flag(const Object& object, const char* key, bool fallback = false) {
    const auto it = object.find(key);
    return it == object.end() || it->is_null() ? fallback : it->get<bool>();
  }
  static std::string Type(const Object& object) { return object.value("type", std::string()); }

  [[noreturn]] void Unsupported(const char* part, const std::string& what) const {
    Fail(ErrorCode::kData, "{}: {} {} is not supported (byte-level BPE tokenizers are)", path_,
         part, what);
  }

  void Normalizer(const Object& part) {
    if (part.is_null()) return;
    if (Type(part) == "NFC") {
      file_.nfc = true;
    } else if (Type(part) == "Sequence") {
      for (const Object& step : part.at("normalizers")) Normalizer(step);
    } else {
      Unsupported("normalizer", Type(part));
    }
  }

  void PreTokenizerPart(const Object& part) {
    if (part.is_null()) return;
    const std::string type = Type(part);
    using Kind = SplitRule::Kind;
    if (type == "Sequence") {
      for (const Object& step : part.at("pretokenizers")) PreTokenizerPart(step);
      return;
    }
    if (has_byte_level_) Unsupported("pre_tokenizer", type + " behind ByteLevel");
    if (type == "Split") {
      const Object& pattern = part.at("pattern");
      if (!pattern.contains("Regex")) Unsupported("pre_tokenizer", "Split by a fixed string");
      const std::string behavior = part.at("behavior").get<std::string>();
      const bool invert = Flag(part, "invert");
      const bool isolated = behavior == "Isolated" && !invert;
      const bool matches_only = behavior == "Removed" && invert;
      if (!isolated && !matches_only) {
        Unsupported("pre_tokenizer", "Split " + behavior + (invert ? " inverted" : ""));
      }
      file_.split_rules.push_back(
          {isolated ? Kind::kMatches : Kind::kMatchesOnly, pattern.at("Regex").get<std::string>()});
    } else if (type == "Digits") {
      file_.split_rules.push_back(
          {Kind::kMatches, Flag(part, "individual_digits") ? "\\p{N}" : "\\p{N}+"});
    } else if (type == "ByteLevel") {
      if (Flag(part, "add_prefix_space")) file_.split_rules.push_back({Kind::kPrefixSpace, ""});
      if (Flag(part, "use_regex", true))
        file_.split_rules.push_back({Kind::kMatches, kGpt2Pattern});
      has_byte_level_ = true;
    } else {
      Unsupported("pre_tokenizer", type);
    }
  }

  void Model(const Object& model) {
    OT_REQUIRE(model.is_object(), ErrorCode::kData, "{}: no model", path_);
    const std::string type = model.value("type", std::string("BPE"));  // old files leave it out
    if (type != "BPE") Unsupported("model", type);
    if (Flag(model, "byte_fallback")) Unsupported("model", "byte_fallback");
    const Object& dropout = Part(model, "dropout");
    if (!dropout.is_null() && dropout.get<double>() != 0) Unsupported("model", "dropout");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Object& affix = Part(model, key);
      if (!affix.is_null() && !affix.get<std::string>().empty()) Unsupported("model", key);
    }
    file_.ignore_merges = Flag(model, "ignore_merges");
    for (const auto& [text, id] : model.at("vocab").items()) {
      file_.vocab.push_back({text, id.get<int32_t>()});
    }
    std::sort(file_.vocab.begin(), file_.vocab.end(),
              [](const auto& a, const auto& b) { return a.id < b.id; });
    for (size_t i = 0; i < file_.vocab.size(); ++i) {
      OT_REQUIRE(file_.vocab[i].id >= 0 && (i == 0 || file_.vocab[i].id != file_.vocab[i - 1].id),
                 ErrorCode::kData, "{}: token {}: id {} is negative or taken", path_,
                 file_.vocab[i].text, file_.vocab[i].id);
      id_of_text_[file_.vocab[i].text] = file_.vocab[i].id;
    }
    const Object& merges = model.at("merges");
    for (size_t rank = 0; rank < merges.size(); ++rank) AddMerge(merges[rank], rank);
  }

  void AddMerge(const Object& merge, size_t rank) {
    std::string left, right;
    if (merge.is_string()) {
      const auto& both = merge.get_ref<const std::string&>();
      const size_t space = both.find(' ');
      OT_REQUIRE(space != std::string::npos, ErrorCode::kData, "{}: merge {}: '{}' has no space",
                 path_, rank, both);
      left = both.substr(0, space);
      right = both.substr(space + 1);
    } else {
      left = merge.at(0).get<std::string>();
      right = merge.at(1).get<std::string>();
    }
    const auto id = [&](const std::string& token) {
      const auto it = id_of_text_.find(token);
      OT_REQUIRE(it != id_of_text_.end(), ErrorCode::kData,
                 "{}: merge {} of '{}' and '{}': the vocabulary has no '{}'", path_, rank, left,
                 right, token);
      return it->second;
    };
    file_.merges.push_back({id(left), id(right), id(left + right)});
  }

  void AddedTokens(const Object& part) {
    if (part.is_null()) return;
    auto next_id = static_cast<int32_t>(file_.vocab.size());
    for (const Object& entry : part) {
      AddedToken token;
      token.id = entry.at("id").get<int32_t>();
      token.content = entry.at("content").get<std::string>();
      token.special = Flag(entry, "special");
      token.normalized = Flag(entry, "normalized", !token.special);
      token.single_word = Flag(entry, "single_word");
      token.lstrip = Flag(entry, "lstrip");
      token.rstrip = Flag(entry, "rstrip");
      OT_REQUIRE(!token.content.empty(), ErrorCode::kData, "{}: added token {} is empty", path_,
                 token.id);
      // Hugging Face numbers added tokens itself; a file that says otherwise would be read as other
      // ids there.
      const auto in_vocab = id_of_text_.find(token.content);
      const int32_t expected = in_vocab != id_of_text_.end() ? in_vocab->second : next_id;
      OT_REQUIRE(token.id == expected, ErrorCode::kData,
                 "{}: added token '{}' has id {} where Hugging Face tokenizers would give it {}",
                 path_, token.content, token.id, expected);
      if (in_vocab == id_of_text_.end()) ++next_id;
      file_.added_tokens.push_back(std::move(token));
    }
  }

  void Decoder(const Object& part) const {
    if (part.is_null()) Unsupported("decoder", "null");
    if (Type(part) == "ByteLevel") return;
    if (Type(part) == "Sequence" && part.at("decoders").size() == 1) {
      return Decoder(part.at("decoders")[0]);
    }
    Unsupported("decoder", Type(part));
  }

  void PostProcessor(const Object& part) {
    if (part.is_null() || Type(part) == "ByteLevel") return;  // ByteLevel moves offsets only
    if (Type(part) == "Sequence") {
      for (const Object& step : part.at("processors")) PostProcessor(step);
      return;
    }
    if (Type(part) != "TemplateProcessing") Unsupported("post_processor", Type(part));
    bool before = true;
    for (const Object& piece : part.at("single")) {
      if (piece.contains("Sequence")) {
        OT_REQUIRE(before, ErrorCode::kData, "{}: post_processor repeats the text", path_);
        before = false;
        continue;
      }
      const std::string name = piece.at("SpecialToken").at("id").get<std::string>();
      for (const Object& id : part.at("special_tokens").at(name).at("ids")) {
        (before ? file_.prefix_ids : file_.suffix_ids).push_back(id.get<int32_t>());
      }
    }
    OT_REQUIRE(!before, ErrorCode::kData, "{}: post_processor leaves the text out", path_);
  }

  const std::string& path_;
  TokenizerFile file_;
  IdOfText id_of_text_;  // views of file_.vocab
  bool has_byte_level_ = false;
};

}  // namespace

TokenizerFile ReadTokenizerFile(const std::string& path) { return Reader(path).Read(); }

}  // namespace omnitrain
