#pragma once

#include <memory>
#include <string>

#include "core/runtime/device.h"
#include "parallel/comm/communicator.h"

namespace omnitrain::nccl {

// What device_communicator.h gives out, in a build with CUDA.

/// Memory of `device` over NCCL; host tensors, barriers and the making of groups stay with `host`.
/// A call neither blocks the host nor the caller's stream: it runs on a stream of the communicator,
/// behind what the caller's stream holds, and Wait() orders the stream behind it. (The first calls
/// of a kind connect the ranks, which may block the host.)
/// Deterministic: the same calls on the same GPUs give the same bits. The order of a sum is NCCL's,
/// not that of the ranks; bf16 sums may round at each step; kMax may lose a NaN.
/// Messages: each direction between two ranks is a link of its own, so that a message waits only
/// for earlier ones of its direction. Within a direction both ends make their calls in one order,
/// whatever the tags. Links take memory, so only a communicator made with `has_messages` has them.
/// Errors: see nccl_watchdog.h. Collective over the ranks of `host`.
std::unique_ptr<Communicator> NewCommunicator(std::unique_ptr<Communicator> host, Device& device,
                                              bool has_messages);

/// "UUID name": the GPU in the words of the driver, the same in every process that uses it, and a
/// name for people.
std::string GpuIdentity(Device& device);

}  // namespace omnitrain::nccl
