#include "parallel/comm/device_communicator.h"

#include <map>
#include <utility>

#include "core/base/log.h"
#include "core/runtime/has_cuda.h"
#include "parallel/comm/nccl_communicator.h"

namespace omnitrain {
namespace {

std::string WhyNotNccl(const std::vector<std::string>& gpus) {
  std::map<std::string, size_t> rank_of;
  for (size_t r = 0; r < gpus.size(); ++r) {
    if (gpus[r].empty()) return fmt::format("rank {} computes on the CPU", r);
    const size_t uuid_end = gpus[r].find(' ');
    const auto [it, is_new] = rank_of.emplace(gpus[r].substr(0, uuid_end), r);
    if (is_new) continue;
    return fmt::format("ranks {} and {} share GPU {}", it->second, r,
                       uuid_end == std::string::npos ? gpus[r] : gpus[r].substr(uuid_end + 1));
  }
  return "";
}

}  // namespace

const char* TransportName(Transport transport) {
  return transport == Transport::kMpi ? "mpi" : "nccl";
}

Transport ResolveTransport(TransportChoice choice, const std::vector<std::string>& gpus,
                           std::string* why_not_nccl) {
  *why_not_nccl = WhyNotNccl(gpus);
  if (choice == TransportChoice::kMpi) return Transport::kMpi;
  if (why_not_nccl->empty()) return Transport::kNccl;
  OT_REQUIRE(choice == TransportChoice::kAuto, ErrorCode::kSpec,
             "runtime.comm: nccl: {}; use runtime.comm: mpi", *why_not_nccl);
  return Transport::kMpi;
}

Transport ChooseTransport(TransportChoice choice, Communicator& world, Device& device) {
  std::string mine;
  if constexpr (kHasCuda) {
    if (device.kind() == DeviceKind::kCuda) mine = nccl::GpuIdentity(device);
  }
  std::string why_not_nccl;
  const Transport transport = ResolveTransport(choice, world.AllGatherStrings(mine), &why_not_nccl);
  const bool is_news = choice == TransportChoice::kAuto && transport == Transport::kMpi &&
                       device.kind() == DeviceKind::kCuda;
  if (is_news && world.rank() == 0) {
    Log("comm", "{}: tensors go through the host (runtime.comm: mpi)", why_not_nccl);
  }
  return transport;
}

std::unique_ptr<Communicator> NewDeviceCommunicator(Transport transport,
                                                    std::unique_ptr<Communicator> host,
                                                    Device& device, bool has_messages) {
  if (transport == Transport::kMpi) return host;
  if constexpr (kHasCuda) {
    return nccl::NewCommunicator(std::move(host), device, has_messages);
  } else {
    OT_CHECK(false, "{}: no NCCL in a build without CUDA", host->name());
    return nullptr;
  }
}

}  // namespace omnitrain
