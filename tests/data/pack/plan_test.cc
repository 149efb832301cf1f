#include "data/pack/plan.h"

#include <algorithm>

#include "core/base/rng.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Bins = std::vector<std::vector<int32_t>>;

TEST_CASE("A plan by hand") {
  // By cost: 3 -> rank 0, 0 -> rank 1, 1 -> rank 1 (4 + 3 < 10), 2 -> rank 1 (7 + 2 < 10).
  const PackPlan plan = PlanPacking({{4, 4}, {3, 3}, {2, 2}, {6, 10}}, 2, 6);
  CHECK(plan.samples[0] == Bins{{3}, {}});
  CHECK(plan.samples[1] == Bins{{0, 2}, {1}});
}

TEST_CASE("No samples, fewer samples than ranks") {
  CHECK(PlanPacking({}, 3, 8).num_micro_batches() == 0);
  const PackPlan plan = PlanPacking({{8, 8}}, 3, 8);
  CHECK(plan.num_micro_batches() == 1);
  CHECK(plan.samples[0] == Bins{{0}});
  CHECK(plan.samples[2] == Bins{{}});
}

TEST_CASE("Random sizes: each sample once, no overflow, equal counts, balance") {
  for (uint64_t trial = 0; trial < 300; ++trial) {
    auto next = [&, n = uint64_t{0}](uint64_t below) mutable {
      return static_cast<int64_t>(RandomBits(7, trial, n++) % below);
    };
    const int64_t max_rows = 1 + next(200);
    const int dp_size = static_cast<int>(1 + next(9));
    std::vector<SampleSize> sizes(static_cast<size_t>(next(100)));
    int64_t largest = 0;
    for (SampleSize& size : sizes) {
      size.rows = 1 + next(static_cast<uint64_t>(max_rows));
      size.cost = size.rows + next(500);
      largest = std::max(largest, size.cost);
    }
    const PackPlan plan = PlanPacking(sizes, dp_size, max_rows);
    REQUIRE(plan.samples.size() == static_cast<size_t>(dp_size));
    std::vector<int> seen(sizes.size());
    std::vector<int64_t> costs;
    for (const auto& micro_batches : plan.samples) {
      REQUIRE(static_cast<int64_t>(micro_batches.size()) == plan.num_micro_batches());
      costs.push_back(0);
      for (const auto& members : micro_batches) {
        int64_t rows = 0;
        REQUIRE(std::is_sorted(members.begin(), members.end()));
        for (const int32_t s : members) {
          ++seen[static_cast<size_t>(s)];
          rows += sizes[static_cast<size_t>(s)].rows;
          costs.back() += sizes[static_cast<size_t>(s)].cost;
        }
        REQUIRE(rows <= max_rows);
      }
    }
    REQUIRE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
    const auto [least, most] = std::minmax_element(costs.begin(), costs.end());
    REQUIRE(*most - *least <= largest);
    REQUIRE(PlanPacking(sizes, dp_size, max_rows).samples == plan.samples);
  }
}

}  // namespace
}  // namespace omnitrain
