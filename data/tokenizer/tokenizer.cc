#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "core/base/check.h"
#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/tokenizer_file.h"
#include "data/tokenizer/unicode.h"
#include "data/tokenizer/word_cache.h"

namespace omnitrain {
namespace {

struct Token {
  std::string text;
  std::string bytes;
  bool special = false;
};

BpeModel::ByteIds ByteIdsOf(const std::unordered_map<std::string_view, int32_t>& id_of_text) {
  BpeModel::ByteIds ids;
  for (int b = 0; b < 256; ++b) {
    const auto it = id_of_text.find(BytesToText(std::string(1, static_cast<char>(b))));
    ids[static_cast<size_t>(b)] = it == id_of_text.end() ? -1 : it->second;
  }
  return ids;
}

}  // namespace

struct Tokenizer::State {
  State(TokenizerFile file, const std::string& path)
      : nfc(file.nfc),
        ignore_merges(file.ignore_merges),
        prefix_ids(std::move(file.prefix_ids)),
        suffix_ids(std::move(file.suffix_ids)),
        pre_tokenizer(file.split_rules, path) {
    int32_t last_id = -1;
    for (const auto& entry : file.vocab) last_id = std::max(last_id, entry.id);
    for (const auto& token : file.added_tokens) last_id = std::max(last_id, token.id);
    tokens.resize(static_cast<size_t>(last_id) + 1);
    for (auto& entry : file.vocab) tokens[static_cast<size_t>(entry.id)].text = entry.text;
    for (auto& added : file.added_tokens) {
      Token& token = tokens[static_cast<size_t>(added.id)];
      token.text = added.content;
      token.special = added.special;
    }
    for (size_t id = 0; id < tokens.size(); ++id) {
      // As Hugging Face's decoder: also added tokens go through the byte alphabet, or stay where it
      // has no such letter.
      tokens[id].bytes = TextToBytes(tokens[id].text).value_or(tokens[id].text);
      if (!tokens[id].text.empty()) id_of_text[tokens[id].text] = static_cast<int32_t>(id);
    }
    if (ignore_merges) {
      for (const auto& entry : file.vocab) {
        if (const auto bytes = TextToBytes(entry.text)) id_of_word[*bytes] = entry.id;
      }
    }
    bpe = std::make_unique<BpeModel>(ByteIdsOf(id_of_text), file.merges);
    std::vector<AddedToken> raw, normalized;
    for (auto& added : file.added_tokens) {
      if (added.normalized && nfc) added.content = NormalizeNfc(added.content);
      (added.normalized ? normalized : raw).push_back(std::move(added));
    }
    raw_tokens = AddedTokenMatcher(std::move(raw));
    normalized_tokens = AddedTokenMatcher(std::move(normalized));
  }

  void EncodeWord(std::string_view word, std::vector<int32_t>* ids) const {
    const uint64_t hash = WordCache::Hash(word);
    if (cache.Find(word, hash, ids)) return;
    const size_t first = ids->size();
    const auto whole = ignore_merges ? id_of_word.find(std::string(word)) : id_of_word.end();
    if (whole != id_of_word.end()) {
      ids->push_back(whole->second);
    } else {
      bpe->Encode(word, ids);
    }
    cache.Insert(word, hash, ids->data() + first, ids->size() - first);
  }

  // Text between the added tokens of the raw text.
  void EncodeText(std::string_view text, std::vector<int32_t>* ids) const {
    std::string normal;
    if (nfc && !IsSurelyNfc(text)) {
      normal = NormalizeNfc(text);
      text = normal;
    }
    const auto on_word = [&](std::string_view word) { EncodeWord(word, ids); };
    normalized_tokens.Split(
        text, [&](std::string_view part) { pre_tokenizer.Split(part, on_word); },
        [&](int32_t id) { ids->push_back(id); });
  }

  bool nfc;
  bool ignore_merges;
  std::vector<int32_t> prefix_ids;
  std::vector<int32_t> suffix_ids;
  PreTokenizer pre_tokenizer;
  std::vector<Token> tokens;                                 // by id
  std::unordered_map<std::string_view, int32_t> id_of_text;  // views of tokens
  std::unordered_map<std::string, int32_t> id_of_word;  // bytes of whole words, with ignore_merges
  std::unique_ptr<const BpeModel> bpe;
  AddedTokenMatcher raw_tokens;
  AddedTokenMatcher normalized_tokens;
  mutable WordCache cache;
};

Tokenizer Tokenizer::Load(const std::string& path) {
  return Tokenizer(std::make_shared<const State>(ReadTokenizerFile(path), path));
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, bool add_special) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (add_special) ids = state_->prefix_ids;
  std::string replaced;
  if (!IsValidUtf8(text)) {
    replaced = ReplaceInvalidUtf8(text);
    text = replaced;
  }
  state_->raw_tokens.Split(
      text, [&](std::string_view part) { state_->EncodeText(part, &ids); },
      [&](int32_t id) { ids.push_back(id); });
  if (add_special) ids.insert(ids.end(), state_->suffix_ids.begin(), state_->suffix_ids.end());
  return ids;
}

std::string Tokenizer::Decode(const int32_t* ids, size_t num_ids, bool skip_special) const {
  std::string bytes;
  for (size_t i = 0; i < num_ids; ++i) {
    if (skip_special && IsSpecial(ids[i])) continue;
    bytes += TokenBytes(ids[i]);
  }
  return IsValidUtf8(bytes) ? bytes : ReplaceInvalidUtf8(bytes);
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view token) const {
  const auto it = state_->id_of_text.find(token);
  if (it == state_->id_of_text.end()) return std::nullopt;
  return it->second;
}

std::string_view Tokenizer::TokenText(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return state_->tokens[static_cast<size_t>(id)].text;
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return state_->tokens[static_cast<size_t>(id)].bytes;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && state_->tokens[static_cast<size_t>(id)].special;
}

int Tokenizer::vocab_size() const { return static_cast<int>(state_->tokens.size()); }

}  // namespace omnitrain
