#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace omnitrain {

/// A compiled regular expression of a tokenizer.json (Oniguruma's Ruby syntax, as Hugging Face
/// reads it), run by PCRE2 with UTF, UCP and JIT. \s is rewritten to the Unicode White_Space set,
/// since PCRE2 counts U+180E as space and Oniguruma does not. Constructs that the two read
/// differently (\h, character class intersection, {n,m}+) are refused. Thread safe.
class Regex {
 public:
  /// Errors: kData with `where`, the pattern and the reason.
  Regex(const std::string& pattern, const std::string& where);

  /// The first match at or behind `from`; false when there is none. Requires: valid UTF-8.
  /// Errors: kData when matching this text exhausts PCRE2's limits.
  bool Find(std::string_view text, size_t from, size_t* begin, size_t* end) const;

 private:
  std::shared_ptr<const void> code_;
};

}  // namespace omnitrain
