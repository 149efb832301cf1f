#include "core/model/row_layout.h"

#include <algorithm>

#include "core/model/ring_blocks.h"

namespace omnitrain {
namespace {

/// An H100's attention in bf16 at about 400 TFLOP/s (tools/bench/results) beside NVLink at about
/// 400 GB/s each way.
constexpr int64_t kFlopsPerByte = 1024;
/// Costs are those of bf16 in every precision, so that a run lays out the same rows in each.
constexpr int64_t kElementBytes = 2;

int64_t CausalPairs(const std::vector<int32_t>& cu_seqlens) {
  int64_t pairs = 0;
  for (size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    const int64_t length = cu_seqlens[i + 1] - cu_seqlens[i];
    pairs += length * (length + 1) / 2;
  }
  return pairs;
}

/// Two products of H rows of K for each pair.
int64_t AttentionCost(int64_t num_pairs, int64_t num_heads, int64_t head_dim) {
  return 4 * num_pairs * num_heads * head_dim / kFlopsPerByte;
}

RowLayout WithMethod(RowLayout layout, ContextMethod method) {
  layout.method = method;
  return layout;
}

}  // namespace

RowRuns RowLayout::CpRows(int cp_rank) const {
  return method == ContextMethod::kUlysses ? ContiguousRows(num_rows, cp_size, cp_rank)
                                           : ZigzagRows(num_rows, cp_size, cp_rank);
}

RowRuns RowLayout::LocalRows(int cp_rank, int tp_rank) const {
  const RowRun share = ContiguousRows(rows_per_cp_rank(), tp_size, tp_rank).front();
  return SliceRows(CpRows(cp_rank), share.begin, share.count);
}

RowLayout MakeRowLayout(int64_t num_rows, std::vector<int32_t> cu_seqlens, const LlmPlace& place,
                        const AttentionHeads& heads) {
  if (cu_seqlens.empty()) cu_seqlens.push_back(0);
  OT_CHECK(cu_seqlens.front() == 0 && cu_seqlens.back() == num_rows,
           "cu_seqlens from {} to {} for {} rows", cu_seqlens.front(), cu_seqlens.back(), num_rows);
  RowLayout layout;
  layout.cp_size = place.cp.size;
  layout.tp_size = place.tp.size;
  const int64_t multiple = place.row_multiple();
  layout.num_rows = (num_rows + multiple - 1) / multiple * multiple;
  layout.cu_seqlens = std::move(cu_seqlens);
  if (layout.num_rows > num_rows) {
    layout.cu_seqlens.push_back(static_cast<int32_t>(layout.num_rows));
  }
  if (layout.cp_size == 1) return layout;
  layout.method = place.context_method;
  if (layout.method == ContextMethod::kUlysses) {
    OT_REQUIRE(heads.query % layout.cp_size == 0, ErrorCode::kSpec,
               "parallel.llm.cp: Ulysses divides heads, and {} query heads of a tp rank do not "
               "split over cp={}",
               heads.query, layout.cp_size);
    OT_REQUIRE(AllowsUlysses(heads, layout.cp_size), ErrorCode::kSpec,
               "parallel.llm.cp: Ulysses divides heads, and {} kv heads of a tp rank neither split "
               "over cp={} nor divide it",
               heads.kv, layout.cp_size);
  }
  if (layout.method == ContextMethod::kAuto) layout.method = ChooseContextMethod(layout, heads);
  return layout;
}

bool AllowsUlysses(const AttentionHeads& heads, int cp_size) {
  return heads.query % cp_size == 0 && (heads.kv % cp_size == 0 || cp_size % heads.kv == 0);
}

int64_t RingCost(const RowLayout& layout, const AttentionHeads& heads) {
  const RowLayout ring = WithMethod(layout, ContextMethod::kRing);
  const int n = ring.cp_size;
  int64_t slowest = 0;
  for (int rank = 0; rank < n; ++rank) {
    const RowRuns queries = ring.CpRows(rank);
    int64_t pairs = CausalPairs(LocalSegments(queries, ring.cu_seqlens)) +
                    FindSeenBlock(queries, queries, ring.cu_seqlens).num_pairs();
    int64_t cost = 0;
    for (int step = 0; step < n; ++step) {
      SeenBlock next;
      if (step + 1 < n) {
        const RowRuns keys = ring.CpRows((rank + n - step - 1) % n);
        next = FindSeenBlock(queries, keys, ring.cu_seqlens);
      }
      const int64_t bytes = 2 * next.keys.count * heads.kv * heads.dim * kElementBytes;
      cost += std::max(AttentionCost(pairs, heads.query, heads.dim), bytes);
      pairs = next.num_pairs();
    }
    slowest = std::max(slowest, cost);
  }
  return slowest;
}

int64_t UlyssesCost(const RowLayout& layout, const AttentionHeads& heads) {
  const int64_t n = layout.cp_size;
  const int64_t num_heads = heads.query / n, num_kv_heads = std::max<int64_t>(1, heads.kv / n);
  const int64_t row_bytes = 2 * (num_heads + num_kv_heads) * heads.dim * kElementBytes;
  return AttentionCost(CausalPairs(layout.cu_seqlens), num_heads, heads.dim) +
         (n - 1) * layout.rows_per_cp_rank() * row_bytes;
}

ContextMethod ChooseContextMethod(const RowLayout& layout, const AttentionHeads& heads) {
  if (!AllowsUlysses(heads, layout.cp_size)) return ContextMethod::kRing;
  return UlyssesCost(layout, heads) < RingCost(layout, heads) ? ContextMethod::kUlysses
                                                              : ContextMethod::kRing;
}

}  // namespace omnitrain
