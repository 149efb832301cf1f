#pragma once

#include "core/model/context_attention.h"

namespace omnitrain {

/// What a forward or backward over several cp ranks works with. The workspace of calls that only
/// ask for its size counts.
struct ContextCall {
  const AxisSeat& cp;
  const AttentionHeads& heads;
  DType dtype, sum_dtype;
  const ContextTables& tables;
  Carver workspace;

  bool has_wide_sums() const { return sum_dtype != dtype; }
  int64_t num_rows() const { return tables.layout.rows_per_cp_rank(); }
};

/// The operands of both passes; a forward uses q, k, v, o and lse.
struct ContextOperands {
  Tensor q, k, v, o, lse, d_o;
  AttentionParams params;
};

/// [T, heads, K] as [T, heads * K].
inline Tensor Flat(const Tensor& t) { return t.View({t.shape[0], t.shape.row_elements()}); }

/// sum (= or +=) part, both [rows, D]; `wide` is [rows, D] in the sum's dtype, for when part has
/// another.
void AddPart(Context& ctx, const Tensor& part, Write write, const Tensor& wide, Tensor sum);

void RingForward(Context& ctx, ContextCall call, const ContextOperands& x);
void RingBackward(Context& ctx, ContextCall call, const ContextOperands& x, Tensor d_q, Tensor d_k,
                  Tensor d_v);
size_t RingWorkspaceBytes(const ContextCall& call);

void UlyssesForward(Context& ctx, ContextCall call, const ContextOperands& x);
void UlyssesBackward(Context& ctx, ContextCall call, const ContextOperands& x, Tensor d_q,
                     Tensor d_k, Tensor d_v);
size_t UlyssesWorkspaceBytes(const ContextCall& call);

}  // namespace omnitrain
