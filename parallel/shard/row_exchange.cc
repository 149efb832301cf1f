#include "parallel/shard/row_exchange.h"

#include <utility>

#include "core/base/check.h"

namespace omnitrain {
namespace {

/// Where each row of the whole is: the rank, and its place there.
std::vector<std::pair<int, int32_t>> PlacesOf(const std::vector<std::vector<int32_t>>& lists) {
  size_t total = 0;
  for (const auto& list : lists) total += list.size();
  std::vector<std::pair<int, int32_t>> places(total, {-1, -1});
  for (size_t r = 0; r < lists.size(); ++r) {
    for (size_t i = 0; i < lists[r].size(); ++i) {
      const int32_t row = lists[r][i];
      OT_CHECK(row >= 0 && row < static_cast<int32_t>(total), "row {} of {}", row, total);
      std::pair<int, int32_t>& place = places[static_cast<size_t>(row)];
      OT_CHECK(place.first < 0, "row {} on ranks {} and {}", row, place.first, r);
      place = {static_cast<int>(r), static_cast<int32_t>(i)};
    }
  }
  return places;
}

}  // namespace

RowExchange PlanRowExchange(const std::vector<std::vector<int32_t>>& held,
                            const std::vector<std::vector<int32_t>>& wanted, int rank) {
  OT_CHECK(held.size() == wanted.size(), "{} and {} ranks", held.size(), wanted.size());
  const size_t n = held.size(), me = static_cast<size_t>(rank);
  const auto sources = PlacesOf(held), targets = PlacesOf(wanted);
  OT_CHECK(sources.size() == targets.size(), "{} rows held, {} wanted", sources.size(),
           targets.size());
  RowExchange plan;
  plan.send_counts.assign(n, 0);
  plan.recv_counts.assign(n, 0);
  // Between two ranks rows travel in the order of their destination.
  for (size_t to = 0; to < n; ++to) {
    for (int32_t row : wanted[to]) {
      const auto& [from, place] = sources[static_cast<size_t>(row)];
      if (from != rank) continue;
      plan.send_rows.push_back(place);
      ++plan.send_counts[to];
    }
  }
  for (int32_t row : wanted[me]) {
    ++plan.recv_counts[static_cast<size_t>(sources[static_cast<size_t>(row)].first)];
  }
  std::vector<int32_t> next(n, 0);
  for (size_t r = 1; r < n; ++r) {
    next[r] = next[r - 1] + static_cast<int32_t>(plan.recv_counts[r - 1]);
  }
  for (int32_t row : wanted[me]) {
    plan.recv_rows.push_back(next[static_cast<size_t>(sources[static_cast<size_t>(row)].first)]++);
  }
  return plan;
}

}  // namespace omnitrain
