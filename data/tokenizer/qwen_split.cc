#include "data/tokenizer/qwen_split.h"

namespace omnitrain {

constexpr QwenScanner::AsciiTable QwenScanner::kAscii;

// (?i:'s|'t|'re|'ve|'m|'ll|'d), or `apostrophe` when there is none. Caseless \u017F (long s) equals
// s.
size_t QwenScanner::ContractionEnd(size_t apostrophe) const {
  const size_t left = size_ - apostrophe - 1;
  if (left == 0) return apostrophe;
  const char* at = text_ + apostrophe + 1;
  const char a = static_cast<char>(at[0] | 0x20);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return apostrophe + 2;
  if (left < 2) return apostrophe;
  const char b = static_cast<char>(at[1] | 0x20);
  if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return apostrophe + 3;
  if (at[0] == '\xC5' && at[1] == '\xBF') return apostrophe + 3;
  return apostrophe;
}

// \s*[\r\n]+ | \s+(?!\S) | \s+ : up to the last line break of the run; else the run without its
// last character, which belongs to what follows; all of it at the end of the text.
size_t QwenScanner::SpaceRunEnd(size_t begin) const {
  size_t last_break_end = 0;
  size_t last_char = begin;
  size_t i = begin;
  while (i < size_) {
    const Char c = At(i);
    if (c.cls != CharClass::kSpace && c.cls != CharClass::kLineBreak) break;
    last_char = i;
    i += static_cast<size_t>(c.num_bytes);
    if (c.cls == CharClass::kLineBreak) last_break_end = i;
  }
  if (last_break_end != 0) return last_break_end;
  if (i == size_ || last_char == begin) return i;
  return last_char;
}

size_t QwenScanner::PieceEnd(size_t begin) const {
  const Char c = At(begin);
  const size_t second = begin + static_cast<size_t>(c.num_bytes);
  switch (c.cls) {
    case CharClass::kLetter:
      return SkipClass(second, CharClass::kLetter);
    case CharClass::kNumber: {
      size_t end = second;
      for (int digits = 1; digits < max_digits_ && end < size_; ++digits) {
        const Char next = At(end);
        if (next.cls != CharClass::kNumber) break;
        end += static_cast<size_t>(next.num_bytes);
      }
      return end;
    }
    case CharClass::kLineBreak:
      return SpaceRunEnd(begin);
    case CharClass::kSpace:
    case CharClass::kOther:
      break;
  }
  if (text_[begin] == '\'') {
    const size_t end = ContractionEnd(begin);
    if (end != begin) return end;
  }
  if (second < size_ && At(second).cls == CharClass::kLetter) {
    return SkipClass(second, CharClass::kLetter);
  }
  const bool space_before_symbols =
      text_[begin] == ' ' && second < size_ && At(second).cls == CharClass::kOther;
  if (c.cls == CharClass::kOther || space_before_symbols) {
    return SkipClass(SkipClass(second, CharClass::kOther), CharClass::kLineBreak);
  }
  return SpaceRunEnd(begin);
}

}  // namespace omnitrain
