#include "data/source/mixture.h"

#include <map>
#include <set>

#include "core/base/error.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Order = Mixture::Order;

TEST_CASE("Every element comes once an epoch, and epochs differ") {
  for (const int64_t size : {1, 2, 3, 7, 64, 1000}) {
    const Mixture mixture(17, {{size, 1.0}});
    std::vector<std::vector<int64_t>> epochs;
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int64_t> elements;
      for (int64_t i = 0; i < size; ++i) {
        const auto at = mixture.At(epoch * size + i);
        REQUIRE(at.epoch == epoch);
        elements.push_back(at.element);
      }
      CHECK(std::set<int64_t>(elements.begin(), elements.end()).size() ==
            static_cast<size_t>(size));
      epochs.push_back(elements);
    }
    if (size >= 64) {
      CHECK(epochs[0] != epochs[1]);
      CHECK(epochs[1] != epochs[2]);
    }
  }
}

TEST_CASE("Weights are met exactly in each cycle, and evenly within it") {
  const Mixture mixture(1, {{100, 5.0}, {7, 2.0}, {13, 1.0}});
  CHECK(mixture.period() == 8);
  std::map<int, int64_t> count;
  for (int64_t g = 0; g < 8000; ++g) {
    ++count[mixture.At(g).source];
    const double n = static_cast<double>(g + 1);
    for (const auto& [source, share] :
         std::map<int, double>{{0, 5. / 8}, {1, 2. / 8}, {2, 1. / 8}}) {
      REQUIRE(std::abs(static_cast<double>(count[source]) - share * n) <= 1.5);
    }
  }
  CHECK(count == std::map<int, int64_t>{{0, 5000}, {1, 2000}, {2, 1000}});
}

TEST_CASE("Each source of a mixture goes through its own epochs") {
  const Mixture mixture(3, {{10, 0.7}, {4, 0.3}});
  std::map<std::pair<int, int64_t>, std::multiset<int64_t>> seen;
  for (int64_t g = 0; g < 200; ++g) {
    const auto at = mixture.At(g);
    seen[{at.source, at.epoch}].insert(at.element);
  }
  for (const auto& [key, elements] : seen) {
    CHECK(std::set<int64_t>(elements.begin(), elements.end()).size() == elements.size());
  }
  CHECK(seen[{0, 13}].size() == 10);
  CHECK(seen[{1, 14}].size() == 4);
}

TEST_CASE("Weights without a short period are rounded, and no source vanishes") {
  const Mixture mixture(3, {{10, 3.14159265}, {10, 2.71828183}, {10, 1e-9}});
  CHECK(mixture.slots(2) == 1);
  CHECK(std::abs(static_cast<double>(mixture.slots(0)) / static_cast<double>(mixture.period()) -
                 3.14159265 / 5.85987448) < 2e-4);
}

TEST_CASE("The seed decides the order; without a shuffle it is as stored") {
  const auto order = [](uint64_t seed, Order how) {
    const Mixture mixture(seed, {{50, 1.0}, {50, 1.0}}, how);
    std::vector<int64_t> elements;
    for (int64_t g = 0; g < 100; ++g) elements.push_back(mixture.At(g).element);
    return elements;
  };
  CHECK(order(1, Order::kShuffled) == order(1, Order::kShuffled));
  CHECK(order(1, Order::kShuffled) != order(2, Order::kShuffled));
  CHECK(order(1, Order::kSequential) == order(2, Order::kSequential));
  CHECK(order(1, Order::kSequential)[10] == 5);
}

TEST_CASE("Concatenated: source after source, whatever the weights") {
  const Mixture mixture(1, {{3, 9.0}, {2, 0.1}}, Order::kConcatenated);
  std::vector<std::pair<int, int64_t>> got;
  for (int64_t g = 0; g < 6; ++g) got.emplace_back(mixture.At(g).source, mixture.At(g).element);
  CHECK(got ==
        std::vector<std::pair<int, int64_t>>{{0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}, {0, 0}});
  CHECK(mixture.num_elements() == 5);
}

TEST_CASE("Empty sources and bad weights are refused") {
  CHECK_THROWS_AS(Mixture(1, {}), Error);
  CHECK_THROWS_AS(Mixture(1, {{0, 1.0}}), Error);
  CHECK_THROWS_AS(Mixture(1, {{5, 0.0}}), Error);
  CHECK_THROWS_AS(Mixture(1, {{5, 0.0 / 0.0}}), Error);
}

}  // namespace
}  // namespace omnitrain
