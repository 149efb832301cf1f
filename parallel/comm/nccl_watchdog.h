#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel/comm/nccl_link.h"
#include "parallel/comm/wait_record.h"

namespace omnitrain {

/// The thread that watches all NCCL links of this process: an error that NCCL found on its own, or
/// a call past the deadline of its communicator, ends the job by MpiAbort with code 6, after a line
/// for every call under way. Crash reports show the oldest call.
/// NCCL's own abort is not used: it would let the streams go on with values that never came, and
/// the main thread with them, perhaps into a checkpoint.
class NcclWatchdog {
 public:
  /// The process's watchdog, kept alive by those who hold it.
  static std::shared_ptr<NcclWatchdog> Get(int device_index);
  explicit NcclWatchdog(int device_index);
  ~NcclWatchdog();

  void Add(NcclLink* link);
  void Remove(NcclLink* link);

 private:
  void Run();
  /// The oldest call that keeps its ranks waiting now; null when there is none.
  std::shared_ptr<NcclFlight> Check(NcclLink& link);
  [[noreturn]] void Abort(NcclLink& culprit, const std::string& reason);
  void Publish(NcclLink* link, const std::shared_ptr<NcclFlight>& flight);

  const int device_index_;
  std::mutex mutex_;  // links_, is_ending_
  std::condition_variable wakeup_;
  std::vector<NcclLink*> links_;
  bool is_ending_ = false;
  std::shared_ptr<NcclFlight> published_;
  std::unique_ptr<WaitScope> scope_;
  std::thread thread_;
};

}  // namespace omnitrain
