#include <chrono>
#include <thread>

#include "parallel/comm/mpi_world.h"
#include "tests/parallel/comm/communicator_contract.h"
#include "tests/support/catch.h"
#include "tests/support/mpi_world.h"
#include "tests/support/world.h"

namespace omnitrain {
namespace {

TEST_CASE("MPI ranks keep the communicator contract") {
  for (const ContractCase& contract : CommunicatorContract()) {
    INFO(contract.name);
    REQUIRE_NOTHROW(contract.run(MpiTestWorld().world()));
  }
}

TEST_CASE("So do groups of MPI ranks") {
  MpiWorld& world = MpiTestWorld();
  std::vector<int> members;  // all but rank 0, from the last
  for (int r = world.size() - 1; r > 0; --r) members.push_back(r);
  if (world.rank() > 0) {
    auto group = world.NewCommunicator("rest", members);
    for (const ContractCase& contract : CommunicatorContract()) {
      INFO(contract.name);
      REQUIRE_NOTHROW(contract.run(*group));
    }
  }
  world.world().Barrier();
}

TEST_CASE("Nodes are found by shared memory") {
  MpiWorld& world = MpiTestWorld();
  REQUIRE(world.local_size() == world.size());
  REQUIRE(world.local_rank() == world.rank());
  REQUIRE(world.node_of_rank() == std::vector<int>(static_cast<size_t>(world.size()), 0));
}

TEST_CASE("MPI belongs to one thread") {
  std::string error;
  std::thread([&] {
    try {
      MpiTestWorld().world().Barrier();
    } catch (const Error& e) {
      error = e.what();
    }
  }).join();
  // A world of one rank makes no MPI call.
  if (MpiTestWorld().size() > 1) {
    REQUIRE_THAT(error, Catch::Matchers::Contains("belongs to the thread that started it"));
  }
}

}  // namespace
}  // namespace omnitrain
