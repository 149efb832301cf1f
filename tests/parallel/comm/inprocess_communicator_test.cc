#include "parallel/comm/inprocess_communicator.h"

#include <atomic>
#include <thread>

#include "parallel/comm/wait_record.h"
#include "tests/parallel/comm/communicator_contract.h"
#include "tests/support/catch.h"
#include "tests/support/world.h"

namespace omnitrain {
namespace {

using std::chrono::milliseconds;

std::string ErrorOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class NoStream : public Stream {
 public:
  void Synchronize() override {}
  void* native() const override { return nullptr; }
};

TEST_CASE("In-process ranks keep the communicator contract") {
  for (const ContractCase& contract : CommunicatorContract()) {
    for (int size : {1, 2, 3, 4, 5}) {
      INFO(contract.name << ", " << size << " ranks");
      InProcessWorld world(size);
      REQUIRE_NOTHROW(world.Run(contract.run));
    }
  }
}

TEST_CASE("A failing rank releases the others, and its error is the one reported") {
  InProcessWorld world(3);
  std::atomic<int> num_released{0};
  const std::string error = ErrorOf([&] {
    world.Run([&](Communicator& c) {
      if (c.rank() == 1) Fail(ErrorCode::kData, "sample 7 is broken");
      try {
        c.Barrier();
      } catch (const Error& e) {
        if (std::string(e.what()).find("rank 1 failed") != std::string::npos) ++num_released;
        throw;
      }
    });
  });
  REQUIRE(error == "sample 7 is broken");
  REQUIRE(num_released == 2);
  // The world works again afterwards.
  REQUIRE_NOTHROW(world.Run([](Communicator& c) { c.Barrier(); }));
}

TEST_CASE("A wait past the deadline says who waits for whom") {
  InProcessWorld world(3, milliseconds(50));
  NoStream stream;
  std::string error = ErrorOf([&] {
    world.Run([&](Communicator& c) {
      if (c.rank() != 2) return;
      std::vector<float> v(300000);
      Tensor t(v.data(), DType::kF32, {300000});
      c.AllReduce(t, ReduceOp::kSum, stream).Wait(stream);
    });
  });
  REQUIRE_THAT(error, Catch::Matchers::StartsWith("rank 2 waits 0."));
  REQUIRE_THAT(
      error, Catch::Matchers::EndsWith(" s in world AllReduce (seq 0) of 1.2 MB with ranks 0,1,2"));
  error = ErrorOf([&] {
    world.Run([&](Communicator& c) {
      auto pair = c.rank() == 1 ? nullptr : c.NewGroup("llm.pp", {2, 0});
      if (c.rank() != 0) return;
      int32_t x = 0;
      pair->Recv(Tensor(&x, DType::kI32, {1}), 0, 5, stream).Wait(stream);
    });
  });
  REQUIRE_THAT(error,
               Catch::Matchers::Contains("s in llm.pp Recv (seq 0, tag 5) of 4 B from rank 2"));
}

TEST_CASE("Collectives that do not match are named") {
  InProcessWorld world(2);
  NoStream stream;
  const std::string error = ErrorOf([&] {
    world.Run([&](Communicator& c) {
      std::vector<float> v(4);
      Tensor t(v.data(), DType::kF32, {4});
      if (c.rank() == 0) {
        c.AllReduce(t, ReduceOp::kSum, stream).Wait(stream);
      } else {
        c.Broadcast(t, 0, stream).Wait(stream);
      }
    });
  });
  REQUIRE_THAT(error, Catch::Matchers::Contains("AllReduce of f32 [4]") &&
                          Catch::Matchers::Contains("Broadcast of f32 [4]"));
}

TEST_CASE("What a rank waits for can be read from outside") {
  InProcessWorld world(2);
  std::string report;
  world.Run([&](Communicator& c) {
    if (c.rank() == 0) {
      ActivityScope activity("llm:B3");
      c.Barrier();
      return;
    }
    while (WaitReport().find("waits") == std::string::npos) std::this_thread::yield();
    report = WaitReport();
    c.Barrier();
  });
  REQUIRE(report == "[comm] rank 0 waits 0 s in world Barrier (seq 0), doing llm:B3\n");
  REQUIRE(WaitReport().empty());
}

TEST_CASE("One rank needs no world") {
  auto self = NewSelfCommunicator();
  for (const ContractCase& contract : CommunicatorContract()) {
    INFO(contract.name);
    REQUIRE_NOTHROW(contract.run(*self));
  }
}

}  // namespace
}  // namespace omnitrain
