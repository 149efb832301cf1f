#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace omnitrain {

/// A token that is found in the text as a whole, before BPE; the flags are those of tokenizer.json.
struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;
  bool normalized = false;   // looked for in the normalized text, otherwise in the raw text
  bool single_word = false;  // not where a word character touches it
  bool lstrip = false;       // swallows white space before it
  bool rstrip = false;       // swallows white space behind it
};

/// Cuts text at added tokens: leftmost first, of several at one place the longest.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  /// Requires: no empty content. Of two tokens with equal content the first wins.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }

  /// Calls on_text(std::string_view) for the text between tokens (never empty) and on_token(int32_t
  /// id) for tokens, in order. Requires: valid UTF-8.
  template <typename OnText, typename OnToken>
  void Split(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    size_t done = 0;
    size_t scan = 0;
    Match match;
    while (Next(text, scan, done, &match)) {
      if (done < match.begin) on_text(text.substr(done, match.begin - done));
      on_token(match.id);
      done = match.end;
      scan = match.scan;
    }
    if (done < text.size()) on_text(text.substr(done));
  }

 private:
  struct Match {
    int32_t id;
    size_t begin, end;  // with the white space that the token swallows
    size_t scan;        // where to look for the next one
  };

  bool Next(std::string_view text, size_t scan, size_t done, Match* match) const;

  std::vector<AddedToken> tokens_;                  // by first byte, longest first
  std::array<std::pair<int, int>, 256> buckets_{};  // first byte -> range of tokens_
};

}  // namespace omnitrain
