#pragma once

#include "parallel/schedule/op_index.h"

namespace omnitrain {

/// The rules of Validate that the list of one rank must keep by itself.
void ValidateRank(const OpIndex& index, int rank);

}  // namespace omnitrain
