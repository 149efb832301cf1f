// mpi_failure_program HOW: ranks that fail in one way each, for mpi_failure_test.sh.
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>

#include "core/base/log.h"
#include "parallel/comm/mpi_world.h"
#include "parallel/comm/wait_record.h"

using namespace omnitrain;

namespace {

class NoStream : public Stream {
 public:
  void Synchronize() override {}
  void* native() const override { return nullptr; }
};

void Run(const std::string& how, MpiWorld& world) {
  NoStream stream;
  const bool is_last = world.rank() == world.size() - 1;
  std::vector<float> v(300000);
  const Tensor t(v.data(), DType::kF32, {300000});
  world.world().Barrier();
  if (how == "timeout") {
    // The last rank never comes.
    if (is_last) std::this_thread::sleep_for(std::chrono::seconds(20));
    world.world().AllReduce(t, ReduceOp::kSum, stream).Wait(stream);
  } else if (how == "error") {
    if (is_last) {
      CommHandle in_flight = world.world().AllReduce(t, ReduceOp::kSum, stream);
      Fail(ErrorCode::kData, "sample 7 is broken");
    }
    world.world().Barrier();
    world.world().Recv(t, world.size() - 1, 3, stream).Wait(stream);
  } else if (how == "crash") {
    ActivityScope activity("llm:B3");
    if (is_last) {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      std::raise(SIGSEGV);
    }
    world.world().Recv(t, world.size() - 1, 3, stream).Wait(stream);
  } else if (how == "groups") {
    world.NewCommunicator(is_last ? "llm.tp" : "llm.dp", {0, world.size() - 1});
  } else if (how == "size") {
    if (is_last) world.world().Send(Tensor(v.data(), DType::kF32, {10}), 0, 3, stream).Wait(stream);
    if (world.rank() == 0) {
      world.world()
          .Recv(Tensor(v.data(), DType::kF32, {20}), world.size() - 1, 3, stream)
          .Wait(stream);
    }
    world.world().Barrier();
  }
}

}  // namespace

int main(int argc, char** argv) {
  MpiWorld::Options options;
  options.timeout = std::chrono::milliseconds(2000);
  MpiWorld world(options);
  SetLogRank(world.rank());
  InstallCrashReporter();
  try {
    Run(argc > 1 ? argv[1] : "", world);
  } catch (const Error& error) {
    Log("comm", "{}", error.what());
    MpiAbort(error.exit_code());
  }
  return 0;
}
