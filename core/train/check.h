#pragma once

#include <functional>
#include <string>

#include "core/spec/job_spec.h"
#include "parallel/mesh/parallel_layout.h"

namespace omnitrain {

/// The machines that a job is meant for, which a check need not run on.
struct CheckMachine {
  int ranks_per_node = 8;
  /// The devices' kind where the spec leaves it open.
  bool has_gpu = false;
  /// Memory of a device; 0: not known.
  int64_t device_bytes = 0;
};

/// Everything that can be known of a job without running it, as lines of text: the resolved spec,
/// the model, the layout, memory, FLOPs and traffic per rank (from the real sizes of the first
/// steps of one replica), the data with one decoded sample and its label mask, and warnings. Needs
/// no MPI and no accelerator, and no memory for the parameters. Errors: those that the job would
/// meet at its start; a layout that the model does not split over comes first of all.
void CheckJob(const JobSpec& spec, const ParallelLayout& layout, const CheckMachine& machine,
              const std::function<void(const std::string&)>& print);

}  // namespace omnitrain
