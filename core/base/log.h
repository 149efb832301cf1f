#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace omnitrain {

/// Sets the rank that log lines carry. Call once, before threads start.
void SetLogRank(int rank);
int LogRank();

/// Writes one line to stderr, whole: `[data] rank 3: message`. Thread safe.
void LogLine(std::string_view tag, std::string_view message);

/// `Log("data", "{}: skipped: {}", key, reason)`; the tag is the part of the house that speaks.
template <typename... Args>
void Log(std::string_view tag, fmt::format_string<Args...> format, Args&&... args) {
  LogLine(tag, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace omnitrain
