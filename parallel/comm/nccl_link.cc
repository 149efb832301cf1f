#include "parallel/comm/nccl_link.h"

#include <exception>
#include <utility>

#include "core/runtime/cuda_check.h"
#include "parallel/comm/nccl_watchdog.h"

namespace omnitrain {

void RequireNccl(ncclResult_t result, const std::string& what) {
  if (result == ncclSuccess) return;
  Fail(ErrorCode::kComm, "{}: NCCL: {}: {}", what, ncclGetErrorString(result),
       ncclGetLastError(nullptr));
}

CudaEventPool::~CudaEventPool() {
  for (cudaEvent_t event : free_) cudaEventDestroy(event);
}

cudaEvent_t CudaEventPool::Take() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!free_.empty()) {
      const cudaEvent_t event = free_.back();
      free_.pop_back();
      return event;
    }
  }
  cudaEvent_t event = nullptr;
  OT_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

void CudaEventPool::GiveBack(cudaEvent_t event) {
  std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(event);
}

NcclFlight::NcclFlight(std::shared_ptr<CudaEventPool> events)
    : is_ready(events->Take()), is_over(events->Take()), events_(std::move(events)) {}

NcclFlight::~NcclFlight() {
  events_->GiveBack(is_ready);
  events_->GiveBack(is_over);
}

NcclLink::NcclLink(const Communicator& owner, int device_index, const ncclUniqueId& id, int size,
                   int rank, int max_ctas)
    : owner_(owner), watchdog_(NcclWatchdog::Get(device_index)) {
  OT_CUDA(cudaSetDevice(device_index));
  int least = 0, greatest = 0;
  OT_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  // Communication first: what it holds up waits on other GPUs as well.
  OT_CUDA(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
  auto flight = std::make_shared<NcclFlight>(events_);
  flight->what = fmt::format("for the other ranks to join NCCL's {}", owner.name());
  Push(flight);
  watchdog_->Add(this);
  ncclComm_t comm = nullptr;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  if (max_ctas > 0) config.maxCTAs = max_ctas;
  const ncclResult_t result = ncclCommInitRankConfig(&comm, size, id, rank, &config);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    flights_.clear();
    if (result == ncclSuccess) comm_ = comm;
  }
  if (result != ncclSuccess) {
    watchdog_->Remove(this);
    cudaStreamDestroy(stream_);
    RequireNccl(result, owner.name());
  }
}

NcclLink::~NcclLink() {
  const bool has_failed = std::uncaught_exceptions() > 0;
  // Under the watchdog's eyes still.
  if (!has_failed) cudaStreamSynchronize(stream_);
  watchdog_->Remove(this);
  if (has_failed) {
    ncclCommAbort(comm_);
  } else {
    ncclCommDestroy(comm_);
  }
  cudaStreamDestroy(stream_);
}

void NcclLink::Push(std::shared_ptr<NcclFlight> flight) {
  std::lock_guard<std::mutex> lock(mutex_);
  flights_.push_back(std::move(flight));
}

std::shared_ptr<NcclFlight> NcclLink::Launch(CommCall call, Stream& caller,
                                             const LaunchFunction& launch) {
  auto flight = std::make_shared<NcclFlight>(events_);
  flight->call = std::move(call);
  OT_CUDA(cudaEventRecord(flight->is_ready, static_cast<cudaStream_t>(caller.native())));
  OT_CUDA(cudaStreamWaitEvent(stream_, flight->is_ready));
  // Listed first: the launch itself may wait for peers, to connect with them.
  Push(flight);
  const ncclResult_t result = launch(flight->call, comm_, stream_);
  if (result != ncclSuccess) RequireNccl(result, Describe(*flight, 0));
  OT_CUDA(cudaEventRecord(flight->is_over, stream_));
  flight->is_launched = true;
  return flight;
}

std::string NcclLink::Describe(const NcclFlight& flight, double waited_s) const {
  if (flight.what.empty()) return owner_.DescribeWait(flight.call, waited_s);
  return fmt::format("rank {} waits {:.3g} s {}", owner_.global_rank(), waited_s, flight.what);
}

}  // namespace omnitrain
