#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/bpe.h"
#include "data/tokenizer/pre_tokenizer.h"

namespace omnitrain {

/// What a byte-level BPE tokenizer.json says, checked.
struct TokenizerFile {
  struct VocabEntry {
    std::string text;  // as in the file: every byte written as a character
    int32_t id;
  };
  bool nfc = false;
  bool ignore_merges = false;
  std::vector<SplitRule> split_rules;
  std::vector<VocabEntry> vocab;  // in id order
  std::vector<BpeMerge> merges;   // in rank order
  std::vector<AddedToken> added_tokens;
  std::vector<int32_t> prefix_ids;  // what the post-processor puts before and behind a text
  std::vector<int32_t> suffix_ids;
};

/// Reads tokenizer.json as Hugging Face tokenizers writes it (both forms of merges).
/// Understood: no normalizer or NFC; pre-tokenizers Split (isolated, or removed + invert), Digits
/// and ByteLevel, alone or in a Sequence; BPE without dropout, byte fallback, prefixes; ByteLevel
/// decoder; post-processors ByteLevel and TemplateProcessing. `truncation` and `padding` are left
/// to the caller, as transformers does. Errors: kData with the path and the part that is broken or
/// not supported.
TokenizerFile ReadTokenizerFile(const std::string& path);

}  // namespace omnitrain
