#include "core/base/rng.h"

#include <set>

#include "tests/support/catch.h"

namespace omnitrain {
namespace {

TEST_CASE("Philox gives the published vectors") {
  // Known answers of Random123 for Philox4x32-10.
  CHECK(Philox({0, 0, 0, 0}, {0, 0}) ==
        std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(Philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
}

TEST_CASE("RandomPermute is a bijection") {
  for (uint64_t size : {1, 2, 3, 7, 64, 1000}) {
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t x = RandomPermute(17, 3, size, i);
      REQUIRE(x < size);
      seen.insert(x);
    }
    CHECK(seen.size() == size);
  }
}

TEST_CASE("RandomNormal has mean 0 and variance 1") {
  double sum = 0, squares = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) {
    const double x = RandomNormal(5, 1, i);
    sum += x;
    squares += x * x;
  }
  CHECK(std::abs(sum / n) < 0.02);
  CHECK(std::abs(squares / n - 1.0) < 0.02);
}

}  // namespace
}  // namespace omnitrain
