#include "data/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cctype>

#include "core/base/check.h"

namespace omnitrain {
namespace {

constexpr size_t kJitStackStart = 32 << 10;
constexpr size_t kJitStackMax = 8 << 20;

// What a match needs beside the pattern; one for each thread that encodes.
struct MatchState {
  MatchState() {
    data = pcre2_match_data_create(1, nullptr);
    context = pcre2_match_context_create(nullptr);
    stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
    OT_CHECK(data != nullptr && context != nullptr && stack != nullptr, "pcre2: out of memory");
    pcre2_jit_stack_assign(context, nullptr, stack);
    pcre2_set_match_limit(context, UINT32_MAX);
  }
  ~MatchState() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;

  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
};

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// True for the "}+" of a counted repetition such as {1,3}+ that ends at `at`.
bool IsCountedPlus(const std::string& pattern, size_t at) {
  if (at + 1 >= pattern.size() || pattern[at] != '}' || pattern[at + 1] != '+') return false;
  size_t i = at;
  while (i > 0 &&
         (std::isdigit(static_cast<unsigned char>(pattern[i - 1])) || pattern[i - 1] == ',')) {
    --i;
  }
  return i < at && i > 0 && pattern[i - 1] == '{';
}

std::string ToPcre(const std::string& pattern, const std::string& where) {
  static constexpr const char* kSpaceSet = "\\t-\\r \\x{85}\\p{Z}";
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      OT_REQUIRE(next != 'h' && next != 'H', ErrorCode::kData,
                 "{}: \\h in the pre-tokenizer pattern {} is not supported", where, pattern);
      if (next == 's') {
        out += in_class ? kSpaceSet : std::string("[") + kSpaceSet + "]";
      } else if (next == 'S' && !in_class) {
        out += std::string("[^") + kSpaceSet + "]";
      } else {
        out += c;
        out += next;
      }
      continue;
    }
    OT_REQUIRE(
        !IsCountedPlus(pattern, i), ErrorCode::kData,
        "{}: a counted repetition followed by + in the pre-tokenizer pattern {} is not supported",
        where, pattern);
    OT_REQUIRE(!(in_class && c == '&' && pattern.compare(i, 2, "&&") == 0), ErrorCode::kData,
               "{}: character class intersection in the pre-tokenizer pattern {} is not supported",
               where, pattern);
    if (c == '[') {
      OT_REQUIRE(
          !in_class || pattern.compare(i, 2, "[:") == 0, ErrorCode::kData,
          "{}: a character class inside another in the pre-tokenizer pattern {} is not supported",
          where, pattern);
      if (in_class) {  // [:name:] ends with a bracket of its own
        const size_t close = pattern.find(":]", i);
        OT_REQUIRE(close != std::string::npos, ErrorCode::kData,
                   "{}: unterminated [: in the pre-tokenizer pattern {}", where, pattern);
        out += pattern.substr(i, close + 2 - i);
        i = close + 1;
        continue;
      }
      in_class = true;
    } else if (c == ']') {
      in_class = false;
    }
    out += c;
  }
  return out;
}

}  // namespace

Regex::Regex(const std::string& pattern, const std::string& where) {
  const std::string pcre = ToPcre(pattern, where);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Ruby's ^ and $ always match at line breaks, hence MULTILINE. Text is checked for UTF-8 before
  // it comes here.
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre.data()), pcre.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK,
                                   &error, &offset, nullptr);
  OT_REQUIRE(code != nullptr, ErrorCode::kData, "{}: pre-tokenizer pattern {}: {} at offset {}",
             where, pattern, ErrorText(error), offset);
  code_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  // Without JIT (a system that forbids writable code pages) matching is slower and gives the same.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

bool Regex::Find(std::string_view text, size_t from, size_t* begin, size_t* end) const {
  static thread_local MatchState state;
  const int rc = pcre2_match(static_cast<const pcre2_code*>(code_.get()),
                             reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                             PCRE2_NO_UTF_CHECK, state.data, state.context);
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  // rc 0: the pattern has groups that find no room in the match data; the whole match is there.
  OT_REQUIRE(rc >= 0, ErrorCode::kData,
             "pre-tokenizer pattern: {} at byte {} of a text of {} bytes", ErrorText(rc), from,
             text.size());
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(state.data);
  *begin = span[0];
  *end = span[1];
  return true;
}

}  // namespace omnitrain
