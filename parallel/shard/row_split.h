#pragma once

#include <cstdint>
#include <vector>

namespace omnitrain {

/// Consecutive rows of a packed sequence.
struct RowRun {
  int64_t begin = 0, count = 0;
  int64_t end() const { return begin + count; }
  bool operator==(const RowRun& o) const { return begin == o.begin && count == o.count; }
};

/// Rows of a sequence in the order in which a rank holds them: runs one behind the other.
using RowRuns = std::vector<RowRun>;

int64_t NumRows(const RowRuns& runs);

/// The `rank`-th of `num_ranks` equal pieces of [0, num_rows).  Requires that they divide it.
RowRuns ContiguousRows(int64_t num_rows, int num_ranks, int rank);

/// Of 2 * num_ranks equal pieces the `rank`-th from the front and from the back, so that under
/// causal attention every rank sees about as many pairs.  Requires that they divide num_rows.
/// Source: Liu et al. 2023 (ring attention), with the pairing of Llama 3 (2024), section 3.3.2.
RowRuns ZigzagRows(int64_t num_rows, int num_ranks, int rank);

/// Rows [begin, begin + count) of those that `runs` list.
RowRuns SliceRows(const RowRuns& runs, int64_t begin, int64_t count);

}  // namespace omnitrain
