#pragma once

#include <vector>

#include "parallel/schedule/schedule.h"

namespace omnitrain {

/// Checks that the lists can be executed and do the whole step. Each rank's list on its own:
/// - every (module, stage, micro_batch) has its forward, each (.., slice) on one rank or in one
///   gang at most once per rank; in training each forward is followed by B, or by I and W, where
///   the module is trained, by I alone where only encoders behind a frozen LLM are;
/// - F of an encoder, RESHARD_F, F of the LLM, its B or I, RESHARD_B, B of the encoder come in that
///   order for a micro_batch, stages ascending in F and descending in B where a rank holds several;
///   each RESHARD_F of a trained encoder has its RESHARD_B, and B of the encoder is behind them
///   all;
/// - RECV and SEND stand before and behind their op; REDUCE_GRAD behind all weight gradients of its
///   modules; one STEP, last; FREE behind the last use, at most once;
/// - a schedule that evaluates has forward ops only.
/// The ranks of a replica together:
/// - every SEND has one RECV on another rank, and every RECV its SEND; what a stage takes from
///   another rank it receives; a RESHARD stands on every rank that encodes for it or takes its
///   rows, and a stage that takes rows takes those of all micro-batches;
/// - no deadlock, where SEND, RECV and RESHARD are rendezvous and a launched one blocks every later
///   one on its rank;
/// - activations alive within `limits`, one for each rank; empty: without a limit.
/// What replicas owe each other is not checked: they have equal lists.
/// Errors: kInternal with rank, position and op: `schedule rank 0 op 3 llm:B0: no llm:F0 before
/// it`.  Cost: about linear in ops times LLM stages.
void Validate(const Schedule& schedule, const std::vector<LiveLimit>& limits = {});

}  // namespace omnitrain
