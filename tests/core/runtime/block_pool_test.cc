#include "core/runtime/block_pool.h"

#include <vector>

#include "tests/support/catch.h"

namespace omnitrain {
namespace {

TEST_CASE("A block goes back with its last holder and serves the next who fits") {
  const auto device = NewCpuDevice();
  BlockPool pool(*device);
  BlockPool::Block first = pool.Take(100000);
  CHECK(first->bytes() >= 100000);
  CHECK(first->bytes() <= 112500);
  const void* const data = first->data();
  BlockPool::Block also = first;
  first = nullptr;
  CHECK(pool.idle_bytes() == 0);
  CHECK(pool.Take(100000)->data() != data);
  also = nullptr;
  CHECK(pool.idle_bytes() == pool.bytes());

  SECTION("not one who needs less than half of it, nor more") {
    const size_t before = pool.bytes();
    const auto small = pool.Take(10000), large = pool.Take(300000);
    CHECK(pool.bytes() == before + small->bytes() + large->bytes());
    const auto half = pool.Take(60000);
    CHECK(half->bytes() >= 100000);
  }
  SECTION("idle blocks are given up, held ones are not") {
    const auto held = pool.Take(100000);
    pool.ReleaseIdle();
    CHECK(pool.bytes() == held->bytes());
    CHECK(pool.idle_bytes() == 0);
    CHECK(device->allocated_bytes() == held->bytes());
  }
}

TEST_CASE("Sizes that the pool has seen cost nothing; no bytes are legal") {
  const auto device = NewCpuDevice();
  BlockPool pool(*device);
  for (int round = 0; round < 3; ++round) {
    const size_t before = pool.bytes();
    std::vector<BlockPool::Block> held;
    for (size_t bytes = 0; bytes < 50000; bytes += 1234) {
      held.push_back(pool.Take(bytes));
      CHECK(held.back()->data() != nullptr);
      CHECK(held.back()->bytes() >= bytes);
    }
    if (round > 0) CHECK(pool.bytes() == before);
  }
}

TEST_CASE("A block that has become too small makes room for a larger one") {
  const auto device = NewCpuDevice();
  BlockPool pool(*device);
  for (size_t bytes = 100000; bytes < 1000000; bytes += bytes / 10) {
    const auto small = pool.Take(5000), held = pool.Take(bytes);
    CHECK(pool.bytes() == small->bytes() + held->bytes());
    CHECK(device->allocated_bytes() == pool.bytes());
  }
  SECTION("not one that is of use to others") {
    const auto large = pool.Take(100000000);
    CHECK(pool.idle_bytes() == pool.bytes() - large->bytes());
    CHECK(pool.idle_bytes() >= 900000);
  }
}

TEST_CASE("Blocks outlive their pool") {
  const auto device = NewCpuDevice();
  PooledTensor tensor;
  {
    BlockPool pool(*device);
    tensor = PooledTensor(pool, DType::kF64, {3, 4});
  }
  tensor->ptr<double>()[11] = 1;
  CHECK(device->allocated_bytes() > 0);
  tensor = PooledTensor();
  CHECK(device->allocated_bytes() == 0);
}

}  // namespace
}  // namespace omnitrain
