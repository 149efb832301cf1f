#include "parallel/shard/row_split.h"

#include <vector>

#include "tests/support/catch.h"

namespace omnitrain {
namespace {

TEST_CASE("each row is on one rank, whatever the split") {
  for (int n : {1, 2, 3, 4, 8}) {
    for (int64_t rows : {int64_t{0}, int64_t{2} * n, int64_t{10} * n}) {
      std::vector<int> contiguous(static_cast<size_t>(rows)), zigzag(contiguous);
      for (int rank = 0; rank < n; ++rank) {
        const RowRuns a = ContiguousRows(rows, n, rank), b = ZigzagRows(rows, n, rank);
        CHECK(NumRows(a) == rows / n);
        CHECK(NumRows(b) == rows / n);
        for (const RowRun& run : a) {
          for (int64_t r = run.begin; r < run.end(); ++r) ++contiguous[static_cast<size_t>(r)];
        }
        for (const RowRun& run : b) {
          for (int64_t r = run.begin; r < run.end(); ++r) ++zigzag[static_cast<size_t>(r)];
        }
      }
      CHECK(contiguous == std::vector<int>(static_cast<size_t>(rows), 1));
      CHECK(zigzag == std::vector<int>(static_cast<size_t>(rows), 1));
    }
  }
}

TEST_CASE("zigzag gives every rank as many causal pairs") {
  const int n = 4;
  const int64_t rows = 64;
  std::vector<int64_t> pairs(n);
  for (int rank = 0; rank < n; ++rank) {
    for (const RowRun& run : ZigzagRows(rows, n, rank)) {
      for (int64_t r = run.begin; r < run.end(); ++r) pairs[static_cast<size_t>(rank)] += r + 1;
    }
  }
  CHECK(pairs == std::vector<int64_t>(n, rows * (rows + 1) / 2 / n));
}

TEST_CASE("slices of runs") {
  const RowRuns runs = {{10, 4}, {30, 4}};
  CHECK(SliceRows(runs, 0, 8) == runs);
  CHECK(SliceRows(runs, 2, 4) == RowRuns{{12, 2}, {30, 2}});
  CHECK(SliceRows(runs, 5, 2) == RowRuns{{31, 2}});
  CHECK(SliceRows(runs, 4, 0).empty());
  CHECK_THROWS(SliceRows(runs, 6, 3));
}

}  // namespace
}  // namespace omnitrain
