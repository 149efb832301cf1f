#include <algorithm>

#include "parallel/comm/device_communicator.h"
#include "tests/parallel/comm/communicator_contract.h"
#include "tests/parallel/comm/device_tensors.h"
#include "tests/support/catch.h"
#include "tests/support/mpi_world.h"

namespace omnitrain {
namespace {

// For machines with a GPU: mpirun -n 2 on one GPU tests MPI staged for it, on two also NCCL.

struct Gpu {
  std::unique_ptr<Device> device =
      NewCudaDevice(MpiTestWorld().local_rank() % std::max(1, NumCudaDevices()));
  std::unique_ptr<Stream> stream = device->NewStream();
  Gpu() { MpiTestWorld().StageThroughHost(*device); }
};

Gpu& TheGpu() {
  // Used until MPI ends, behind the last test.
  static Gpu* gpu = new Gpu;
  return *gpu;
}

void RunContract(Transport transport) {
  Gpu& gpu = TheGpu();
  MpiWorld& mpi = MpiTestWorld();
  const auto comm =
      NewDeviceCommunicator(transport, mpi.NewCommunicator("tested", mpi.world().ranks()),
                            *gpu.device, /*has_messages=*/true);
  DeviceTensorCommunicator world(*comm, *gpu.device, *gpu.stream);
  for (const ContractCase& contract : CommunicatorContract()) {
    if (transport == Transport::kNccl &&
        (contract.name == kNanMaxima || contract.name == kTagsOutOfOrder)) {
      continue;
    }
    INFO(contract.name);
    REQUIRE_NOTHROW(contract.run(world));
  }
}

TEST_CASE("A GPU's tensors over MPI keep the communicator contract") {
  RunContract(Transport::kMpi);
}

TEST_CASE("A GPU's tensors over NCCL keep the communicator contract") {
  Gpu& gpu = TheGpu();
  if (ChooseTransport(TransportChoice::kAuto, MpiTestWorld().world(), *gpu.device) !=
      Transport::kNccl) {
    WARN("ranks share a GPU: NCCL is not tested");
    return;
  }
  RunContract(Transport::kNccl);
}

TEST_CASE("Ranks that share a GPU are refused NCCL, with the ranks named") {
  Gpu& gpu = TheGpu();
  MpiWorld& mpi = MpiTestWorld();
  if (mpi.local_size() <= NumCudaDevices()) return;
  REQUIRE_THROWS_WITH(
      ChooseTransport(TransportChoice::kNccl, mpi.world(), *gpu.device),
      Catch::Matchers::Contains("share GPU") && Catch::Matchers::Contains("use runtime.comm: mpi"));
}

TEST_CASE("The same sums twice give the same bits") {
  Gpu& gpu = TheGpu();
  MpiWorld& mpi = MpiTestWorld();
  const Transport transport = ChooseTransport(TransportChoice::kAuto, mpi.world(), *gpu.device);
  const auto comm = NewDeviceCommunicator(
      transport, mpi.NewCommunicator("twice", mpi.world().ranks()), *gpu.device);
  constexpr int64_t kCount = 1 << 20;
  std::vector<float> values(kCount), sums[2];
  for (int64_t i = 0; i < kCount; ++i) {
    values[static_cast<size_t>(i)] = 1.0f / static_cast<float>(i + 3 * mpi.rank() + 1);
  }
  const OwnedTensor tensor(*gpu.device, DType::kF32, {kCount});
  for (std::vector<float>& sum : sums) {
    gpu.device->Copy(tensor->data, values.data(), kCount * sizeof(float), *gpu.stream);
    comm->AllReduce(*tensor, ReduceOp::kSum, *gpu.stream).Wait(*gpu.stream);
    sum.resize(kCount);
    gpu.device->Copy(sum.data(), tensor->data, kCount * sizeof(float), *gpu.stream);
    gpu.stream->Synchronize();
  }
  REQUIRE(sums[0] == sums[1]);
}

}  // namespace
}  // namespace omnitrain
