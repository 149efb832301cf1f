#include "data/pack/plan.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>

#include "core/base/check.h"

namespace omnitrain {
namespace {

template <typename Key>
void SortDescending(std::vector<int32_t>* order, Key key) {
  // Stable on an ascending list, so that ties go by the order of the data.
  std::stable_sort(order->begin(), order->end(),
                   [&](int32_t a, int32_t b) { return key(a) > key(b); });
}

std::vector<std::vector<int32_t>> FirstFit(const std::vector<SampleSize>& sizes,
                                           std::vector<int32_t> samples, int64_t max_rows) {
  const auto rows = [&](int32_t s) { return sizes[static_cast<size_t>(s)].rows; };
  std::sort(samples.begin(), samples.end());
  SortDescending(&samples, rows);
  std::vector<std::vector<int32_t>> bins;
  std::vector<int64_t> room;
  for (const int32_t sample : samples) {
    const auto fits = [&](int64_t free) { return free >= rows(sample); };
    const auto bin =
        static_cast<size_t>(std::find_if(room.begin(), room.end(), fits) - room.begin());
    if (bin == bins.size()) {
      bins.emplace_back();
      room.push_back(max_rows);
    }
    bins[bin].push_back(sample);
    room[bin] -= rows(sample);
  }
  for (auto& bin : bins) std::sort(bin.begin(), bin.end());
  return bins;
}

}  // namespace

PackPlan PlanPacking(const std::vector<SampleSize>& sizes, int dp_size, int64_t max_rows) {
  OT_CHECK(dp_size > 0, "dp_size {}", dp_size);
  std::vector<int32_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  for (const SampleSize& size : sizes) {
    OT_CHECK(size.rows > 0 && size.rows <= max_rows, "a sample of {} rows, {} fit", size.rows,
             max_rows);
  }
  SortDescending(&order, [&](int32_t s) { return sizes[static_cast<size_t>(s)].cost; });

  using Load = std::pair<int64_t, int>;  // cost so far, rank
  std::priority_queue<Load, std::vector<Load>, std::greater<Load>> loads;
  for (int rank = 0; rank < dp_size; ++rank) loads.push({0, rank});
  std::vector<std::vector<int32_t>> of_rank(static_cast<size_t>(dp_size));
  for (const int32_t sample : order) {
    auto [load, rank] = loads.top();
    loads.pop();
    of_rank[static_cast<size_t>(rank)].push_back(sample);
    loads.push({load + sizes[static_cast<size_t>(sample)].cost, rank});
  }

  PackPlan plan;
  size_t num_micro_batches = 0;
  for (auto& samples : of_rank) {
    plan.samples.push_back(FirstFit(sizes, std::move(samples), max_rows));
    num_micro_batches = std::max(num_micro_batches, plan.samples.back().size());
  }
  for (auto& micro_batches : plan.samples) micro_batches.resize(num_micro_batches);
  return plan;
}

}  // namespace omnitrain
