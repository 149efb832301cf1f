#include "tests/parallel/comm/device_tensors.h"

#include <utility>

namespace omnitrain {
namespace {

bool IsPresent(const Tensor& t) { return t.data != nullptr || t.shape.rank() > 0; }

/// The device twins of a call's tensors.
class Twins {
 public:
  Twins(Device& device, Stream& stream, CommCall* call) : device_(device), host_out_(call->out) {
    const Tensor in = call->in, out = call->out;
    if (IsPresent(out)) {
      out_ = Buffer(device, static_cast<size_t>(out.num_bytes()));
      call->out = Tensor(out_.data(), out.dtype, out.shape, device.kind());
      // What the call leaves alone comes back as it was.
      device.Copy(out_.data(), out.data, static_cast<size_t>(out.num_bytes()), stream);
    }
    if (!IsPresent(in)) return;
    const auto* begin = static_cast<const char*>(out.data);
    const auto* at = static_cast<const char*>(in.data);
    if (begin != nullptr && at >= begin && at < begin + out.num_bytes()) {
      call->in =
          Tensor(static_cast<char*>(out_.data()) + (at - begin), in.dtype, in.shape, device.kind());
      return;
    }
    in_ = Buffer(device, static_cast<size_t>(in.num_bytes()));
    device.Copy(in_.data(), in.data, static_cast<size_t>(in.num_bytes()), stream);
    call->in = Tensor(in_.data(), in.dtype, in.shape, device.kind());
  }

  void CopyBack(Stream& stream) {
    if (!IsPresent(host_out_)) return;
    device_.Copy(host_out_.data, out_.data(), static_cast<size_t>(host_out_.num_bytes()), stream);
    stream.Synchronize();
  }

 private:
  Device& device_;
  Tensor host_out_;
  Buffer in_, out_;
};

class PendingTwins : public PendingComm {
 public:
  PendingTwins(std::unique_ptr<PendingComm> pending, std::unique_ptr<Twins> twins, Stream& stream)
      : twins_(std::move(twins)), pending_(std::move(pending)), stream_(stream) {}

  void Wait(Stream&) override {
    if (pending_ != nullptr) pending_->Wait(stream_);
    twins_->CopyBack(stream_);
  }

 private:
  std::unique_ptr<Twins> twins_;  // outlives the call
  std::unique_ptr<PendingComm> pending_;
  Stream& stream_;
};

}  // namespace

DeviceTensorCommunicator::DeviceTensorCommunicator(Communicator& transport, Device& device,
                                                   Stream& stream)
    : Communicator(transport.name(), transport.ranks(), transport.rank(), transport.timeout()),
      transport_(transport),
      device_(device),
      stream_(stream) {}

DeviceTensorCommunicator::DeviceTensorCommunicator(std::unique_ptr<Communicator> transport,
                                                   Device& device, Stream& stream)
    : DeviceTensorCommunicator(*transport, device, stream) {
  owned_ = std::move(transport);
}

std::unique_ptr<Communicator> DeviceTensorCommunicator::NewGroup(
    const std::string& name, const std::vector<int>& global_ranks) {
  return std::make_unique<DeviceTensorCommunicator>(transport_.NewGroup(name, global_ranks),
                                                    device_, stream_);
}

std::unique_ptr<PendingComm> DeviceTensorCommunicator::Start(CommCall call, Stream& stream) {
  if (call.kind == CommKind::kBarrier) return StartOn(transport_, std::move(call), stream);
  auto twins = std::make_unique<Twins>(device_, stream_, &call);
  auto pending = StartOn(transport_, std::move(call), stream_);
  return std::make_unique<PendingTwins>(std::move(pending), std::move(twins), stream_);
}

}  // namespace omnitrain
