#pragma once

#include "core/base/error.h"

namespace omnitrain::internal {

[[noreturn]] void CheckFailed(const char* file, int line, const char* expression,
                              const std::string& message);

}  // namespace omnitrain::internal

/// Invariants of our own code: throws Error(kInternal) with file, line, expression and the given
/// numbers. Input from users is refused with Fail() and a message of its own instead.
#define OT_CHECK(condition, ...)                                         \
  do {                                                                   \
    if (!(condition)) {                                                  \
      ::omnitrain::internal::CheckFailed(__FILE__, __LINE__, #condition, \
                                         ::fmt::format("" __VA_ARGS__)); \
    }                                                                    \
  } while (false)

/// Refuses input: throws Error(code) with the formatted message when the condition does not hold.
#define OT_REQUIRE(condition, code, ...)      \
  do {                                        \
    if (!(condition)) {                       \
      ::omnitrain::Fail((code), __VA_ARGS__); \
    }                                         \
  } while (false)
