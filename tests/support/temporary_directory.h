#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

namespace omnitrain {

/// A directory that lives as long as this: where Bazel says, else where the system keeps such.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    const char* base = std::getenv("TEST_TMPDIR");
    const std::filesystem::path parent =
        base != nullptr ? std::filesystem::path(base) : std::filesystem::temp_directory_path();
    path_ = (parent / "omnitrain-XXXXXX").string();
    if (::mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace omnitrain
