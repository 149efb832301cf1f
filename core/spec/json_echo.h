#pragma once

#include "core/base/json.h"
#include "core/spec/job_spec.h"

namespace omnitrain {

/// Every key with its value, resolved: the `spec` of the start record.
Json ToJson(const JobSpec& spec);

}  // namespace omnitrain
