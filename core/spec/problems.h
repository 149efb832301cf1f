#pragma once

#include <string>
#include <vector>

#include "core/spec/job_spec.h"

namespace omnitrain {

/// Something wrong with a key, not yet with the place where it was written.
struct Problem {
  std::string key;
  std::string text;
};

/// What Validate refuses.
std::vector<Problem> FindContradictions(const JobSpec& spec);

/// Throws Error(kSpec) with one line for each, unless there is none.
void FailOnProblems(const std::vector<std::string>& lines);

}  // namespace omnitrain
