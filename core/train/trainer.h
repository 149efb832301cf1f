#pragma once

#include <string>

#include "core/runtime/context.h"
#include "core/spec/job_spec.h"
#include "core/train/layout_groups.h"

namespace omnitrain {

/// The training job: from the spec to the `end` record. `resume`: auto (the newest whole checkpoint
/// of run.out), none, or a path. Returns 0, or 128 + n when signal n ended
/// the run after saving. Collective.  Errors: all kinds; kDiverged when the loss or a gradient is
/// not finite, after saving the last good state.
int RunTraining(const JobSpec& spec, const JobRuntime& runtime, const std::string& resume);

/// Writes the parameters of a run's newest checkpoint (or of the checkpoint directory itself) as a
/// Hugging Face directory.  Errors: kSpec when there is none.
void ExportRun(Context& ctx, const std::string& run_or_checkpoint, const std::string& target,
               SaveDtype dtype);

}  // namespace omnitrain
