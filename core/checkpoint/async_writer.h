#pragma once

#include <functional>
#include <future>

namespace omnitrain {

/// Runs one job at a time on a thread of its own: a checkpoint is written while training goes on.
/// What the job reads is a snapshot of the caller's that must live until Wait().
class AsyncWriter {
 public:
  AsyncWriter() = default;
  /// Waits; an error that nobody waited for is logged.
  ~AsyncWriter();
  AsyncWriter(const AsyncWriter&) = delete;
  AsyncWriter& operator=(const AsyncWriter&) = delete;

  /// Waits for the job before, then starts this one. Throws the error of the job before.
  void Start(std::function<void()> job);
  /// Returns when no job runs. Throws the job's error, once.
  void Wait();
  /// Whether a job was started and has not finished yet.
  bool IsRunning() const;

 private:
  std::future<void> job_;
};

}  // namespace omnitrain
