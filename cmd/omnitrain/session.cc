#include "cmd/omnitrain/session.h"

#include "core/base/log.h"
#include "parallel/comm/wait_record.h"

namespace omnitrain {
namespace {

MpiWorld::Options WorldOptions(const JobSpec& spec) {
  MpiWorld::Options options;
  options.timeout = std::chrono::milliseconds(static_cast<int64_t>(spec.runtime.timeout_s * 1000));
  return options;
}

}  // namespace

ParallelDegrees DegreesOf(const JobSpec& spec) {
  const LlmParallelSpec& llm = spec.parallel.llm;
  ParallelDegrees degrees;
  degrees.tp = llm.tp;
  degrees.cp = llm.cp;
  degrees.pp = llm.pp;
  degrees.vpp = llm.vpp;
  degrees.ep = llm.ep;
  degrees.dp = llm.dp;
  degrees.encoder_ranks = spec.parallel.encoder.ranks;
  for (size_t i = 0; i < spec.parallel.order.size() && i < degrees.order.size(); ++i) {
    for (Axis axis : Mesh::kDefaultOrder) {
      if (spec.parallel.order[i] == AxisName(axis)) degrees.order[i] = axis;
    }
  }
  return degrees;
}

Session::Session(const JobSpec& spec) : mpi_(WorldOptions(spec)) {
  SetLogRank(mpi_.rank());
  InstallCrashReporter();
  SetLayout(spec);
  device_ = NewCpuDevice(spec.runtime.threads);
  stream_ = device_->NewStream();
  ctx_ = std::make_unique<Context>(*device_, *stream_);
}

void Session::SetLayout(const JobSpec& spec) {
  layout_ = ParallelLayout::Build(DegreesOf(spec), mpi_.size());
  dp_ = mpi_.NewCommunicator("llm.dp", layout_.LlmGradientGroup(mpi_.rank()));
}

}  // namespace omnitrain
