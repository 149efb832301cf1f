#include "data/tokenizer/pre_tokenizer.h"

#include "data/tokenizer/unicode.h"
#include "tests/data/tokenizer/fixtures.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Pieces = std::vector<std::string>;

Pieces Cut(const PreTokenizer& pre_tokenizer, const std::string& text) {
  Pieces pieces;
  pre_tokenizer.Split(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

PreTokenizer Matches(const std::string& pattern) {
  return PreTokenizer({{SplitRule::Kind::kMatches, pattern}}, "test");
}

TEST_CASE("The scanner cuts as the pattern does") {
  for (const std::string& pattern : {std::string(kQwenPattern), std::string(kLlamaPattern)}) {
    const PreTokenizer scanner = Matches(pattern);
    const PreTokenizer regex =
        Matches("(?:" + pattern + ")");  // another text of the same, so PCRE2 runs it
    for (uint64_t i = 0; i < 20000; ++i) {
      const std::string text = RandomText(7, i, 30);
      REQUIRE(Cut(scanner, text) == Cut(regex, text));
    }
  }
}

TEST_CASE("Every character of the basic plane has the class of its pattern") {
  const PreTokenizer scanner = Matches(std::string(kQwenPattern));
  const PreTokenizer regex = Matches("(?:" + std::string(kQwenPattern) + ")");
  std::string text;
  for (uint32_t c = 1; c < 0x10000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    // Letters of Unicode 16 that PCRE2 may not know yet; our table does.
    const bool is_new =
        c == 0x1C89 || c == 0x1C8A || (c >= 0xA7CB && c <= 0xA7CD) || (c >= 0xA7DA && c <= 0xA7DC);
    if (is_new) {
      CHECK(ClassOf(c) == CharClass::kLetter);
      continue;
    }
    text = "1";
    AppendUtf8(c, &text);
    text += "a ";
    AppendUtf8(c, &text);
    REQUIRE(Cut(scanner, text) == Cut(regex, text));
  }
}

TEST_CASE("Letters and digits of the newest scripts are known") {
  CHECK(ClassOf(0x2EBF0) == CharClass::kLetter);
  CHECK(ClassOf(0x2EE5D) == CharClass::kLetter);
  CHECK(ClassOf(0x2EE5E) == CharClass::kOther);
  CHECK(ClassOf(0x116D0) == CharClass::kNumber);
  CHECK(ClassOf(0x16D70) == CharClass::kNumber);
}

TEST_CASE("Pieces of small texts") {
  const PreTokenizer qwen = Matches(std::string(kQwenPattern));
  CHECK(Cut(qwen, "").empty());
  CHECK(Cut(qwen, "I'M  12 a!\n\n b") ==
        Pieces{"I", "'M", " ", " ", "1", "2", " a", "!\n\n", " b"});
  CHECK(Cut(qwen, "x \n \n  y   ") == Pieces{"x", " \n \n", " ", " y", "   "});
  const PreTokenizer llama = Matches(std::string(kLlamaPattern));
  CHECK(Cut(llama, "12345") == Pieces{"123", "45"});
}

TEST_CASE("Stages, gaps and empty matches") {
  CHECK(Cut(Matches("b"), "abcb") == Pieces{"a", "b", "c", "b"});
  const PreTokenizer only({{SplitRule::Kind::kMatchesOnly, "b+"}}, "test");
  CHECK(Cut(only, "abbcb") == Pieces{"bb", "b"});
  CHECK(Cut(Matches("b*"), "abbc") == Pieces{"a", "bb", "c"});
  const PreTokenizer two({{SplitRule::Kind::kMatches, "\\p{N}"},
                          {SplitRule::Kind::kPrefixSpace, ""},
                          {SplitRule::Kind::kMatches, "[a-c]"}},
                         "test");
  CHECK(Cut(two, "ax1 b") == Pieces{" ", "a", "x", " 1", " ", "b"});
}

TEST_CASE("Long runs take linear time") {
  const PreTokenizer qwen = Matches(std::string(kQwenPattern));
  const PreTokenizer regex = Matches("(?:" + std::string(kQwenPattern) + ")");
  for (const char* unit : {" ", "a", "\n", " \n", "!", "\u4e2d", "1"}) {
    std::string text;
    while (text.size() < 300000) text += unit;
    CHECK(Cut(qwen, text) == Cut(regex, text));
  }
}

TEST_CASE("NFC") {
  CHECK(NormalizeNfc("e\u0301") == "\u00e9");
  CHECK(NormalizeNfc("\u212b \u1100\u1161\u11a8") == "\u00c5 \uac01");
  CHECK(IsSurelyNfc("plain, \u00e9, \u4e2d\u6587, \u0416, \U0001F600"));
  // Whatever passes the quick check is its own normal form.
  int num_sure = 0;
  for (uint64_t i = 0; i < 20000; ++i) {
    const std::string text = RandomText(9, i, 8);
    if (!IsSurelyNfc(text)) continue;
    ++num_sure;
    REQUIRE(NormalizeNfc(text) == text);
  }
  CHECK(num_sure > 1000);
}

}  // namespace
}  // namespace omnitrain
