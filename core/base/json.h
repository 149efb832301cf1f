#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/base/error.h"

namespace omnitrain {

using Json = nlohmann::ordered_json;

/// Reads and parses a JSON file. Errors: `code` with the path and the place of the fault.
Json ReadJsonFile(const std::string& path, ErrorCode code);

/// The whole file as bytes. Errors: `code` with the path and the system's reason.
std::string ReadFile(const std::string& path, ErrorCode code);

/// Writes `bytes` to `path` through a temporary file in the same folder, fsync and rename: the old
/// file stays whole until the new one is. Errors: `code` with the path and the system's reason
/// (disk full among them).
void WriteFileAtomically(const std::string& path, const std::string& bytes, ErrorCode code);

}  // namespace omnitrain
