#pragma once

#include "kernels/cases/op_case.h"

namespace omnitrain {

/// The table: every op on every shape that matters. Made once; the rows live as long as the
/// process.
const std::vector<OpCase>& AllOpCases();

/// Further cases on random shapes, `rounds` of each op, the same for the same seed.
std::vector<OpCase> RandomOpCases(uint64_t seed, int rounds);

}  // namespace omnitrain
