#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/source/source.h"

namespace omnitrain {

/// Conversations, one JSON object a line (see ParseChatSample). Images are files, relative to the
/// folder of the JSONL, or data:...;base64 in place; nothing is fetched from a network. Lines are
/// found once, at opening; blank ones do not count. A sample's key is FILE:LINE.
/// Errors: kData when a file cannot be read or no file holds a line.
std::unique_ptr<Source> OpenMessages(const std::string& name,
                                     const std::vector<std::string>& files);

/// Bytes of base64 text (RFC 4648, padding optional, white space ignored); false for other
/// characters or a length that cannot be.
bool DecodeBase64(const char* text, size_t size, std::string* bytes);

}  // namespace omnitrain
