#include "data/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "core/base/check.h"
#include "data/tokenizer/unicode.h"

namespace omnitrain {
namespace {

size_t StartOfLastChar(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool EndsWithWord(std::string_view text) {
  return !text.empty() && IsWordChar(DecodeUtf8(text.data() + StartOfLastChar(text)).value);
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWordChar(DecodeUtf8(text.data()).value);
}

size_t TrailingSpaceBegin(std::string_view text) {
  while (!text.empty()) {
    const size_t last = StartOfLastChar(text);
    if (!IsWhiteSpace(DecodeUtf8(text.data() + last).value)) break;
    text = text.substr(0, last);
  }
  return text.size();
}

size_t LeadingSpaceEnd(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const CodePoint c = DecodeUtf8(text.data() + at);
    if (!IsWhiteSpace(c.value)) break;
    at += static_cast<size_t>(c.num_bytes);
  }
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    OT_CHECK(!a.content.empty() && !b.content.empty());
    const auto first_a = static_cast<uint8_t>(a.content[0]);
    const auto first_b = static_cast<uint8_t>(b.content[0]);
    return first_a != first_b ? first_a < first_b : a.content.size() > b.content.size();
  });
  for (int i = 0; i < static_cast<int>(tokens_.size()); ++i) {
    auto& [begin, end] = buckets_[static_cast<uint8_t>(tokens_[i].content[0])];
    if (begin == end) begin = i;
    end = i + 1;
  }
}

bool AddedTokenMatcher::Next(std::string_view text, size_t scan, size_t done, Match* match) const {
  if (tokens_.empty()) return false;
  while (scan < text.size()) {
    const auto [first, last] = buckets_[static_cast<uint8_t>(text[scan])];
    const AddedToken* found = nullptr;
    for (int i = first; i < last && found == nullptr; ++i) {
      if (text.compare(scan, tokens_[i].content.size(), tokens_[i].content) == 0) {
        found = &tokens_[i];
      }
    }
    if (found == nullptr) {
      ++scan;
      continue;
    }
    const size_t end = scan + found->content.size();
    // A token refused for touching a word still hides what overlaps it: the search goes on behind
    // it.
    if (found->single_word &&
        (EndsWithWord(text.substr(0, scan)) || StartsWithWord(text.substr(end)))) {
      scan = end;
      continue;
    }
    match->id = found->id;
    match->begin = scan;
    match->end = end;
    match->scan = end;
    if (found->lstrip) match->begin = std::max(TrailingSpaceBegin(text.substr(0, scan)), done);
    if (found->rstrip) match->end = end + LeadingSpaceEnd(text.substr(end));
    return true;
  }
  return false;
}

}  // namespace omnitrain
