#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace omnitrain {

/// A byte-level BPE tokenizer read from a Hugging Face tokenizer.json (GPT-2, Llama-3, Qwen2/3 and
/// their kin): the same ids and the same text as the Hugging Face tokenizers library gives. A
/// value: copies share the tables. Thread safe: all threads may share one.
class Tokenizer {
 public:
  /// Errors: kData with the path and what is broken or not supported (WordPiece, Unigram, byte
  /// fallback, ...).
  static Tokenizer Load(const std::string& tokenizer_json_path);

  /// The tokens of `text`. Added tokens in it are found as in Hugging Face: a literal
  /// "<|image_pad|>" becomes that token. Bytes that are not UTF-8 are read as U+FFFD, as Python's
  /// errors="replace" does. `add_special`: with the tokens that the post-processor puts around a
  /// text (BOS of Llama-3; Qwen has none). Chat templates write theirs themselves. Errors: kData
  /// for a byte that the vocabulary lacks. Cost: linear in the text, n log n in runs that no
  /// pattern cuts.
  std::vector<int32_t> Encode(std::string_view text, bool add_special = false) const;

  /// The text of tokens; bytes that form no UTF-8 become U+FFFD. Ids without a token (padded
  /// vocabulary rows) give nothing.
  std::string Decode(const int32_t* ids, size_t num_ids, bool skip_special = false) const;
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special = false) const {
    return Decode(ids.data(), ids.size(), skip_special);
  }

  /// The id of a token written as in tokenizer.json ("<|im_end|>", "\u0120the").
  std::optional<int32_t> TokenId(std::string_view token) const;

  /// A token as written in tokenizer.json; empty for an id without one.
  std::string_view TokenText(int32_t id) const;

  /// The bytes that a token adds to decoded text; empty for an id without a token.
  std::string_view TokenBytes(int32_t id) const;

  /// True for added tokens that are marked special.
  bool IsSpecial(int32_t id) const;

  /// Largest id + 1. A model may have more rows.
  int vocab_size() const;

 private:
  struct State;
  explicit Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

}  // namespace omnitrain
