#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "parallel/comm/communicator.h"

namespace omnitrain {

/// Ranks as threads of this process: the Communicator contract without MPI, for tests, sanitizers
/// and one-rank jobs. A call copies its input when it starts, so it never blocks before Wait and a
/// dropped handle costs nothing. Collectives that do not match over the ranks are errors here.
class InProcessWorld {
 public:
  explicit InProcessWorld(int size,
                          std::chrono::milliseconds timeout = std::chrono::milliseconds(60000));
  ~InProcessWorld();

  /// Runs `body` once per rank, each in a thread of its own with its "world" communicator, and
  /// joins them all. The first rank that throws releases the others from their waits; its exception
  /// is thrown on. May be called again afterwards.
  void Run(const std::function<void(Communicator&)>& body);

  struct State;

 private:
  std::shared_ptr<State> state_;
};

/// A world of this one thread.
std::unique_ptr<Communicator> NewSelfCommunicator(const std::string& name = "world");

}  // namespace omnitrain
