#include "parallel/shard/row_split.h"

#include <algorithm>

#include "core/base/check.h"

namespace omnitrain {

int64_t NumRows(const RowRuns& runs) {
  int64_t n = 0;
  for (const RowRun& run : runs) n += run.count;
  return n;
}

RowRuns ContiguousRows(int64_t num_rows, int num_ranks, int rank) {
  OT_CHECK(rank >= 0 && rank < num_ranks, "rank {} of {}", rank, num_ranks);
  OT_CHECK(num_rows % num_ranks == 0, "{} rows over {} ranks", num_rows, num_ranks);
  const int64_t count = num_rows / num_ranks;
  return {{rank * count, count}};
}

RowRuns ZigzagRows(int64_t num_rows, int num_ranks, int rank) {
  if (num_ranks == 1) return ContiguousRows(num_rows, 1, rank);
  OT_CHECK(rank >= 0 && rank < num_ranks, "rank {} of {}", rank, num_ranks);
  OT_CHECK(num_rows % (2 * num_ranks) == 0, "{} rows over 2 * {} pieces", num_rows, num_ranks);
  const int64_t count = num_rows / (2 * num_ranks);
  return {{rank * count, count}, {(2 * num_ranks - 1 - rank) * count, count}};
}

RowRuns SliceRows(const RowRuns& runs, int64_t begin, int64_t count) {
  OT_CHECK(begin >= 0 && count >= 0 && begin + count <= NumRows(runs), "rows [{}, {}) of {}", begin,
           begin + count, NumRows(runs));
  RowRuns slice;
  int64_t passed = 0;
  for (const RowRun& run : runs) {
    const int64_t from = std::max(begin, passed);
    const int64_t to = std::min(begin + count, passed + run.count);
    if (from < to) slice.push_back({run.begin + from - passed, to - from});
    passed += run.count;
  }
  return slice;
}

}  // namespace omnitrain
