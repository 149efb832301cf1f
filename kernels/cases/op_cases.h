#pragma once

#include "kernels/cases/op_case.h"

namespace omnitrain {

/// The table: every op on every shape that matters. Made once; the rows live as long as the
/// process.
const std::vector<OpCase>& AllOpCases();

}  // namespace omnitrain
