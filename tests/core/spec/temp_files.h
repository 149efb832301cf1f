#pragma once

#include <stdlib.h>

#include <string>

#include "core/base/json.h"

namespace omnitrain {

/// A new file `name` with `text`, in a folder of its own; returns the path.
inline std::string WriteTempFile(const std::string& name, const std::string& text) {
  std::string folder = "/tmp/omnitrain-spec-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) Fail(ErrorCode::kInternal, "mkdtemp failed");
  const std::string path = folder + "/" + name;
  WriteFileAtomically(path, text, ErrorCode::kInternal);
  return path;
}

/// The smallest whole job.
inline const char* MinimalYaml() {
  return "run: {steps: 10}\n"
         "model: {hf: some/model}\n"
         "data: {sources: [{path: some/data}]}\n"
         "batch: {samples: 4}\n";
}

}  // namespace omnitrain
