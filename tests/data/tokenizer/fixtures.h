#pragma once

#include <cstdint>
#include <string>

#include "core/base/json.h"

namespace omnitrain {

/// The reference tokenizer (Qwen2 style, 4,011 ids) and its recorded cases.
std::string GoldenTokenizerPath();
std::string GoldenCasesPath();

/// Writes `json` to a new file in the test's temporary folder and returns its path.
std::string WriteTemporary(const std::string& name, const Json& json);

/// Text of up to `max_pieces` pieces that pre-tokenizers treat differently: letters of many
/// scripts, marks, digits, all kinds of white space, contractions, emoji, and code points drawn at
/// random. Valid UTF-8.
std::string RandomText(uint64_t seed, uint64_t index, int max_pieces);

}  // namespace omnitrain
