#include "parallel/comm/nccl_communicator.h"

#include <unistd.h>

#include <cstring>
#include <utility>
#include <vector>

#include "core/runtime/cuda_check.h"
#include "parallel/comm/nccl_link.h"

namespace omnitrain::nccl {
namespace {

ncclDataType_t NcclType(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return ncclFloat64;
    case DType::kF32:
      return ncclFloat32;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kF16:
      return ncclFloat16;
    case DType::kI64:
      return ncclInt64;
    case DType::kI32:
      return ncclInt32;
    case DType::kU8:
      return ncclUint8;
  }
  OT_CHECK(false, "no NCCL type for {}", DTypeName(dtype));
  return ncclUint8;
}

ncclUniqueId NewId() {
  ncclUniqueId id;
  RequireNccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
  return id;
}

std::string BytesOf(const ncclUniqueId& id) { return std::string(id.internal, sizeof(id)); }

ncclUniqueId IdOf(const std::string& bytes) {
  OT_CHECK(bytes.size() == sizeof(ncclUniqueId), "{} bytes of an NCCL id", bytes.size());
  ncclUniqueId id;
  std::memcpy(&id, bytes.data(), sizeof(id));
  return id;
}

/// A message that waits for its peer holds its thread blocks' multiprocessors all the while: these
/// are few, as messages travel beside compute and need not be fast.
constexpr int kMessageCtas = 4;

class PendingNccl : public PendingComm {
 public:
  explicit PendingNccl(std::shared_ptr<NcclFlight> flight) : flight_(std::move(flight)) {}
  void Wait(Stream& stream) override {
    OT_CUDA(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream.native()), flight_->is_over));
  }

 private:
  std::shared_ptr<NcclFlight> flight_;
};

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, Device& device, bool has_messages)
      : Communicator(host->name(), host->ranks(), host->rank(), host->timeout()),
        host_(std::move(host)),
        device_(device),
        has_messages_(has_messages) {
    const auto ids = host_->AllGatherStrings(rank() == 0 ? BytesOf(NewId()) : "");
    all_ = std::make_unique<NcclLink>(*this, device_.index(), IdOf(ids[0]), size(), rank());
    if (has_messages_) MakeMessageLinks();
  }

  // NCCL's end of a link waits for the other end: as when they were made, every rank takes its
  // share of one sequence.
  ~NcclCommunicator() override {
    for (int from = 0; has_messages_ && from < size(); ++from) {
      for (int to = 0; to < size(); ++to) {
        if (from == rank()) to_[static_cast<size_t>(to)].reset();
        if (to == rank()) from_[static_cast<size_t>(from)].reset();
      }
    }
  }

  std::unique_ptr<Communicator> NewGroup(const std::string& name,
                                         const std::vector<int>& global_ranks) override {
    return nccl::NewCommunicator(host_->NewGroup(name, global_ranks), device_, has_messages_);
  }

 protected:
  std::unique_ptr<PendingComm> Start(CommCall call, Stream& stream) override;

 private:
  void MakeMessageLinks();
  void Connect();
  static ncclResult_t GiveMessage(const CommCall& call, ncclComm_t comm, cudaStream_t stream);
  ncclResult_t GiveCollective(const CommCall& call, ncclComm_t comm, cudaStream_t stream);
  ncclResult_t GiveAllToAll(const CommCall& call, ncclComm_t comm, cudaStream_t stream);

  std::unique_ptr<Communicator> host_;
  Device& device_;
  const bool has_messages_;
  std::unique_ptr<NcclLink> all_;
  std::vector<std::unique_ptr<NcclLink>> to_, from_;  // by peer
};

void NcclCommunicator::MakeMessageLinks() {
  to_.resize(static_cast<size_t>(size()));
  from_.resize(static_cast<size_t>(size()));
  // The sender makes the id of each of its links.
  std::string mine;
  for (int to = 0; to < size(); ++to) {
    mine += to == rank() ? std::string(sizeof(ncclUniqueId), '\0') : BytesOf(NewId());
  }
  const std::vector<std::string> ids = host_->AllGatherStrings(mine);
  // Every rank makes its share of one sequence, so none waits in a circle.
  for (int from = 0; from < size(); ++from) {
    for (int to = 0; to < size(); ++to) {
      if (from == to || (from != rank() && to != rank())) continue;
      const ncclUniqueId id = IdOf(ids[static_cast<size_t>(from)].substr(
          static_cast<size_t>(to) * sizeof(ncclUniqueId), sizeof(ncclUniqueId)));
      auto link = std::make_unique<NcclLink>(*this, device_.index(), id, 2, from == rank() ? 0 : 1,
                                             kMessageCtas);
      auto& links = from == rank() ? to_ : from_;
      links[static_cast<size_t>(from == rank() ? to : from)] = std::move(link);
    }
  }
  Connect();
}

void NcclCommunicator::Connect() {
  // The first message of a link connects its ends and blocks the host until both are at it. Left to
  // the caller's order, two ranks that first send to each other would wait for ever.
  const OwnedTensor byte(device_, DType::kU8, {1});
  const auto stream = device_.NewStream();
  device_.Fill(byte->data, 0, 1, *stream);
  for (int from = 0; from < size(); ++from) {
    for (int to = 0; to < size(); ++to) {
      if (from == to || (from != rank() && to != rank())) continue;
      CommCall call;
      call.kind = from == rank() ? CommKind::kSend : CommKind::kRecv;
      call.peer = from == rank() ? to : from;
      (from == rank() ? call.in : call.out) = *byte;
      auto& links = from == rank() ? to_ : from_;
      NcclLink& link = *links[static_cast<size_t>(call.peer)];
      PendingNccl(link.Launch(std::move(call), *stream, GiveMessage)).Wait(*stream);
    }
  }
  stream->Synchronize();
}

std::unique_ptr<PendingComm> NcclCommunicator::Start(CommCall call, Stream& stream) {
  if (!call.is_on_device()) return StartOn(*host_, std::move(call), stream);
  if (call.bytes() == 0) return nullptr;  // on every rank, or with every peer
  if (call.kind == CommKind::kSend || call.kind == CommKind::kRecv) {
    OT_CHECK(has_messages_, "{} {}: this communicator was made without messages", name(),
             CommKindName(call.kind));
    auto& links = call.kind == CommKind::kSend ? to_ : from_;
    NcclLink& link = *links[static_cast<size_t>(call.peer)];
    return std::make_unique<PendingNccl>(link.Launch(std::move(call), stream, GiveMessage));
  }
  return std::make_unique<PendingNccl>(all_->Launch(
      std::move(call), stream, [this](const CommCall& c, ncclComm_t comm, cudaStream_t own) {
        return GiveCollective(c, comm, own);
      }));
}

ncclResult_t NcclCommunicator::GiveMessage(const CommCall& call, ncclComm_t comm,
                                           cudaStream_t stream) {
  // The sender is rank 0 of its link.
  if (call.kind == CommKind::kSend) {
    return ncclSend(call.in.data, static_cast<size_t>(call.in.num_bytes()), ncclUint8, 1, comm,
                    stream);
  }
  return ncclRecv(call.out.data, static_cast<size_t>(call.out.num_bytes()), ncclUint8, 0, comm,
                  stream);
}

ncclResult_t NcclCommunicator::GiveCollective(const CommCall& call, ncclComm_t comm,
                                              cudaStream_t stream) {
  const ncclDataType_t type = NcclType(call.out.dtype);
  const ncclRedOp_t op = call.op == ReduceOp::kSum ? ncclSum : ncclMax;
  const void* in = call.in.data;
  void* out = call.out.data;
  const auto in_count = static_cast<size_t>(call.in.num_elements());
  const auto out_count = static_cast<size_t>(call.out.num_elements());
  switch (call.kind) {
    case CommKind::kAllReduce:
      return ncclAllReduce(in, out, out_count, type, op, comm, stream);
    case CommKind::kReduceScatter:
      return ncclReduceScatter(in, out, out_count, type, op, comm, stream);
    case CommKind::kAllGather:
      return ncclAllGather(in, out, in_count, type, comm, stream);
    case CommKind::kBroadcast:
      return ncclBroadcast(in, out, out_count, type, call.peer, comm, stream);
    case CommKind::kAllToAllV:
      return GiveAllToAll(call, comm, stream);
    case CommKind::kSend:
    case CommKind::kRecv:
    case CommKind::kBarrier:
      break;
  }
  OT_CHECK(false, "{} is no collective on tensors", CommKindName(call.kind));
  return ncclInvalidUsage;
}

ncclResult_t NcclCommunicator::GiveAllToAll(const CommCall& call, ncclComm_t comm,
                                            cudaStream_t stream) {
  const auto* from = static_cast<const char*>(call.in.data);
  auto* to = static_cast<char*>(call.out.data);
  ncclResult_t result = ncclGroupStart();
  for (int r = 0; r < size() && result == ncclSuccess; ++r) {
    const auto sent = static_cast<size_t>(call.in_bytes[static_cast<size_t>(r)]);
    const auto received = static_cast<size_t>(call.out_bytes[static_cast<size_t>(r)]);
    if (r == rank()) {
      if (sent > 0) {
        OT_CUDA(cudaMemcpyAsync(to, from, sent, cudaMemcpyDeviceToDevice, stream));
      }
    } else {
      if (sent > 0) result = ncclSend(from, sent, ncclUint8, r, comm, stream);
      if (received > 0 && result == ncclSuccess) {
        result = ncclRecv(to, received, ncclUint8, r, comm, stream);
      }
    }
    from += sent;
    to += received;
  }
  const ncclResult_t end = ncclGroupEnd();
  return result == ncclSuccess ? end : result;
}

}  // namespace

std::unique_ptr<Communicator> NewCommunicator(std::unique_ptr<Communicator> host, Device& device,
                                              bool has_messages) {
  if (host->size() == 1) return host;  // it copies on the device itself
  return std::make_unique<NcclCommunicator>(std::move(host), device, has_messages);
}

std::string GpuIdentity(Device& device) {
  cudaDeviceProp properties;
  OT_CUDA(cudaGetDeviceProperties(&properties, device.index()));
  std::string text = "GPU-";
  for (char c : properties.uuid.bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
  char bus_id[32] = "", host[256] = "";
  OT_CUDA(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), device.index()));
  gethostname(host, sizeof(host) - 1);
  return fmt::format("{} {} {} on {}", text, bus_id, properties.name, host);
}

}  // namespace omnitrain::nccl
