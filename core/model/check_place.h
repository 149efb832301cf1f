#pragma once

#include "core/model/config.h"
#include "parallel/mesh/parallel_layout.h"

namespace omnitrain {

/// Refuses degrees that a decoder does not split over, before any communicator exists.  Errors:
/// kSpec, "parallel.llm.tp: 14 query heads do not split over tp=4".
void CheckPlace(const TextConfig& text, const ParallelDegrees& degrees);

}  // namespace omnitrain
