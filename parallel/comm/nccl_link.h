#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"

namespace omnitrain {

class NcclWatchdog;

/// Throws Error(kComm), beginning with `what`, unless an NCCL call succeeded.
void RequireNccl(ncclResult_t result, const std::string& what);

/// CUDA events without timing, used again and again. Thread safe.
class CudaEventPool {
 public:
  CudaEventPool() = default;
  ~CudaEventPool();
  CudaEventPool(const CudaEventPool&) = delete;
  CudaEventPool& operator=(const CudaEventPool&) = delete;
  cudaEvent_t Take();
  void GiveBack(cudaEvent_t event);

 private:
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

/// One call from just before NCCL gets it until the GPU is through it. Shared by the caller's
/// handle, which orders streams by it, and the watchdog, which asks whether it is over.
struct NcclFlight {
  using Clock = std::chrono::steady_clock;

  explicit NcclFlight(std::shared_ptr<CudaEventPool> events);
  ~NcclFlight();
  NcclFlight(const NcclFlight&) = delete;
  NcclFlight& operator=(const NcclFlight&) = delete;

  CommCall call;
  std::string what;  // in place of `call`, where this is no call of the communicator
  cudaEvent_t is_ready = nullptr, is_over = nullptr;
  std::atomic<bool> is_launched{false};
  // Since when it keeps its ranks waiting: from the start until NCCL has taken it, and then from
  // the moment that the GPU can begin with it. Only the watchdog touches this.
  Clock::time_point since = Clock::now();
  bool is_counting = false;

 private:
  std::shared_ptr<CudaEventPool> events_;  // outlives the links: handles may
};

/// An NCCL communicator with a high-priority stream of its own, watched from before it exists.
/// Threads: one thread calls; the watchdog reads.
class NcclLink {
 public:
  /// Collective over the link's ranks. `owner` gives names and the deadline and outlives this.
  /// `max_ctas`: thread blocks that a call takes at most; 0: as many as NCCL thinks best.
  NcclLink(const Communicator& owner, int device_index, const ncclUniqueId& id, int size, int rank,
           int max_ctas = 0);
  /// Waits for the calls under way; after an error it aborts them instead.
  ~NcclLink();
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  /// Gives NCCL the call on the link's stream, behind the work that `caller` holds now.
  using LaunchFunction = std::function<ncclResult_t(const CommCall&, ncclComm_t, cudaStream_t)>;
  std::shared_ptr<NcclFlight> Launch(CommCall call, Stream& caller, const LaunchFunction& launch);

 private:
  friend class NcclWatchdog;

  std::string Describe(const NcclFlight& flight, double waited_s) const;
  void Push(std::shared_ptr<NcclFlight> flight);

  const Communicator& owner_;
  std::shared_ptr<NcclWatchdog> watchdog_;
  std::shared_ptr<CudaEventPool> events_ = std::make_shared<CudaEventPool>();
  cudaStream_t stream_ = nullptr;
  std::mutex mutex_;  // comm_ while it is made, and flights_
  ncclComm_t comm_ = nullptr;
  std::deque<std::shared_ptr<NcclFlight>> flights_;  // in the order of the stream
};

}  // namespace omnitrain
