#pragma once

#include <filesystem>
#include <string>

#include "core/base/json.h"
#include "tests/support/temporary_directory.h"

namespace omnitrain {

/// Where WriteTempFile puts its folders.
inline const std::string& TempFilesRoot() {
  static const TemporaryDirectory root;
  return root.path();
}

/// A new file `name` with `text`, in a folder of its own until the test ends; returns the path.
inline std::string WriteTempFile(const std::string& name, const std::string& text) {
  static int num_files = 0;
  const std::string folder = TempFilesRoot() + "/" + std::to_string(num_files++);
  std::filesystem::create_directory(folder);
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
