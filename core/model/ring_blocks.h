#pragma once

#include <cstdint>
#include <vector>

#include "parallel/shard/row_split.h"

namespace omnitrain {

// Causal attention over packed sequences whose rows lie on several ranks, as arithmetic. A rank
// holds runs of rows in ascending order; "local" rows count along its runs. Documents are the
// segments of cu_seqlens.

/// Queries that see keys of another run: a rectangle, all of these queries see all of these keys.
/// Local rows of the two ranks.
struct SeenBlock {
  RowRun queries, keys;
  bool is_empty() const { return queries.count == 0; }
  int64_t num_pairs() const { return queries.count * keys.count; }
};

/// The same rows with runs that touch as one.
RowRuns JoinRuns(const RowRuns& runs);

/// cu_seqlens of the local rows: documents cut at the borders of runs. Within them attention is
/// causal as usual.  Empty segments are left out.
std::vector<int32_t> LocalSegments(const RowRuns& runs, const std::vector<int32_t>& cu_seqlens);

/// What `queries` see of `keys` beyond their LocalSegments: pairs of different runs of one
/// document, the keys before the queries. At most one document spans two given runs, hence a
/// rectangle. Requires: both are ZigzagRows of one sequence (joined or not), of two ranks or one.
SeenBlock FindSeenBlock(const RowRuns& queries, const RowRuns& keys,
                        const std::vector<int32_t>& cu_seqlens);

}  // namespace omnitrain
