#pragma once

#include <cstdint>
#include <string>

namespace omnitrain {

/// What each thread of this process waits for, kept where a signal handler can read it: mpirun
/// kills the other ranks about a second after one dies, and the first question is then who waited
/// for whom. A thread has one slot; 64 threads at once are recorded, further ones are not.

struct WaitFields {
  char communicator[48];
  char op[24];
  int64_t rank, seq, peer, since_ns;
  bool is_waiting;
};

/// For the life of this object the calling thread waits in one communication call. Scopes nest; the
/// outer one is recorded again when the inner ends.
class WaitScope {
 public:
  /// peer: a global rank, or -1 for the whole group. The strings are copied and cut
  /// to what WaitFields holds.
  WaitScope(int global_rank, const char* communicator, const char* op, int64_t seq, int peer);
  ~WaitScope();
  WaitScope(const WaitScope&) = delete;
  WaitScope& operator=(const WaitScope&) = delete;

 private:
  WaitFields outer_;
};

/// Names what the calling thread does ("llm:B3") for the life of this object; a wait inside shows
/// it.
class ActivityScope {
 public:
  explicit ActivityScope(const char* activity);
  ~ActivityScope();
  ActivityScope(const ActivityScope&) = delete;
  ActivityScope& operator=(const ActivityScope&) = delete;

 private:
  char outer_[48];
};

/// Writes one line per waiting or busy thread: "[comm] rank 5 waits 60 s in llm.dp AllReduce
/// (seq 412), doing llm:B3". Async-signal-safe: write(2) and nothing that allocates or locks.
void WriteWaitReport(int fd);

/// The same lines as a string; empty when no thread is recorded.
std::string WaitReport();

/// From now on SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT and SIGTERM write the report to stderr and
/// then do what they did before: an earlier handler runs, or the process ends by that signal. Call
/// after MPI is up (it has handlers of its own) and after the program's own SIGTERM handler.
void InstallCrashReporter();

}  // namespace omnitrain
