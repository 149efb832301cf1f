#include "tests/data/tokenizer/fixtures.h"

#include <array>
#include <cstdlib>

#include "core/base/rng.h"

namespace omnitrain {
namespace {

constexpr std::array<const char*, 56> kPieces = {" ",
                                                 "  ",
                                                 "\n",
                                                 "\r\n",
                                                 "\t",
                                                 "\r",
                                                 "'s",
                                                 "'S",
                                                 "'ll",
                                                 "'Ve",
                                                 "'r",
                                                 "'",
                                                 "\u017f",
                                                 "'\u017f",
                                                 "a",
                                                 "abc",
                                                 "The",
                                                 " the",
                                                 "Hello",
                                                 " world",
                                                 "1",
                                                 "23",
                                                 "456789",
                                                 "\u0660",
                                                 "\u00b2",
                                                 "\u2167",
                                                 "\u00e9",
                                                 "e\u0301",
                                                 "\u0301",
                                                 "\u0327",
                                                 "\u4e2d\u6587",
                                                 "\u3042",
                                                 "\u304b\u3099",
                                                 "\uac00",
                                                 "\u1100\u1161",
                                                 "\u0915\u093c",
                                                 "\u200d",
                                                 "\u200b",
                                                 "\u00a0",
                                                 "\u2003",
                                                 "\u3000",
                                                 "\u180e",
                                                 "\u0085",
                                                 "\x0b",
                                                 "\x1c",
                                                 "!",
                                                 "?!",
                                                 ".,",
                                                 "<",
                                                 "|>",
                                                 "_",
                                                 "-",
                                                 "\U0001F600",
                                                 "\U00020000",
                                                 "\U0001D7D8",
                                                 "\ufb01"};

void AppendCodePoint(uint32_t c, std::string* text) {
  const auto put = [&](uint32_t byte) { text->push_back(static_cast<char>(byte)); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xC0 | c >> 6);
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
  }
  put(0x80 | (c & 0x3F));
}

}  // namespace

std::string GoldenTokenizerPath() { return "tests/golden/tokenizer/tokenizer.json"; }
std::string GoldenCasesPath() { return "tests/golden/tokenizer/tokenizer_cases.json"; }

std::string WriteTemporary(const std::string& name, const Json& json) {
  const char* dir = std::getenv("TEST_TMPDIR");
  const std::string path = std::string(dir != nullptr ? dir : "/tmp") + "/" + name;
  WriteFileAtomically(path, json.dump(), ErrorCode::kInternal);
  return path;
}

std::string RandomText(uint64_t seed, uint64_t index, int max_pieces) {
  uint64_t counter = index << 16;
  const auto below = [&](uint64_t n) { return RandomBits(seed, 1, counter++) % n; };
  std::string text;
  const uint64_t num_pieces = below(static_cast<uint64_t>(max_pieces) + 1);
  for (uint64_t i = 0; i < num_pieces; ++i) {
    if (below(5) != 0) {
      text += kPieces[below(kPieces.size())];
      continue;
    }
    // Old blocks only: libraries differ in the newest version of Unicode that they know.
    static constexpr std::array<std::array<uint32_t, 2>, 4> kBlocks = {
        {{0, 0x80}, {0, 0x800}, {0x900, 0x1C80}, {0x2000, 0x9FFF}}};
    const auto [first, last] = kBlocks[below(kBlocks.size())];
    AppendCodePoint(first + static_cast<uint32_t>(below(last - first)), &text);
  }
  return text;
}

}  // namespace omnitrain
