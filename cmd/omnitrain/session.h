#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/runtime/context.h"
#include "core/spec/job_spec.h"
#include "core/train/layout_groups.h"
#include "parallel/comm/device_communicator.h"
#include "parallel/comm/mpi_world.h"

namespace omnitrain {

/// What every rank of a command that communicates needs: MPI, its device and stream. Errors: kSpec
/// for a layout that does not fit the world, before any group is made.
class Session {
 public:
  explicit Session(const JobSpec& spec);

  /// What a job of this world and device runs with. Lives as long as the session. Errors: kSpec for
  /// a layout that does not fit the world.
  JobRuntime RuntimeFor(const JobSpec& spec);

  Communicator& world() { return mpi_.world(); }
  /// How tensors of the device travel.
  Transport transport() const { return transport_; }
  Context& ctx() { return *ctx_; }

  /// A group for tensors of the device; `has_messages`: Send and Recv will be used.  Collective
  /// over `ranks`.
  std::unique_ptr<Communicator> NewGroup(const std::string& name, const std::vector<int>& ranks,
                                         bool has_messages);

 private:
  std::unique_ptr<Device> device_;  // outlives MPI, which stages through its memory
  MpiWorld mpi_;
  Transport transport_ = Transport::kMpi;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Context> ctx_;
};

}  // namespace omnitrain
