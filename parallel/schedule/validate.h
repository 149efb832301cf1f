#pragma once

#include "parallel/schedule/schedule.h"

namespace omnitrain {

/// Checks that the lists can be executed and do the whole step, each rank's list on its own:
/// - every (module, stage, micro_batch) has its forward, each (.., slice) on one rank or in one
///   gang at most once per rank; in training each forward is followed by B, or by I and W, where
///   the module is trained, by I alone where only encoders behind a frozen LLM are;
/// - F of an encoder, RESHARD_F, F of the LLM, its B or I, RESHARD_B, B of the encoder come in that
///   order for a micro_batch, stages ascending in F and descending in B where a rank holds several;
/// - RECV and SEND stand before and behind their op; REDUCE_GRAD behind all weight gradients of its
///   modules; one STEP, last; FREE behind the last use, at most once;
/// - a schedule that evaluates has forward ops only.
/// What ranks owe each other (sends against receives, the order of collectives over replicas) is
/// not checked here.
/// Errors: kInternal with rank, position and op: `schedule rank 0 op 3 llm:B0: no llm:F0 before
/// it`.
void Validate(const Schedule& schedule);

}  // namespace omnitrain
