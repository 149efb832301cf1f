#include "parallel/schedule/execute.h"

#include <exception>

#include "core/base/check.h"
#include "parallel/comm/wait_record.h"

namespace omnitrain {

void Execute(const Schedule& schedule, int rank, OpRunner& runner, const ExecuteOptions& options) {
  OT_CHECK(rank >= 0 && rank < static_cast<int>(schedule.ranks.size()),
           "rank {} of a schedule for {}", rank, schedule.ranks.size());
  const int shown_rank = options.global_rank >= 0 ? options.global_rank : rank;
  for (const Op& op : schedule.ranks[static_cast<size_t>(rank)]) {
    const std::string text = ToString(op);
    ActivityScope activity(text.c_str());
    OpSpan span;
    if (options.on_span) span.begin = std::chrono::steady_clock::now();
    try {
      runner.Run(op);
    } catch (const Error& error) {
      Fail(error.code(), "rank {} {}: {}", shown_rank, text, error.what());
    } catch (const std::exception& error) {
      Fail(ErrorCode::kInternal, "rank {} {}: {}", shown_rank, text, error.what());
    }
    if (options.on_span) {
      span.end = std::chrono::steady_clock::now();
      span.op = op;
      options.on_span(span);
    }
  }
}

}  // namespace omnitrain
