#include "cmd/omnitrain/session.h"

#include <algorithm>

#include "core/base/log.h"
#include "parallel/comm/wait_record.h"

namespace omnitrain {
namespace {

MpiWorld::Options WorldOptions(const JobSpec& spec) {
  MpiWorld::Options options;
  options.timeout = std::chrono::milliseconds(static_cast<int64_t>(spec.runtime.timeout_s * 1000));
  return options;
}

// `auto` takes a GPU where there is one and the precision allows it.
bool UsesCuda(const JobSpec& spec) {
  const bool has_gpu = NumCudaDevices() > 0;
  OT_REQUIRE(has_gpu || spec.precision != Precision::kBf16, ErrorCode::kSpec,
             "precision: bf16 needs a GPU, and this process sees none; use fp32");
  if (spec.runtime.device == DeviceChoice::kAuto) {
    return has_gpu && spec.precision != Precision::kFp64;
  }
  return spec.runtime.device == DeviceChoice::kCuda;
}

TransportChoice ChoiceOf(CommChoice choice) {
  if (choice == CommChoice::kAuto) return TransportChoice::kAuto;
  return choice == CommChoice::kNccl ? TransportChoice::kNccl : TransportChoice::kMpi;
}

}  // namespace

Session::Session(const JobSpec& spec) : mpi_(WorldOptions(spec)) {
  SetLogRank(mpi_.rank());
  InstallCrashReporter();
  ParallelLayout::Build(DegreesOf(spec), mpi_.size());  // refuses what does not fit the world
  device_ = UsesCuda(spec) ? NewCudaDevice(mpi_.local_rank() % std::max(1, NumCudaDevices()))
                           : NewCpuDevice(spec.runtime.threads);
  if (device_->kind() == DeviceKind::kCuda) mpi_.StageThroughHost(*device_);
  transport_ = ChooseTransport(ChoiceOf(spec.runtime.comm), mpi_.world(), *device_);
  stream_ = device_->NewStream();
  ctx_ = std::make_unique<Context>(*device_, *stream_);
}

JobRuntime Session::RuntimeFor(const JobSpec& spec) {
  JobRuntime runtime;
  runtime.ctx = ctx_.get();
  runtime.world = &world();
  runtime.layout = ParallelLayout::Build(DegreesOf(spec), mpi_.size());
  runtime.new_group = [this](const std::string& name, const std::vector<int>& ranks,
                             bool has_messages) { return NewGroup(name, ranks, has_messages); };
  return runtime;
}

std::unique_ptr<Communicator> Session::NewGroup(const std::string& name,
                                                const std::vector<int>& ranks, bool has_messages) {
  return NewDeviceCommunicator(transport_, mpi_.NewCommunicator(name, ranks), *device_,
                               has_messages);
}

}  // namespace omnitrain
