#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/runtime/context.h"
#include "core/spec/job_spec.h"
#include "parallel/comm/device_communicator.h"
#include "parallel/comm/mpi_world.h"
#include "parallel/mesh/parallel_layout.h"

namespace omnitrain {

/// What every rank of a command that communicates needs: MPI, its device and stream, its place in
/// the layout and the groups that follow. Errors: kSpec for a layout that does not fit the world,
/// before any group is made.
class Session {
 public:
  explicit Session(const JobSpec& spec);

  /// Replaces layout and groups by those of another spec.  Collective over the world.
  void SetLayout(const JobSpec& spec);

  Communicator& world() { return mpi_.world(); }
  /// How tensors of the device travel.
  Transport transport() const { return transport_; }
  /// Ranks that share all parameters: the group over which ZeRO divides the optimizer state.
  Communicator& dp() { return *dp_; }
  Context& ctx() { return *ctx_; }
  const ParallelLayout& layout() const { return layout_; }

  /// A group for tensors of the device; `has_messages`: Send and Recv will be used.  Collective
  /// over `ranks`.
  std::unique_ptr<Communicator> NewGroup(const std::string& name, const std::vector<int>& ranks,
                                         bool has_messages);

 private:
  void MakeGroups();

  std::unique_ptr<Device> device_;  // outlives MPI, which stages through its memory
  MpiWorld mpi_;
  Transport transport_ = Transport::kMpi;
  ParallelLayout layout_;
  std::unique_ptr<Communicator> dp_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Context> ctx_;
};

/// The degrees of a spec's `parallel` section.
ParallelDegrees DegreesOf(const JobSpec& spec);

}  // namespace omnitrain
