// The main of tests that run as several MPI ranks: every rank runs the same cases. A rank that
// fails ends the job, for its peers may be waiting for it.
#define CATCH_CONFIG_RUNNER
#include <memory>

#include "core/base/log.h"
#include "tests/support/catch.h"
#include "tests/support/mpi_world.h"

namespace {
std::unique_ptr<omnitrain::MpiWorld> g_world;
}

omnitrain::MpiWorld& omnitrain::MpiTestWorld() { return *g_world; }

int main(int argc, char** argv) {
  omnitrain::MpiWorld::Options options;
  options.timeout = std::chrono::seconds(30);
  options.max_message_bytes = 5000;
  options.max_reduce_bytes = 100000;
  g_world = std::make_unique<omnitrain::MpiWorld>(options);
  omnitrain::SetLogRank(g_world->rank());
  const int num_failed = Catch::Session().run(argc, argv);
  if (num_failed != 0) {
    omnitrain::Log("comm", "{} checks failed", num_failed);
    omnitrain::MpiAbort(1);
  }
  g_world.reset();
  return 0;
}
