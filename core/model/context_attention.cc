#include "core/model/context_attention.h"

#include <algorithm>

#include "core/model/context_attention_impl.h"
#include "core/model/layers.h"
#include "kernels/elementwise/elementwise.h"

namespace omnitrain {
namespace {

int64_t LongestSegment(const std::vector<int32_t>& cu_seqlens) {
  int64_t longest = 0;
  for (size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    longest = std::max<int64_t>(longest, cu_seqlens[i + 1] - cu_seqlens[i]);
  }
  return longest;
}

/// Appends a list; its place among all values.
RowRun Append(const std::vector<int32_t>& list, std::vector<int32_t>* all) {
  const RowRun place{static_cast<int64_t>(all->size()), static_cast<int64_t>(list.size())};
  all->insert(all->end(), list.begin(), list.end());
  return place;
}

void CheckCall(const AxisSeat& cp, const Tensor& lse) {
  OT_CHECK(cp.comm != nullptr && cp.comm->size() == cp.size && cp.comm->rank() == cp.rank,
           "cp rank {} of {} without its communicator", cp.rank, cp.size);
  OT_CHECK(lse.is_dense(), "lse {} has rows {} elements apart", Describe(lse), lse.row_stride);
}

}  // namespace

void AddPart(Context& ctx, const Tensor& part, Write write, const Tensor& wide, Tensor sum) {
  if (write == Write::kOverwrite) return Cast(ctx, part, sum);
  if (part.dtype == sum.dtype) return AddInto(ctx, part, sum);
  Cast(ctx, part, wide);
  AddInto(ctx, wide, sum);
}

ContextAttention::ContextAttention(const AxisSeat& cp, const AttentionHeads& heads, DType dtype)
    : cp_(cp), heads_(heads), dtype_(dtype) {}

ContextTables ContextAttention::Carve(Carver& carver, const RowLayout& layout) const {
  OT_CHECK(layout.cp_size == cp_.size, "rows for cp={} on cp={}", layout.cp_size, cp_.size);
  ContextTables t;
  t.layout = layout;
  const bool is_ring = cp_.size > 1 && layout.method == ContextMethod::kRing;
  const std::vector<int32_t> own =
      is_ring ? LocalSegments(layout.CpRows(cp_.rank), layout.cu_seqlens) : layout.cu_seqlens;
  const RowRun own_place = Append(own, &t.host);
  std::vector<RowRun> places;  // of the segments of queries and of keys, block by block
  if (is_ring) {
    const int n = cp_.size;
    const RowRuns mine = layout.CpRows(cp_.rank);
    for (int step = 0; step < n; ++step) {
      ContextTables::Block block;
      const RowRuns theirs = layout.CpRows((cp_.rank + n - step) % n);
      block.rows = FindSeenBlock(mine, theirs, layout.cu_seqlens);
      places.push_back(Append({0, static_cast<int32_t>(block.rows.queries.count)}, &t.host));
      places.push_back(Append({0, static_cast<int32_t>(block.rows.keys.count)}, &t.host));
      t.seen.push_back(block);
      const RowRuns others = layout.CpRows((cp_.rank + step) % n);
      t.shown.push_back(step == 0 ? RowRun{} : FindSeenBlock(others, mine, layout.cu_seqlens).keys);
    }
  }
  t.device = carver.Take(DType::kI32, {static_cast<int64_t>(t.host.size())});
  const auto at = [&](const RowRun& place) { return t.device.Rows(place.begin, place.count); };
  const int64_t longest = LongestSegment(own);
  t.own = {at(own_place), at(own_place), longest, longest};
  for (size_t s = 0; s < t.seen.size(); ++s) {
    const SeenBlock& rows = t.seen[s].rows;
    t.seen[s].segments = {at(places[2 * s]), at(places[2 * s + 1]), rows.queries.count,
                          rows.keys.count};
  }
  return t;
}

void ContextAttention::Upload(Context& ctx, const ContextTables& tables) {
  ctx.device().Copy(tables.device.data, tables.host.data(), tables.host.size() * sizeof(int32_t),
                    ctx.stream());
  Reserve(ctx, WorkspaceBytes(tables));
}

size_t ContextAttention::WorkspaceBytes(const ContextTables& tables) const {
  if (cp_.size == 1 || tables.layout.num_rows == 0) return 0;
  const ContextCall call{cp_, heads_, dtype_, StatsDType(dtype_), tables, Carver()};
  return tables.layout.method == ContextMethod::kUlysses ? UlyssesWorkspaceBytes(call)
                                                         : RingWorkspaceBytes(call);
}

void ContextAttention::Reserve(Context& ctx, size_t bytes) {
  if (bytes <= workspace_.bytes()) return;
  ctx.stream().Synchronize();  // work in flight may still use the old block
  workspace_ = Buffer();
  workspace_ = Buffer(ctx.device(), bytes);
}

void ContextAttention::Forward(Context& ctx, const ContextTables& tables, const Tensor& q,
                               const Tensor& k, const Tensor& v, const AttentionParams& params,
                               Tensor o, Tensor lse) {
  if (cp_.size == 1) return AttentionForward(ctx, q, k, v, tables.own, params, o, lse);
  if (tables.layout.num_rows == 0) return;
  CheckCall(cp_, lse);
  const Carver workspace(workspace_.data(), workspace_.bytes(), ctx.device().kind());
  const ContextCall call{cp_, heads_, dtype_, StatsDType(dtype_), tables, workspace};
  const ContextOperands operands{q, k, v, o, lse, Tensor(), params};
  if (tables.layout.method == ContextMethod::kUlysses) return UlyssesForward(ctx, call, operands);
  RingForward(ctx, call, operands);
}

void ContextAttention::Backward(Context& ctx, const ContextTables& tables, const Tensor& d_o,
                                const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o,
                                const Tensor& lse, const AttentionParams& params, Tensor d_q,
                                Tensor d_k, Tensor d_v) {
  if (cp_.size == 1) {
    return AttentionBackward(ctx, d_o, q, k, v, o, lse, tables.own, params, {d_q, d_k, d_v});
  }
  if (tables.layout.num_rows == 0) return;
  CheckCall(cp_, lse);
  const Carver workspace(workspace_.data(), workspace_.bytes(), ctx.device().kind());
  const ContextCall call{cp_, heads_, dtype_, StatsDType(dtype_), tables, workspace};
  const ContextOperands operands{q, k, v, o, lse, d_o, params};
  if (tables.layout.method == ContextMethod::kUlysses) {
    return UlyssesBackward(ctx, call, operands, d_q, d_k, d_v);
  }
  RingBackward(ctx, call, operands, d_q, d_k, d_v);
}

}  // namespace omnitrain
