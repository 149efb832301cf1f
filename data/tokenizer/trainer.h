#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace omnitrain {

/// The special tokens of the Qwen-VL chat formats in their order, then those of Qwen3-Omni's audio.
std::vector<std::string> QwenSpecialTokens();

struct TokenizerTraining {
  int vocab_size = 32000;  // in all: 256 bytes, merges, special tokens
  int64_t min_count = 2;   // a pair that occurs less often is not merged
  std::vector<std::string> special_tokens = QwenSpecialTokens();
};

/// Trains a byte-level BPE tokenizer with Qwen's pre-tokenizer and NFC.
/// Special tokens take the last ids, in the order given; in the training text they only cut.
/// Deterministic: a pure function of the texts in order (and, but for the texts' borders, of their
/// multiset): the most frequent pair is merged first, of equals the one with the smaller left id,
/// then the smaller right id. Cost: reads some 30 MB/s; memory grows with the number of distinct
/// words only.
class TokenizerTrainer {
 public:
  /// Errors: kSpec when vocab_size has no room for the bytes and special tokens, or a special token
  /// is empty or repeated.
  explicit TokenizerTrainer(TokenizerTraining training);
  ~TokenizerTrainer();

  /// Bytes that are not UTF-8 count as U+FFFD.
  void AddText(std::string_view text);

  /// The text of a file, read in parts that are cut between lines. Errors: kData with the path.
  void AddFile(const std::string& path);

  /// Writes tokenizer.json and tokenizer_config.json, which Hugging Face's AutoTokenizer loads,
  /// with a ChatML template where the special tokens have its marks. Returns the size of the
  /// vocabulary; where the text supports fewer merges than asked for it is smaller, and the log
  /// says so. Errors: kData without any text; kSpec when `dir` cannot be written.
  int Write(const std::string& dir) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Trains on `files` and writes to `dir`; returns the size of the vocabulary.
int TrainTokenizer(const std::vector<std::string>& files, const TokenizerTraining& training,
                   const std::string& dir);

}  // namespace omnitrain
