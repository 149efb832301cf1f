#include <algorithm>

#include "core/model/context_attention_impl.h"
#include "kernels/elementwise/elementwise.h"

namespace omnitrain {
namespace {

/// How heads are divided over the cp ranks: rank r works on query heads [r * H / cp, ...) and the
/// kv heads that they read.
class HeadSplit {
 public:
  explicit HeadSplit(const ContextCall& call)
      : cp_size_(call.cp.size), kv_heads_(call.heads.kv), head_dim_(call.heads.dim) {
    num_heads = call.heads.query / cp_size_;
    num_kv_heads = std::max<int64_t>(1, kv_heads_ / cp_size_);
  }

  /// Columns of q and of k, v (rows of all heads) that go to rank r.
  RowRun QueryColumns(int r) const { return {r * q_width(), q_width()}; }
  RowRun KeyColumns(int r) const { return {r * kv_heads_ / cp_size_ * head_dim_, kv_width()}; }
  /// Whether rank r is the first of those that have these kv heads.
  bool IsFirstReplica(int r) const {
    return r == 0 || KeyColumns(r).begin != KeyColumns(r - 1).begin;
  }
  bool has_replicas() const { return kv_heads_ < cp_size_; }
  int64_t q_width() const { return num_heads * head_dim_; }
  int64_t kv_width() const { return num_kv_heads * head_dim_; }

  int64_t num_heads, num_kv_heads;  // of one rank

 private:
  int64_t cp_size_, kv_heads_, head_dim_;
};

/// Rows of one exchange: q, k, v side by side, then for a backward o and d_o. A rank's rows for all
/// others, [cp, Tc, width], become all rows of this rank's heads, [T, width].
struct HeadRows {
  HeadRows(const HeadSplit& split_, const AttentionHeads& heads_, const Tensor& rows_)
      : split(split_), heads(heads_), rows(rows_) {}

  Tensor q() const { return Queries(0); }
  Tensor k() const { return Keys(split.q_width()); }
  Tensor v() const { return Keys(split.q_width() + split.kv_width()); }
  Tensor o() const { return Queries(split.q_width() + 2 * split.kv_width()); }
  Tensor d_o() const { return Queries(2 * split.q_width() + 2 * split.kv_width()); }

 private:
  Tensor Queries(int64_t column) const {
    return rows.Columns(column, split.q_width()).View({rows.shape[0], split.num_heads, heads.dim});
  }
  Tensor Keys(int64_t column) const {
    return rows.Columns(column, split.kv_width())
        .View({rows.shape[0], split.num_kv_heads, heads.dim});
  }

  const HeadSplit& split;
  const AttentionHeads& heads;
  Tensor rows;
};

/// The workspace of a forward or backward.
struct UlyssesSpace {
  Tensor out, in;               // [T, width of the inputs]: by destination, by row
  Tensor made, taken;           // [T, width of the outputs]: by row, by source
  Tensor dk_sum, dv_sum, wide;  // where kv heads have replicas and sums are wider: [Tc, G K] twice,
                                // [Tc, K]

  UlyssesSpace(ContextCall& call, const HeadSplit& split, bool is_backward) {
    const int64_t T = call.tables.layout.num_rows, Tc = call.num_rows();
    const int64_t qkv_width = split.q_width() + 2 * split.kv_width();
    const int64_t in_width = qkv_width + (is_backward ? 2 * split.q_width() : 0);
    const int64_t out_width = is_backward ? qkv_width : split.q_width();
    const auto take = [&](int64_t width) { return call.workspace.Take(call.dtype, {T, width}); };
    out = take(in_width);
    in = take(in_width);
    made = take(out_width);
    taken = take(out_width);
    if (!is_backward || !split.has_replicas() || !call.has_wide_sums()) return;
    const int64_t kv_width = call.heads.kv * call.heads.dim;
    dk_sum = call.workspace.Take(call.sum_dtype, {Tc, kv_width});
    dv_sum = call.workspace.Take(call.sum_dtype, {Tc, kv_width});
    wide = call.workspace.Take(call.sum_dtype, {Tc, split.kv_width()});
  }
};

/// Every rank sends each other Tc rows.
void SwapRows(Context& ctx, const ContextCall& call, const Tensor& from, const Tensor& to) {
  const std::vector<int64_t> bytes(static_cast<size_t>(call.cp.size),
                                   from.num_bytes() / call.cp.size);
  call.cp.comm->AllToAllV(from, bytes, to, bytes, ctx.stream()).Wait(ctx.stream());
}

Tensor At(const Tensor& t, const RowRun& columns) {
  return Flat(t).Columns(columns.begin, columns.count);
}

/// q, k, v (and o, d_o where there are) of this rank's rows become all rows of its heads.
HeadRows GatherRows(Context& ctx, const ContextCall& call, const HeadSplit& split,
                    const UlyssesSpace& space, const ContextOperands& x) {
  for (int r = 0; r < call.cp.size; ++r) {
    const HeadRows to(split, call.heads, space.out.Rows(r * call.num_rows(), call.num_rows()));
    Cast(ctx, At(x.q, split.QueryColumns(r)), Flat(to.q()));
    Cast(ctx, At(x.k, split.KeyColumns(r)), Flat(to.k()));
    Cast(ctx, At(x.v, split.KeyColumns(r)), Flat(to.v()));
    if (!x.d_o) continue;
    Cast(ctx, At(x.o, split.QueryColumns(r)), Flat(to.o()));
    Cast(ctx, At(x.d_o, split.QueryColumns(r)), Flat(to.d_o()));
  }
  SwapRows(ctx, call, space.out, space.in);
  return HeadRows(split, call.heads, space.in);
}

/// The statistics of all rows for this rank's heads take the place of those of all heads.
Tensor HeadStatistics(const ContextCall& call, const HeadSplit& split, const Tensor& lse) {
  return lse.View({split.num_heads, call.tables.layout.num_rows});
}

}  // namespace

void UlyssesForward(Context& ctx, ContextCall call, const ContextOperands& x) {
  const HeadSplit split(call);
  const UlyssesSpace space(call, split, false);
  const HeadRows all = GatherRows(ctx, call, split, space, x);
  const Shape o_shape{call.tables.layout.num_rows, split.num_heads, call.heads.dim};
  AttentionForward(ctx, all.q(), all.k(), all.v(), call.tables.own, x.params,
                   space.made.View(o_shape), HeadStatistics(call, split, x.lse));
  SwapRows(ctx, call, space.made, space.taken);
  for (int r = 0; r < call.cp.size; ++r) {
    Cast(ctx, space.taken.Rows(r * call.num_rows(), call.num_rows()),
         At(x.o, split.QueryColumns(r)));
  }
}

void UlyssesBackward(Context& ctx, ContextCall call, const ContextOperands& x, Tensor d_q,
                     Tensor d_k, Tensor d_v) {
  const HeadSplit split(call);
  const UlyssesSpace space(call, split, true);
  const HeadRows all = GatherRows(ctx, call, split, space, x);
  const HeadRows made(split, call.heads, space.made);
  AttentionBackward(ctx, all.d_o(), all.q(), all.k(), all.v(), all.o(),
                    HeadStatistics(call, split, x.lse), call.tables.own, x.params,
                    {made.q(), made.k(), made.v()});
  SwapRows(ctx, call, space.made, space.taken);
  const Tensor dk_sum = space.dk_sum ? space.dk_sum : Flat(d_k);
  const Tensor dv_sum = space.dv_sum ? space.dv_sum : Flat(d_v);
  for (int r = 0; r < call.cp.size; ++r) {
    const HeadRows from(split, call.heads, space.taken.Rows(r * call.num_rows(), call.num_rows()));
    const Write write = split.IsFirstReplica(r) ? Write::kOverwrite : Write::kAccumulate;
    Cast(ctx, Flat(from.q()), At(d_q, split.QueryColumns(r)));
    AddPart(ctx, Flat(from.k()), write, space.wide, At(dk_sum, split.KeyColumns(r)));
    AddPart(ctx, Flat(from.v()), write, space.wide, At(dv_sum, split.KeyColumns(r)));
  }
  if (!space.dk_sum) return;
  Cast(ctx, dk_sum, Flat(d_k));
  Cast(ctx, dv_sum, Flat(d_v));
}

size_t UlyssesWorkspaceBytes(const ContextCall& call) {
  const HeadSplit split(call);
  ContextCall forward = call, backward = call;
  UlyssesSpace(forward, split, false);
  UlyssesSpace(backward, split, true);
  return std::max(forward.workspace.used(), backward.workspace.used());
}

}  // namespace omnitrain
