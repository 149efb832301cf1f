#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace omnitrain {

/// What went wrong, in the terms of the process exit code that it becomes.
enum class ErrorCode : int {
  kInternal = 1,    // a broken invariant of ours
  kSpec = 2,        // usage, or a job spec that cannot be run
  kData = 3,        // bad content in a data source
  kCheckpoint = 4,  // a checkpoint or model directory that cannot be read or written
  kDiverged = 5,    // loss is not finite, or parity failed
  kComm = 6,        // communication failed or timed out
};

/// The one exception type. Thrown anywhere, caught in cmd/ only (and where a bad sample is counted
/// and skipped). The message names the file, key or sample and tells what to fix.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }
  int exit_code() const { return static_cast<int>(code_); }

 private:
  ErrorCode code_;
};

/// Throws Error(code) with a formatted message: `Fail(ErrorCode::kData, "{}: truncated JPEG",
/// path)`.
template <typename... Args>
[[noreturn]] void Fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace omnitrain
