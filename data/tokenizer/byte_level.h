#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace omnitrain {

/// The alphabet of byte-level BPE: every byte is written as one printable character, so that a
/// vocabulary is plain text. Bytes 33-126, 161-172 and 174-255 stand for themselves, the other 68
/// are U+0100 onwards in order. Source: Radford et al. 2019 (GPT-2), section 2.2.

/// The character of `byte`, as a code point.
char32_t ByteToChar(unsigned char byte);

/// Bytes -> their characters, as UTF-8.
std::string BytesToText(std::string_view bytes);

/// Characters -> bytes; nothing when a character stands for no byte.
std::optional<std::string> TextToBytes(std::string_view text);

}  // namespace omnitrain
