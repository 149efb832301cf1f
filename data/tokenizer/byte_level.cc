#include "data/tokenizer/byte_level.h"

#include <array>

#include "data/tokenizer/unicode.h"

namespace omnitrain {
namespace {

struct Alphabet {
  std::array<char32_t, 256> char_of_byte{};
  std::array<int, 0x200> byte_of_char{};
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet = [] {
    Alphabet a;
    a.byte_of_char.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      a.char_of_byte[b] = printable ? static_cast<char32_t>(b) : next++;
      a.byte_of_char[a.char_of_byte[b]] = b;
    }
    return a;
  }();
  return alphabet;
}

}  // namespace

char32_t ByteToChar(unsigned char byte) { return TheAlphabet().char_of_byte[byte]; }

std::string BytesToText(std::string_view bytes) {
  std::string text;
  for (const char b : bytes) AppendUtf8(ByteToChar(static_cast<unsigned char>(b)), &text);
  return text;
}

std::optional<std::string> TextToBytes(std::string_view text) {
  const auto& byte_of_char = TheAlphabet().byte_of_char;
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = DecodeUtf8(text.data() + i);
    if (c.value >= byte_of_char.size() || byte_of_char[c.value] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte_of_char[c.value]));
    i += static_cast<size_t>(c.num_bytes);
  }
  return bytes;
}

}  // namespace omnitrain
