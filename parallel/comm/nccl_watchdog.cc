#include "parallel/comm/nccl_watchdog.h"

#include <algorithm>

#include "core/base/log.h"
#include "parallel/comm/mpi_world.h"

namespace omnitrain {
namespace {

using Clock = NcclFlight::Clock;

double SecondsSince(Clock::time_point time) {
  return std::chrono::duration<double>(Clock::now() - time).count();
}

}  // namespace

std::shared_ptr<NcclWatchdog> NcclWatchdog::Get(int device_index) {
  static std::mutex mutex;
  static std::weak_ptr<NcclWatchdog> the_one;
  std::lock_guard<std::mutex> lock(mutex);
  auto watchdog = the_one.lock();
  if (watchdog == nullptr) {
    watchdog = std::make_shared<NcclWatchdog>(device_index);
    the_one = watchdog;
  }
  OT_CHECK(watchdog->device_index_ == device_index, "NCCL on GPUs {} and {} of one process",
           watchdog->device_index_, device_index);
  return watchdog;
}

NcclWatchdog::NcclWatchdog(int device_index)
    : device_index_(device_index), thread_([this] { Run(); }) {}

NcclWatchdog::~NcclWatchdog() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    is_ending_ = true;
  }
  wakeup_.notify_all();
  thread_.join();
}

void NcclWatchdog::Add(NcclLink* link) {
  std::lock_guard<std::mutex> lock(mutex_);
  links_.push_back(link);
}

void NcclWatchdog::Remove(NcclLink* link) {
  std::lock_guard<std::mutex> lock(mutex_);
  links_.erase(std::remove(links_.begin(), links_.end(), link), links_.end());
}

void NcclWatchdog::Run() {
  constexpr auto kPeriod = std::chrono::milliseconds(50);
  // Otherwise the first call from this thread would make a context on GPU 0.
  cudaSetDevice(device_index_);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!is_ending_) {
    NcclLink* oldest_link = nullptr;
    std::shared_ptr<NcclFlight> oldest;
    for (NcclLink* link : links_) {
      const auto flight = Check(*link);
      if (flight == nullptr || (oldest != nullptr && oldest->since <= flight->since)) continue;
      oldest = flight;
      oldest_link = link;
    }
    Publish(oldest_link, oldest);
    oldest.reset();
    wakeup_.wait_for(lock, kPeriod, [this] { return is_ending_; });
  }
  Publish(nullptr, nullptr);
}

std::shared_ptr<NcclFlight> NcclWatchdog::Check(NcclLink& link) {
  ncclComm_t comm = nullptr;
  std::shared_ptr<NcclFlight> front;
  {
    std::lock_guard<std::mutex> lock(link.mutex_);
    comm = link.comm_;
    while (!link.flights_.empty()) {
      const std::shared_ptr<NcclFlight>& first = link.flights_.front();
      // Any other error than "not yet" is the GPU's, and shows wherever the main thread waits.
      if (!first->is_launched || cudaEventQuery(first->is_over) == cudaErrorNotReady) {
        front = first;
        break;
      }
      link.flights_.pop_front();
    }
  }
  if (comm != nullptr) {
    ncclResult_t error = ncclSuccess;
    if (ncclCommGetAsyncError(comm, &error) == ncclSuccess && error != ncclSuccess &&
        error != ncclInProgress) {
      Abort(link, fmt::format("NCCL: {}: {}", ncclGetErrorString(error), ncclGetLastError(comm)));
    }
  }
  if (front == nullptr) return nullptr;
  if (front->is_launched && !front->is_counting) {
    if (cudaEventQuery(front->is_ready) == cudaErrorNotReady) return nullptr;
    front->is_counting = true;
    front->since = Clock::now();
  }
  if (Clock::now() - front->since > link.owner_.timeout()) {
    Abort(link, link.Describe(*front, SecondsSince(front->since)));
  }
  return front;
}

void NcclWatchdog::Abort(NcclLink& culprit, const std::string& reason) {
  Log("comm", "{}", reason);
  for (NcclLink* link : links_) {
    if (link == &culprit) continue;
    std::lock_guard<std::mutex> lock(link->mutex_);
    if (link->flights_.empty()) continue;
    const NcclFlight& flight = *link->flights_.front();
    Log("comm", "{}", link->Describe(flight, SecondsSince(flight.since)));
  }
  MpiAbort(static_cast<int>(ErrorCode::kComm));
}

void NcclWatchdog::Publish(NcclLink* link, const std::shared_ptr<NcclFlight>& flight) {
  constexpr double kWorthReporting_s = 0.2;
  const bool is_worth_it = flight != nullptr && SecondsSince(flight->since) > kWorthReporting_s;
  if (is_worth_it && flight == published_) return;
  scope_.reset();
  published_.reset();
  if (!is_worth_it) return;
  const Communicator& owner = link->owner_;
  const CommCall& call = flight->call;
  const int peer = call.peer < 0 ? -1 : owner.ranks()[static_cast<size_t>(call.peer)];
  scope_ = std::make_unique<WaitScope>(owner.global_rank(), owner.name().c_str(),
                                       CommKindName(call.kind), call.seq, peer);
  published_ = flight;
}

}  // namespace omnitrain
