#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/runtime/device.h"
#include "parallel/comm/communicator.h"

namespace omnitrain {

/// How tensors of a job's devices travel.
enum class Transport {
  kMpi,   // host memory as it is, a GPU's staged through the host: any number of ranks per GPU
  kNccl,  // from GPU to GPU: one rank per GPU
};
enum class TransportChoice { kAuto, kMpi, kNccl };

/// "mpi", "nccl".
const char* TransportName(Transport transport);

/// What `runtime.comm` comes to on these devices; `kAuto` is NCCL when every rank has a GPU of its
/// own.  Collective over `world`; rank 0 logs why kAuto took MPI on GPUs.
/// Errors: kSpec for kNccl where ranks share a GPU, or compute on the CPU.
Transport ChooseTransport(TransportChoice choice, Communicator& world, Device& device);

/// The decision behind it. gpus: of each rank "UUID name", empty on the CPU. why_not_nccl: empty
/// when NCCL can be used.
Transport ResolveTransport(TransportChoice choice, const std::vector<std::string>& gpus,
                           std::string* why_not_nccl);

/// `host` for tensors of `device` as well. For a GPU, `host` comes from an MpiWorld that stages for
/// it (MpiWorld::StageThroughHost): over kMpi that is all it takes and `host` is given back; over
/// kNccl it keeps the host's tensors. `has_messages`: Send and Recv will be used, which take
/// memory per peer over NCCL. `device` outlives the result.  Collective over the ranks of `host`.
std::unique_ptr<Communicator> NewDeviceCommunicator(Transport transport,
                                                    std::unique_ptr<Communicator> host,
                                                    Device& device, bool has_messages = false);

}  // namespace omnitrain
