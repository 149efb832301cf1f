#pragma once

#include <functional>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace omnitrain {

struct ContractCase {
  std::string name;
  std::function<void(Communicator&)> run;
};

/// The cases that NCCL does not keep.
inline const char kNanMaxima[] = "NaN is the largest";
inline const char kTagsOutOfOrder[] = "messages received by tag, out of order";

/// What every Communicator must do, run as the ranks of its group, for any number of ranks.
/// Failures are exceptions on every rank.
const std::vector<ContractCase>& CommunicatorContract();

}  // namespace omnitrain
