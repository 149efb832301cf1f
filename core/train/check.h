#pragma once

#include <functional>
#include <string>

#include "core/spec/job_spec.h"
#include "parallel/mesh/parallel_layout.h"

namespace omnitrain {

/// Everything that can be known of a job without running it, as lines of text: the resolved spec,
/// the model, the layout, memory, FLOPs and traffic per rank (from the real sizes of the first
/// steps), the data with one decoded sample and its label mask, and warnings. Needs no MPI and no
/// accelerator, and no memory for the parameters. Errors: those that the job would meet at its
/// start.
void CheckJob(const JobSpec& spec, const ParallelLayout& layout,
              const std::function<void(const std::string&)>& print);

}  // namespace omnitrain
