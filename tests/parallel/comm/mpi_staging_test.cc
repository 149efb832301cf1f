#include <chrono>

#include "tests/parallel/comm/communicator_contract.h"
#include "tests/parallel/comm/delayed_device.h"
#include "tests/parallel/comm/device_tensors.h"
#include "tests/support/catch.h"
#include "tests/support/mpi_world.h"

namespace omnitrain {
namespace {

/// The test world, made to stage for a delayed device.
struct Staged {
  DelayedDevice device;
  std::unique_ptr<Stream> stream = device.NewStream();
  Staged() { MpiTestWorld().StageThroughHost(device); }
};

Staged& TheStaged() {
  // Its streams are used until MPI ends, behind the last test.
  static Staged* staged = new Staged;
  return *staged;
}

/// Values on the device, read and written through copies.
struct DeviceFloats {
  explicit DeviceFloats(std::vector<float> values)
      : tensor(TheStaged().device, DType::kF32, {static_cast<int64_t>(values.size())}) {
    TheStaged().device.Copy(tensor->data, values.data(), values.size() * sizeof(float),
                            *TheStaged().stream);
  }
  std::vector<float> Read() {
    std::vector<float> values(static_cast<size_t>(tensor->num_elements()));
    TheStaged().device.Copy(values.data(), tensor->data, values.size() * sizeof(float),
                            *TheStaged().stream);
    TheStaged().stream->Synchronize();
    return values;
  }
  OwnedTensor tensor;
};

void ProgressFor(std::chrono::milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) MpiTestWorld().Progress();
}

TEST_CASE("Device tensors over MPI keep the communicator contract") {
  Staged& staged = TheStaged();
  DeviceTensorCommunicator world(MpiTestWorld().world(), staged.device, *staged.stream);
  const int64_t before = staged.device.num_copies();
  for (const ContractCase& contract : CommunicatorContract()) {
    INFO(contract.name);
    REQUIRE_NOTHROW(contract.run(world));
  }
  REQUIRE((world.size() == 1 || staged.device.num_copies() > before));
}

TEST_CASE("A message does not leave before its copy from the device is done") {
  Staged& staged = TheStaged();
  MpiWorld& mpi = MpiTestWorld();
  if (mpi.size() == 1) return;
  auto control = mpi.NewCommunicator("control", mpi.world().ranks());
  CommHandle sent;
  DeviceFloats source({1, 2, 3});
  std::vector<float> got(3, -1);
  if (mpi.rank() == 0) {
    staged.device.Hold(true);
    sent = mpi.world().Send(*source.tensor, 1, 5, *staged.stream);
  }
  CommHandle received;
  if (mpi.rank() == 1) {
    received = mpi.world().Recv(Tensor(got.data(), DType::kF32, {3}), 0, 5, *staged.stream);
  }
  ProgressFor(std::chrono::milliseconds(100));
  REQUIRE(got == std::vector<float>(3, -1));
  control->Barrier();
  staged.device.Hold(false);
  received.Wait(*staged.stream);
  sent.Wait(*staged.stream);
  if (mpi.rank() == 1) REQUIRE(got == std::vector<float>({1, 2, 3}));
  control->Barrier();
}

TEST_CASE("Calls are posted in the order made, on the host and on the device") {
  Staged& staged = TheStaged();
  MpiWorld& mpi = MpiTestWorld();
  const int n = mpi.size();
  // The others post the first call at once, rank 0 after a late copy: were its host call posted
  // before that, it would meet the device call of the others.
  DeviceFloats first({1, 10}), third({100});
  std::vector<float> second = {0.5f, 0.25f};
  staged.device.Hold(mpi.rank() == 0);
  CommHandle a = mpi.world().AllReduce(*first.tensor, ReduceOp::kSum, *staged.stream);
  ProgressFor(std::chrono::milliseconds(20));
  CommHandle b = mpi.world().AllReduce(Tensor(second.data(), DType::kF32, {2}), ReduceOp::kSum,
                                       *staged.stream);
  CommHandle c = mpi.world().AllReduce(*third.tensor, ReduceOp::kSum, *staged.stream);
  ProgressFor(std::chrono::milliseconds(20));
  staged.device.Hold(false);
  b.Wait(*staged.stream);
  c.Wait(*staged.stream);
  a.Wait(*staged.stream);
  const auto size = static_cast<float>(n);
  REQUIRE(first.Read() == std::vector<float>({size, 10 * size}));
  REQUIRE(second == std::vector<float>({0.5f * size, 0.25f * size}));
  REQUIRE(third.Read() == std::vector<float>({100 * size}));
}

TEST_CASE("A wait in one communicator starts the device calls of another") {
  Staged& staged = TheStaged();
  MpiWorld& mpi = MpiTestWorld();
  auto other = mpi.NewCommunicator("other", mpi.world().ranks());
  DeviceFloats v({1, 2});
  CommHandle handle = other->AllReduce(*v.tensor, ReduceOp::kSum, *staged.stream);
  // Rank 0 meets the others in the barrier before it waits; they wait first.
  if (mpi.rank() != 0) handle.Wait(*staged.stream);
  mpi.world().Barrier();
  handle.Wait(*staged.stream);
  const auto n = static_cast<float>(mpi.size());
  REQUIRE(v.Read() == std::vector<float>({n, 2 * n}));
}

TEST_CASE("The result waits for what the stream did before the call") {
  Staged& staged = TheStaged();
  MpiWorld& mpi = MpiTestWorld();
  if (mpi.size() == 1) return;
  // The receiver's own earlier write to the memory must not come after what it receives.
  DeviceFloats v({7});
  if (mpi.rank() == 0) {
    mpi.world().Send(*v.tensor, 1, 1, *staged.stream).Wait(*staged.stream);
  } else if (mpi.rank() == 1) {
    const float stale = -1;
    for (int i = 0; i < 50; ++i) {
      staged.device.Copy(v.tensor->data, &stale, sizeof(stale), *staged.stream);
    }
    mpi.world().Recv(*v.tensor, 0, 1, *staged.stream).Wait(*staged.stream);
    REQUIRE(v.Read() == std::vector<float>({7}));
  }
  mpi.world().Barrier();
}

TEST_CASE("A group of one rank copies on the device") {
  Staged& staged = TheStaged();
  MpiWorld& mpi = MpiTestWorld();
  auto alone = mpi.NewCommunicator("alone", {mpi.rank()});
  DeviceFloats in({3, 4}), out({0, 0});
  alone->ReduceScatter(*in.tensor, *out.tensor, ReduceOp::kSum, *staged.stream)
      .Wait(*staged.stream);
  REQUIRE(out.Read() == std::vector<float>({3, 4}));
  std::vector<float> host(2);
  REQUIRE_THROWS_WITH(
      alone->AllGather(*in.tensor, Tensor(host.data(), DType::kF32, {2}), *staged.stream),
      Catch::Matchers::Contains("one tensor on the host, one on a device"));
}

}  // namespace
}  // namespace omnitrain
