#include "parallel/shard/row_exchange.h"

#include "core/base/error.h"
#include "core/base/rng.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Lists = std::vector<std::vector<int32_t>>;

Lists Deal(int num_ranks, int32_t num_rows, uint64_t stream) {
  Lists lists(static_cast<size_t>(num_ranks));
  for (int32_t row = 0; row < num_rows; ++row) {
    const auto rank =
        static_cast<size_t>(RandomUniform(7, stream, static_cast<uint64_t>(row)) * num_ranks);
    std::vector<int32_t>& list = lists[rank];
    const auto place = static_cast<size_t>(RandomUniform(8, stream, static_cast<uint64_t>(row)) *
                                           static_cast<double>(list.size()));
    list.insert(list.begin() + static_cast<std::ptrdiff_t>(place), row);
  }
  return lists;
}

/// What AllToAllV does, on host lists.
Lists Exchange(const Lists& packed, const std::vector<std::vector<int64_t>>& counts) {
  Lists arrived(packed.size());
  for (size_t to = 0; to < packed.size(); ++to) {
    for (size_t from = 0; from < packed.size(); ++from) {
      size_t begin = 0;
      for (size_t r = 0; r < to; ++r) begin += static_cast<size_t>(counts[from][r]);
      for (int64_t i = 0; i < counts[from][to]; ++i) {
        arrived[to].push_back(packed[from][begin + static_cast<size_t>(i)]);
      }
    }
  }
  return arrived;
}

TEST_CASE("Rows reach those that want them, and gradients come back") {
  for (int n : {1, 2, 3, 4, 8}) {
    for (int32_t rows : {0, 1, 5, 40}) {
      const uint64_t stream = static_cast<uint64_t>(n * 100 + rows);
      const Lists held = Deal(n, rows, stream), wanted = Deal(n, rows, stream + 50);
      std::vector<RowExchange> plans;
      std::vector<std::vector<int64_t>> counts, back;
      Lists packed(static_cast<size_t>(n)), gradients(static_cast<size_t>(n));
      for (int r = 0; r < n; ++r) {
        plans.push_back(PlanRowExchange(held, wanted, r));
        counts.push_back(plans.back().send_counts);
        back.push_back(plans.back().recv_counts);
        for (int32_t i : plans.back().send_rows) {
          packed[static_cast<size_t>(r)].push_back(
              held[static_cast<size_t>(r)][static_cast<size_t>(i)]);
        }
      }
      const Lists arrived = Exchange(packed, counts);
      for (size_t r = 0; r < arrived.size(); ++r) {
        std::vector<int32_t> got;
        for (int32_t i : plans[r].recv_rows) got.push_back(arrived[r][static_cast<size_t>(i)]);
        REQUIRE(got == wanted[r]);
        gradients[r].resize(got.size());
        for (size_t i = 0; i < got.size(); ++i) {
          gradients[r][static_cast<size_t>(plans[r].recv_rows[i])] = got[i];
        }
      }
      const Lists returned = Exchange(gradients, back);
      for (size_t r = 0; r < returned.size(); ++r) {
        std::vector<int32_t> got(held[r].size(), -1);
        for (size_t i = 0; i < returned[r].size(); ++i) {
          got[static_cast<size_t>(plans[r].send_rows[i])] = returned[r][i];
        }
        REQUIRE(got == held[r]);
      }
    }
  }
}

TEST_CASE("A row that is held or wanted twice, or nowhere, is refused") {
  REQUIRE_THROWS_AS(PlanRowExchange({{0, 1}, {1}}, {{0, 1, 2}, {}}, 0), Error);
  REQUIRE_THROWS_AS(PlanRowExchange({{0}, {1}}, {{0}, {}}, 0), Error);
}

}  // namespace
}  // namespace omnitrain
