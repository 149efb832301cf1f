#pragma once

#include <string>
#include <vector>

#include "core/spec/job_spec.h"
#include "core/spec/node.h"

namespace omnitrain {

/// Reads all keys of `root` (a map) into a spec. Whatever is unknown, mistyped or out of range is
/// added to `problems`, each with origin, path and what was expected, and keeps its default.
JobSpec ParseFields(const SpecNode& root, std::vector<std::string>* problems);

/// Where `path` was written, or the deepest part of it that was; "" if nowhere.
std::string OriginOf(const SpecNode& root, const std::string& path);

}  // namespace omnitrain
