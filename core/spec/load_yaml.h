#pragma once

#include <string>
#include <vector>

#include "core/spec/node.h"

namespace omnitrain {

/// Reads one YAML document. Duplicate keys are added to `problems`, the first value stays. An empty
/// file is an empty map. Errors: kSpec with file and line if the file cannot be read, is not YAML,
/// or does not hold one map.
SpecNode ReadYamlFile(const std::string& path, std::vector<std::string>* problems);

/// Reads `text` as the YAML value of `origin` (a --set). Errors: kSpec, starting with `origin`.
SpecNode ParseYamlValue(const std::string& text, const std::string& origin);

}  // namespace omnitrain
