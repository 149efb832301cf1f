#pragma once

#include <functional>
#include <string>

#include "core/base/error.h"
#include "parallel/comm/communicator.h"

namespace omnitrain {

/// Checks that all ranks of a group make together, so that one rank's failure never leaves the
/// others waiting: every rank learns of it and throws at the same place.
class TestWorld {
 public:
  explicit TestWorld(Communicator& comm) : comm_(comm) {}

  /// Collective: whether `condition` holds on every rank.
  bool AllTrue(bool condition) {
    return comm_.AllReduceScalar(int64_t{condition ? 0 : 1}, ReduceOp::kMax) == 0;
  }

  /// Collective: throws on every rank when the condition fails on any, naming those ranks.
  void Require(bool condition, const std::string& what) {
    const auto verdicts = comm_.AllGatherStrings(condition ? "" : what.empty() ? "failed" : what);
    std::string failures;
    for (size_t r = 0; r < verdicts.size(); ++r) {
      if (!verdicts[r].empty()) failures += fmt::format("\n  rank {}: {}", r, verdicts[r]);
    }
    if (!failures.empty()) Fail(ErrorCode::kInternal, "required of every rank:{}", failures);
  }

  Communicator& comm() { return comm_; }

 private:
  Communicator& comm_;
};

}  // namespace omnitrain
