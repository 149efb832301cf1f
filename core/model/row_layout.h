#pragma once

#include <cstdint>
#include <vector>

#include "core/model/llm_place.h"
#include "parallel/shard/row_split.h"

namespace omnitrain {

/// The heads of attention on one tp rank.
struct AttentionHeads {
  int64_t query = 0, kv = 0, dim = 0;
};

/// Where the rows of one micro-batch lie in a replica, and how attention brings them together. The
/// same on all of its ranks.
struct RowLayout {
  int64_t num_rows = 0;                         // padded
  std::vector<int32_t> cu_seqlens;              // of all rows; padding is a segment of its own
  ContextMethod method = ContextMethod::kRing;  // never kAuto
  int cp_size = 1, tp_size = 1;

  /// Rows that cp rank `cp_rank` works on: zigzag for the ring, contiguous for Ulysses.
  RowRuns CpRows(int cp_rank) const;
  /// Of those the share of one tp rank where layers split rows (sequence parallelism).
  RowRuns LocalRows(int cp_rank, int tp_rank) const;
  int64_t rows_per_cp_rank() const { return num_rows / cp_size; }
};

/// Pads `num_rows` rows of documents to the place's row multiple and settles the method.
/// Requires: cu_seqlens runs from 0 to num_rows; {0} or nothing for none.
/// Errors: kSpec where the place wants Ulysses and the heads do not allow it.
RowLayout MakeRowLayout(int64_t num_rows, std::vector<int32_t> cu_seqlens, const LlmPlace& place,
                        const AttentionHeads& heads);

/// Whether Ulysses can divide the heads: H over cp, and G over cp or cp over G (kv heads are then
/// on cp / G ranks each).
bool AllowsUlysses(const AttentionHeads& heads, int cp_size);

/// Time of a forward on the slowest rank, in bytes that a link moves meanwhile (kFlopsPerByte
/// operations of attention to one byte). The ring: for each of its steps the longer of that
/// step's attention and the next one's keys; so it pays for pairs that are unevenly spread, but
/// documents that end on a rank cost it no bytes. Ulysses: attention, evenly spread, and in front
/// of and behind it the exchange of q, k, v and o.
int64_t RingCost(const RowLayout& layout, const AttentionHeads& heads);
int64_t UlyssesCost(const RowLayout& layout, const AttentionHeads& heads);

/// The cheaper of the two; the ring where Ulysses is impossible.
ContextMethod ChooseContextMethod(const RowLayout& layout, const AttentionHeads& heads);

}  // namespace omnitrain
