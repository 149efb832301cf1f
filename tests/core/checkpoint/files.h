#pragma once

#include <sys/resource.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "core/base/error.h"
#include "tests/support/temporary_directory.h"

namespace omnitrain {

inline std::string ReadBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

inline void WriteBytes(const std::string& path, const std::string& bytes) {
  // A file that is cut and written anew is flushed to the disk by some file systems: slow.
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

/// As a full disk, for any user: while it lives no file can grow past `bytes`; writes fail with
/// EFBIG.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &old_); }

 private:
  rlimit old_;
};

/// The message of the Error(kCheckpoint) that `f` throws; "no error" or "wrong code: ..."
/// otherwise.
template <typename F>
std::string MessageOf(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kCheckpoint) return e.what();
    return std::string("wrong code: ") + e.what();
  }
  return "no error";
}

inline bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace omnitrain
