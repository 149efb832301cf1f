#include "core/runtime/wait_meter.h"

#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/inprocess_communicator.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

constexpr double kLateMs = 60;

void SleepMs(double ms) {
  std::this_thread::sleep_for(std::chrono::microseconds(static_cast<int64_t>(ms * 1000)));
}

TEST_CASE("A stream's waits for a late rank are told by communicator, and only once") {
  InProcessWorld world(2);
  std::map<std::string, double> ms, again, untold;
  world.Run([&](Communicator& c) {
    const auto device = NewCpuDevice();
    const auto stream = device->NewStream();
    WaitMeter meter(*device);
    const auto pair = c.NewGroup("llm.tp", {0, 1}), other = c.NewGroup("llm.cp", {0, 1});
    std::vector<float> x(8, 1.0f);
    const Tensor t(x.data(), DType::kF32, {8});
    const auto sum = [&](Communicator& group, bool is_late) {
      if (c.rank() == 1 && is_late) SleepMs(kLateMs);
      group.AllReduce(t, ReduceOp::kSum, *stream).Wait(*stream);
    };
    sum(*other, true);  // nobody listens
    if (c.rank() == 0) untold = meter.Take();
    stream->set_wait_meter(&meter);
    sum(*pair, true);
    sum(*pair, true);
    sum(c, false);
    stream->set_wait_meter(nullptr);
    sum(*other, true);
    if (c.rank() != 0) return;
    ms = meter.Take();
    again = meter.Take();
  });
  CHECK(untold.empty());
  CHECK(again.empty());
  REQUIRE(ms.size() == 2);
  CHECK(ms.at("llm.tp") >= 1.8 * kLateMs);
  CHECK(ms.at("world") >= 0);
}

TEST_CASE("Communication behind other work costs no wait") {
  InProcessWorld world(2);
  double ms = -1;
  world.Run([&](Communicator& c) {
    const auto device = NewCpuDevice();
    const auto stream = device->NewStream();
    WaitMeter meter(*device);
    stream->set_wait_meter(&meter);
    std::vector<float> x(8, 1.0f);
    CommHandle handle = c.AllReduce(Tensor(x.data(), DType::kF32, {8}), ReduceOp::kSum, *stream);
    if (c.rank() == 0) SleepMs(kLateMs);
    handle.Wait(*stream);
    stream->set_wait_meter(nullptr);
    if (c.rank() == 0) ms = meter.Take().at("world");
  });
  CHECK(ms >= 0);
  CHECK(ms < kLateMs / 2);
}

}  // namespace
}  // namespace omnitrain
