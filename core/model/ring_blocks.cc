#include "core/model/ring_blocks.h"

#include <algorithm>

#include "core/base/check.h"

namespace omnitrain {
namespace {

/// Makes `run` the smallest that holds [begin, begin + count) too.
void Extend(RowRun* run, int64_t begin, int64_t count) {
  if (run->count == 0) {
    *run = {begin, count};
    return;
  }
  const int64_t end = std::max(run->end(), begin + count);
  run->begin = std::min(run->begin, begin);
  run->count = end - run->begin;
}

}  // namespace

RowRuns JoinRuns(const RowRuns& runs) {
  RowRuns joined;
  for (const RowRun& run : runs) {
    if (!joined.empty() && joined.back().end() == run.begin) {
      joined.back().count += run.count;
    } else {
      joined.push_back(run);
    }
  }
  return joined;
}

std::vector<int32_t> LocalSegments(const RowRuns& runs, const std::vector<int32_t>& cu_seqlens) {
  std::vector<int32_t> local{0};
  for (const RowRun& run : JoinRuns(runs)) {
    auto border = std::upper_bound(cu_seqlens.begin(), cu_seqlens.end(), run.begin);
    for (int64_t row = run.begin; row < run.end();) {
      OT_CHECK(border != cu_seqlens.end(), "row {} of {}", row, cu_seqlens.back());
      const int64_t end = std::min<int64_t>(*border, run.end());
      if (end > row) local.push_back(local.back() + static_cast<int32_t>(end - row));
      row = end;
      ++border;
    }
  }
  return local;
}

SeenBlock FindSeenBlock(const RowRuns& queries, const RowRuns& keys,
                        const std::vector<int32_t>& cu_seqlens) {
  SeenBlock seen;
  int64_t num_pairs = 0, query_offset = 0;
  for (const RowRun& q : JoinRuns(queries)) {
    // The document of the first query: no other one begins before this run.
    const auto border = std::upper_bound(cu_seqlens.begin(), cu_seqlens.end(), q.begin);
    int64_t key_offset = 0;
    for (const RowRun& k : JoinRuns(keys)) {
      if (q.count > 0 && k.count > 0 && k.end() <= q.begin && *(border - 1) < k.end()) {
        const int64_t num_queries = std::min<int64_t>(*border, q.end()) - q.begin;
        const int64_t first_key = std::max<int64_t>(*(border - 1), k.begin);
        Extend(&seen.queries, query_offset, num_queries);
        Extend(&seen.keys, key_offset + first_key - k.begin, k.end() - first_key);
        num_pairs += num_queries * (k.end() - first_key);
      }
      key_offset += k.count;
    }
    query_offset += q.count;
  }
  // A document that joins the outer two of three runs holds all of the middle one.
  OT_CHECK(num_pairs == seen.num_pairs(), "{} pairs in a block of {} x {}", num_pairs,
           seen.queries.count, seen.keys.count);
  return seen;
}

}  // namespace omnitrain
