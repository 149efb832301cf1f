#pragma once

#include <chrono>
#include <functional>

#include "parallel/schedule/schedule.h"

namespace omnitrain {

/// Does one op. The only part of a step that knows models, tensors and communicators.
class OpRunner {
 public:
  virtual ~OpRunner() = default;
  virtual void Run(const Op& op) = 0;
};

/// What one op took on the host: for traces, where the measured lies over the predicted.
struct OpSpan {
  Op op;
  std::chrono::steady_clock::time_point begin, end;
};

struct ExecuteOptions {
  /// What messages call this rank; -1: its place in the schedule.
  int global_rank = -1;
  /// Called behind each op; empty: no clock is read.
  std::function<void(const OpSpan&)> on_span;
};

/// Runs the list of `rank` in order, on the calling thread. No other loop knows what gradient
/// accumulation or a pipeline is. Requires a schedule that passed Validate.
/// Errors: those of the runner with their code kept, and rank and op in front:
/// `rank 0 llm:B3: ...`. While an op runs, the crash report names it.
void Execute(const Schedule& schedule, int rank, OpRunner& runner,
             const ExecuteOptions& options = {});

}  // namespace omnitrain
