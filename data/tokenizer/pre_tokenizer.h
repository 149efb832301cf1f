#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/qwen_split.h"
#include "data/tokenizer/regex.h"

namespace omnitrain {

/// One stage of a pre-tokenizer: what a Split, Digits or ByteLevel entry of tokenizer.json does to
/// a piece of text.
struct SplitRule {
  enum class Kind {
    kMatches,      // cut at the pattern's matches; matches and what lies between them are pieces
    kMatchesOnly,  // only the matches are pieces
    kPrefixSpace,  // a space goes before a piece that has none
  };
  Kind kind;
  std::string pattern;  // of the first two
};

/// The pre-tokenizer of a byte-level BPE tokenizer: a list of stages, each cutting the pieces of
/// the one before it. The patterns of Qwen and Llama-3, when they are the only stage, run on a
/// scanner of our own. Thread safe.
class PreTokenizer {
 public:
  /// Errors: kData with `where` (the file) for a pattern that cannot be used.
  PreTokenizer(const std::vector<SplitRule>& rules, const std::string& where);

  /// Calls sink(std::string_view piece) in order; pieces are never empty. Requires: valid UTF-8.
  template <typename Sink>
  void Split(std::string_view text, Sink&& sink) const {
    if (scanner_digits_ == 0) return SplitByStages(text, 0, sink);
    const QwenScanner scanner(text, scanner_digits_);
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = scanner.PieceEnd(begin);
      sink(text.substr(begin, end - begin));
      begin = end;
    }
  }

 private:
  struct Stage {
    SplitRule::Kind kind;
    std::vector<Regex> regex;  // one, or none for kPrefixSpace
  };

  template <typename Sink>
  void SplitByStages(std::string_view text, size_t stage_idx, Sink& sink) const {
    if (text.empty()) return;
    if (stage_idx == stages_.size()) return sink(text);
    const Stage& stage = stages_[stage_idx];
    if (stage.kind == SplitRule::Kind::kPrefixSpace) {
      if (text[0] == ' ') return SplitByStages(text, stage_idx + 1, sink);
      const std::string with_space = ' ' + std::string(text);
      return SplitByStages(with_space, stage_idx + 1, sink);
    }
    const bool keep_gaps = stage.kind == SplitRule::Kind::kMatches;
    size_t done = 0, scan = 0, begin = 0, end = 0;
    while (scan <= text.size() && stage.regex[0].Find(text, scan, &begin, &end)) {
      if (keep_gaps) SplitByStages(text.substr(done, begin - done), stage_idx + 1, sink);
      SplitByStages(text.substr(begin, end - begin), stage_idx + 1, sink);
      done = end;
      scan = end;
      if (end == begin) {  // an empty match cuts here; the next search starts one character on
        scan +=
            end < text.size() ? static_cast<size_t>(DecodeUtf8(text.data() + end).num_bytes) : 1;
      }
    }
    if (keep_gaps) SplitByStages(text.substr(done), stage_idx + 1, sink);
  }

  std::vector<Stage> stages_;
  int scanner_digits_ = 0;  // of the scanner that replaces the stages; 0: none does
};

}  // namespace omnitrain
