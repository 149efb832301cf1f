#pragma once

#include <string>
#include <vector>

#include "core/base/json.h"

namespace omnitrain {

/// The stdout contract: JSON Lines from rank 0. Records of a run on other ranks go nowhere.
/// Kinds: start, step, eval, checkpoint, end. A key whose value was not measured is left out.
class RecordWriter {
 public:
  explicit RecordWriter(bool is_writer) : is_writer_(is_writer) {}
  /// Writes {"record": kind, ...fields} as one line and flushes it. A closed stdout is an error
  /// (kInternal): a run whose metrics nobody gets should stop.
  void Write(const std::string& kind, const Json& fields) const;

 private:
  bool is_writer_;
};

/// What the `end` record says of held-out data, for people: lines for stderr, none where nothing
/// was evaluated.
std::vector<std::string> EndLines(const Json& end);

/// The stderr line of a step, aligned; a progress bar follows on a terminal.
std::string StepLine(const Json& step, int64_t num_steps);

}  // namespace omnitrain
