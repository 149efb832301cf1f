#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace omnitrain {

/// Character classes that byte-level pre-tokenizers tell apart: \p{L}, \p{N}, \s, and of \s the two
/// line breaks.
enum class CharClass : uint8_t { kOther, kLetter, kNumber, kSpace, kLineBreak };

/// One code point and the bytes it takes.
struct CodePoint {
  uint32_t value;
  int num_bytes;
};

/// The code point at `at`. Requires: valid UTF-8.
inline CodePoint DecodeUtf8(const char* at) {
  const auto byte = [at](int i) { return static_cast<uint32_t>(static_cast<uint8_t>(at[i])); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F),
          4};
}

void AppendUtf8(uint32_t code_point, std::string* text);

bool IsValidUtf8(std::string_view bytes);

/// `bytes` with every maximal ill-formed part replaced by one U+FFFD, as Python's errors="replace"
/// and Rust's from_utf8_lossy do.  Source: The Unicode Standard, section 3.9, "U+FFFD
/// Substitution of Maximal Subparts".
std::string ReplaceInvalidUtf8(std::string_view bytes);

/// True when `text` is known to be in normalization form C without computing it; false says
/// nothing. Requires: valid UTF-8.
bool IsSurelyNfc(std::string_view text);

/// Normalization form C (utf8proc). Requires: valid UTF-8.
std::string NormalizeNfc(std::string_view text);

/// By Unicode 16.
CharClass ClassOf(uint32_t code_point);

/// \w and \s of the Unicode regular expressions that surround added tokens (UTS 18, annex C).
bool IsWordChar(uint32_t code_point);
bool IsWhiteSpace(uint32_t code_point);

}  // namespace omnitrain
