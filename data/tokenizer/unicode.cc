#include "data/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <vector>

#include "core/base/check.h"

namespace omnitrain {
namespace {

constexpr uint32_t kPlaneSize =
    0x10000;  // the basic multilingual plane has tables, the rest is computed
constexpr const char kReplacement[] = "\xEF\xBF\xBD";

// The length of the well-formed sequence at `at`, or minus the length of the maximal ill-formed
// part. Source: The Unicode Standard, table 3-7 (well-formed UTF-8 byte sequences).
int SequenceAt(const uint8_t* at, const uint8_t* end) {
  const uint8_t lead = at[0];
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return -1;
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  uint8_t low = 0x80, high = 0xBF;  // of the second byte
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (int i = 1; i < length; ++i) {
    if (at + i == end || at[i] < low || at[i] > high) return -i;
    low = 0x80;
    high = 0xBF;
  }
  return length;
}

const uint8_t* SkipAscii(const uint8_t* at, const uint8_t* end) {
  while (end - at >= 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    if (word & 0x8080808080808080ull) break;
    at += 8;
  }
  while (at < end && *at < 0x80) ++at;
  return at;
}

const uint8_t* Bytes(const char* at) { return reinterpret_cast<const uint8_t*>(at); }

// Letters and numbers that Unicode 15.1 and 16 added: the reference's tables are of version 16,
// utf8proc 2.8 knows 15. The reference's classes, listed by a scan of all code points.
using Range = std::array<uint32_t, 2>;
constexpr Range kNewLetters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
    {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
    {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
    {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
    {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
    {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}};
constexpr Range kNewNumbers[] = {{0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9},
                                 {0x16130, 0x16139}, {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9},
                                 {0x1E5F1, 0x1E5FA}};

template <size_t kCount>
bool IsIn(const Range (&ranges)[kCount], uint32_t c) {
  return std::any_of(std::begin(ranges), std::end(ranges),
                     [c](const Range& r) { return c >= r[0] && c <= r[1]; });
}

CharClass ComputeClass(uint32_t c) {
  if (c == '\r' || c == '\n') return CharClass::kLineBreak;
  if (IsWhiteSpace(c)) return CharClass::kSpace;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::kNumber;
    case UTF8PROC_CATEGORY_CN:
      if (IsIn(kNewLetters, c)) return CharClass::kLetter;
      return IsIn(kNewNumbers, c) ? CharClass::kNumber : CharClass::kOther;
    default:
      return CharClass::kOther;
  }
}

// Per code point of the basic plane: text made only of such characters is its own NFC. These are
// the characters with combining class 0 that equal their NFC and end no canonical composition
// (NFC_Quick_Check=Yes, UAX 15 section 9).
std::vector<bool> ComputeNfcSafe() {
  std::vector<bool> safe(kPlaneSize, true);
  for (uint32_t c = 0x80; c < kPlaneSize; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;  // surrogates occur in no valid text
    if (utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class != 0) {
      safe[c] = false;
    }
    std::array<utf8proc_int32_t, 32> parts;
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts.data(),
                                               parts.size(), UTF8PROC_DECOMPOSE, &boundary);
    if (count == 1 && parts[0] == static_cast<utf8proc_int32_t>(c)) continue;
    for (int i = 1; i < count; ++i) {
      if (parts[i] < static_cast<utf8proc_int32_t>(kPlaneSize)) safe[parts[i]] = false;
    }
    std::string text;
    AppendUtf8(c, &text);
    if (NormalizeNfc(text) != text) safe[c] = false;
  }
  return safe;
}

}  // namespace

void AppendUtf8(uint32_t c, std::string* text) {
  utf8proc_uint8_t bytes[4];
  const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  text->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(n));
}

bool IsValidUtf8(std::string_view bytes) {
  const uint8_t* at = Bytes(bytes.data());
  const uint8_t* end = at + bytes.size();
  while ((at = SkipAscii(at, end)) < end) {
    const int n = SequenceAt(at, end);
    if (n < 0) return false;
    at += n;
  }
  return true;
}

std::string ReplaceInvalidUtf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  const uint8_t* at = Bytes(bytes.data());
  const uint8_t* end = at + bytes.size();
  while (at < end) {
    const int n = SequenceAt(at, end);
    if (n > 0) {
      text.append(reinterpret_cast<const char*>(at), static_cast<size_t>(n));
    } else {
      text.append(kReplacement);
    }
    at += std::abs(n);
  }
  return text;
}

bool IsSurelyNfc(std::string_view text) {
  static const std::vector<bool> safe = ComputeNfcSafe();
  const uint8_t* at = Bytes(text.data());
  const uint8_t* end = at + text.size();
  while ((at = SkipAscii(at, end)) < end) {
    if (*at < 0xCC) {  // below U+0300 nothing composes
      at += 2;
      continue;
    }
    const CodePoint c = DecodeUtf8(reinterpret_cast<const char*>(at));
    const bool is_safe = c.value < kPlaneSize ? safe[c.value]
                                              : (c.value >= 0x1F000 && c.value < 0x1FB00) ||
                                                    (c.value >= 0x20000 && c.value < 0x2F800);
    if (!is_safe) return false;
    at += c.num_bytes;
  }
  return true;
}

std::string NormalizeNfc(std::string_view text) {
  utf8proc_uint8_t* out = nullptr;
  const auto n = utf8proc_map(Bytes(text.data()), static_cast<utf8proc_ssize_t>(text.size()), &out,
                              static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (n < 0) {
    std::free(out);
    OT_CHECK(false, "utf8proc: {}", utf8proc_errmsg(n));
  }
  std::string normal(reinterpret_cast<const char*>(out), static_cast<size_t>(n));
  std::free(out);
  return normal;
}

CharClass ClassOf(uint32_t c) {
  static const std::vector<CharClass> table = [] {
    std::vector<CharClass> classes(kPlaneSize);
    for (uint32_t i = 0; i < kPlaneSize; ++i) classes[i] = ComputeClass(i);
    return classes;
  }();
  return c < kPlaneSize ? table[c] : ComputeClass(c);
}

bool IsWordChar(uint32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // joiners, and the circled and squared letters, which are symbols with the property
              // Alphabetic
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) ||
             (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
             (c >= 0x1F170 && c <= 0x1F189);
  }
}

bool IsWhiteSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace omnitrain
