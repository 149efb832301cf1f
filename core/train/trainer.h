#pragma once

#include <string>

#include "core/runtime/context.h"
#include "core/spec/job_spec.h"
#include "parallel/comm/communicator.h"

namespace omnitrain {

/// What a rank is given to train with.
struct TrainSetup {
  Context* ctx = nullptr;
  Communicator* world = nullptr;
  Communicator* dp = nullptr;   // ranks that share all parameters
  std::string layout;           // in words, for the start record
  std::string resume = "auto";  // auto: the newest whole checkpoint of run.out; none; or a path
};

/// The training job: from the spec to the `end` record. Returns 0, or 128 + n when signal n ended
/// the run after saving. Collective.  Errors: all kinds; kDiverged when the loss or a gradient is
/// not finite, after saving the last good state.
int RunTraining(const JobSpec& spec, const TrainSetup& setup);

/// Writes the parameters of a run's newest checkpoint (or of the checkpoint directory itself) as a
/// Hugging Face directory.  Errors: kSpec when there is none.
void ExportRun(Context& ctx, const std::string& run_or_checkpoint, const std::string& target,
               SaveDtype dtype);

}  // namespace omnitrain
