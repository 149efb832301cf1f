#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "data/tokenizer/unicode.h"

namespace omnitrain {

/// The pre-tokenizer patterns of Qwen2/3 (one digit a piece) and Llama-3 (up to three).
inline constexpr std::string_view kQwenPattern =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
inline constexpr std::string_view kLlamaPattern =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";

/// Scans text by these patterns without a regular expression engine, several times faster.
class QwenScanner {
 public:
  /// Requires: valid UTF-8 that outlives the scanner; max_digits 1 (Qwen) or 3 (Llama-3).
  QwenScanner(std::string_view text, int max_digits)
      : text_(text.data()), size_(text.size()), max_digits_(max_digits) {}

  /// The end of the piece that begins at `begin`. Requires: begin < size.
  size_t PieceEnd(size_t begin) const;

 private:
  struct Char {
    CharClass cls;
    int num_bytes;
  };
  Char At(size_t i) const {
    const auto byte = static_cast<uint8_t>(text_[i]);
    if (byte < 0x80) return {kAscii[byte], 1};
    const CodePoint c = DecodeUtf8(text_ + i);
    return {ClassOf(c.value), c.num_bytes};
  }
  size_t SkipClass(size_t i, CharClass cls) const {
    while (i < size_) {
      const Char c = At(i);
      if (c.cls != cls) break;
      i += static_cast<size_t>(c.num_bytes);
    }
    return i;
  }
  size_t ContractionEnd(size_t apostrophe) const;
  size_t SpaceRunEnd(size_t begin) const;

  struct AsciiTable {
    CharClass cls[128];
    constexpr AsciiTable() : cls() {
      for (int c = 0; c < 128; ++c) {
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        const bool number = c >= '0' && c <= '9';
        const bool line_break = c == '\r' || c == '\n';
        const bool space = c == ' ' || (c >= 9 && c <= 13);
        cls[c] = letter       ? CharClass::kLetter
                 : number     ? CharClass::kNumber
                 : line_break ? CharClass::kLineBreak
                 : space      ? CharClass::kSpace
                              : CharClass::kOther;
      }
    }
    constexpr CharClass operator[](size_t i) const { return cls[i]; }
  };
  static const AsciiTable kAscii;

  const char* text_;
  size_t size_;
  int max_digits_;
};

}  // namespace omnitrain
