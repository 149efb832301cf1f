#include "core/base/check.h"

namespace omnitrain::internal {

void CheckFailed(const char* file, int line, const char* expression, const std::string& message) {
  Fail(ErrorCode::kInternal, "{}:{}: check failed: {}{}{}", file, line, expression,
       message.empty() ? "" : ": ", message);
}

}  // namespace omnitrain::internal
