#pragma once

#include <string>

#include "parallel/schedule/schedule.h"
#include "parallel/schedule/simulate.h"

namespace omnitrain {

/// A picture of the simulated step: a row for each rank, compute above and communication as a thin
/// strip below it; one colour a kind of op, chunks of a rank in shades, the micro-batch written
/// where it fits; a time axis and a legend. The text of an op is its tooltip.
/// Requires the simulation of that schedule. Deterministic.
std::string RenderSvg(const Schedule& schedule, const Simulation& simulation);

/// The same for chrome://tracing and Perfetto, as JSON: an event of phase X for each op that takes
/// time, pid the rank, tid 0 compute and 1 communication; times in us.
std::string ChromeTrace(const Schedule& schedule, const Simulation& simulation);

}  // namespace omnitrain
