#include "kernels/attention/attention.h"

#include "core/runtime/has_cuda.h"
#include "kernels/attention/attention_impl.h"
#include "kernels/common/operands.h"

namespace omnitrain {
namespace {

constexpr int64_t kMaxHeadDimCpu = 256, kMaxHeadDimCuda = 128;

/// Checks one list of segments: [0, num_rows) in pieces of at most `max_length`.
void CheckSegments(const Context& ctx, const char* op, const Tensor& cu_seqlens, int64_t num_rows,
                   int64_t max_length) {
  OT_CHECK(cu_seqlens.shape.rank() == 1 && cu_seqlens.shape[0] >= 1, "{}: cu_seqlens is {}", op,
           Describe(cu_seqlens));
  CheckDenseOperand(ctx, op, "cu_seqlens", cu_seqlens, DType::kI32, {cu_seqlens.shape[0]});
  if (ctx.is_cuda()) return;  // the values are out of reach; the loader made them
  const int32_t* cu = cu_seqlens.ptr<int32_t>();
  const int64_t num_sequences = cu_seqlens.shape[0] - 1;
  OT_CHECK(cu[0] == 0 && cu[num_sequences] == num_rows,
           "{}: cu_seqlens runs from {} to {}, expected 0 to {}", op, cu[0], cu[num_sequences],
           num_rows);
  for (int64_t s = 0; s < num_sequences; ++s) {
    const int64_t length = cu[s + 1] - cu[s];
    OT_CHECK(length >= 0 && length <= max_length, "{}: sequence {} has {} tokens, max_seqlen is {}",
             op, s, length, max_length);
  }
}

void CheckSegmentPairs(const Context& ctx, const char* op, const AttentionSegments& segments,
                       bool is_causal) {
  OT_CHECK(segments.q.shape == segments.k.shape, "{}: segments of queries {}, of keys {}", op,
           Describe(segments.q), Describe(segments.k));
  if (ctx.is_cuda() || segments.q.data == segments.k.data) return;
  const int32_t *q = segments.q.ptr<int32_t>(), *k = segments.k.ptr<int32_t>();
  for (int64_t s = 0; s + 1 < segments.q.shape[0]; ++s) {
    const int64_t queries = q[s + 1] - q[s], keys = k[s + 1] - k[s];
    OT_CHECK((queries == 0) == (keys == 0), "{}: segment {} has {} queries and {} keys", op, s,
             queries, keys);
    OT_CHECK(!is_causal || queries == keys, "{}: {} queries and {} keys in causal segment {}", op,
             queries, keys, s);
  }
}

/// Checks what forward and backward share.
void CheckInputs(const Context& ctx, const char* op, const Tensor& q, const Tensor& k,
                 const Tensor& v, const AttentionSegments& segments, const AttentionParams& params,
                 const Tensor& o, const Tensor& lse) {
  OT_CHECK(q.shape.rank() == 3 && k.shape.rank() == 3,
           "{}: q is {}, k is {}, expected [tokens, heads, head dim]", op, Describe(q),
           Describe(k));
  const int64_t queries = q.shape[0], heads = q.shape[1], head_dim = q.shape[2];
  const int64_t keys = k.shape[0], kv_heads = k.shape[1];
  OT_CHECK(kv_heads > 0 && heads > 0 && heads % kv_heads == 0,
           "{}: {} query heads over {} kv heads", op, heads, kv_heads);
  const int64_t max_head_dim = ctx.is_cuda() ? kMaxHeadDimCuda : kMaxHeadDimCpu;
  OT_CHECK(head_dim > 0 && head_dim <= max_head_dim, "{}: head dim {}, supported up to {}", op,
           head_dim, max_head_dim);
  CheckOperand(ctx, op, "q", q, q.dtype, {queries, heads, head_dim});
  CheckOperand(ctx, op, "k", k, q.dtype, {keys, kv_heads, head_dim});
  CheckOperand(ctx, op, "v", v, q.dtype, {keys, kv_heads, head_dim});
  CheckOperand(ctx, op, "o", o, q.dtype, {queries, heads, head_dim});
  CheckOperand(ctx, op, "lse", lse, StatisticsDType(q.dtype), {heads, queries});
  CheckSegments(ctx, op, segments.q, queries, segments.max_q);
  CheckSegments(ctx, op, segments.k, keys, segments.max_k);
  CheckSegmentPairs(ctx, op, segments, params.is_causal);
}

/// A gradient is of the compute dtype or of the one that sums are in.
void CheckGradient(const Context& ctx, const char* op, const char* name, const Tensor& t,
                   const Tensor& of) {
  const DType wide = StatisticsDType(of.dtype);
  CheckOperand(ctx, op, name, t, t.dtype == wide ? wide : of.dtype, of.shape);
}

AttentionSegments OneList(const Tensor& cu_seqlens, const AttentionParams& params) {
  return {cu_seqlens, cu_seqlens, params.max_seqlen, params.max_seqlen};
}

}  // namespace

void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& cu_seqlens, const AttentionParams& params, Tensor o,
                      Tensor lse) {
  AttentionForward(ctx, q, k, v, OneList(cu_seqlens, params), params, o, lse);
}

void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionSegments& segments, const AttentionParams& params, Tensor o,
                      Tensor lse) {
  CheckInputs(ctx, "AttentionForward", q, k, v, segments, params, o, lse);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::AttentionForward(ctx, q, k, v, segments, params, o, lse);
  }
  DispatchReal(q.dtype, [&](auto real) {
    cpu::AttentionForward<decltype(real)>(ctx, q, k, v, segments, params, o, lse);
  });
}

void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const Tensor& cu_seqlens, const AttentionParams& params, Tensor dq,
                       Tensor dk, Tensor dv) {
  AttentionBackward(ctx, d_o, q, k, v, o, lse, OneList(cu_seqlens, params), params, {dq, dk, dv});
}

void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const AttentionSegments& segments, const AttentionParams& params,
                       const AttentionGradients& gradients) {
  constexpr char kOp[] = "AttentionBackward";
  CheckInputs(ctx, kOp, q, k, v, segments, params, o, lse);
  CheckOperand(ctx, kOp, "d_o", d_o, q.dtype, q.shape);
  CheckGradient(ctx, kOp, "dq", gradients.dq, q);
  CheckGradient(ctx, kOp, "dk", gradients.dk, k);
  CheckGradient(ctx, kOp, "dv", gradients.dv, v);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) {
      return cuda::AttentionBackward(ctx, d_o, q, k, v, o, lse, segments, params, gradients);
    }
  }
  DispatchReal(q.dtype, [&](auto real) {
    cpu::AttentionBackward<decltype(real)>(ctx, d_o, q, k, v, o, lse, segments, params, gradients);
  });
}

void AttentionMerge(Context& ctx, const Tensor& o_part, const Tensor& lse_part, Tensor o,
                    Tensor lse) {
  constexpr char kOp[] = "AttentionMerge";
  OT_CHECK(o_part.shape.rank() == 3, "{}: o_part is {}, expected [tokens, heads, head dim]", kOp,
           Describe(o_part));
  const Shape statistics{o_part.shape[1], o_part.shape[0]};
  const DType wide = StatisticsDType(o_part.dtype);
  CheckOperand(ctx, kOp, "o_part", o_part, o_part.dtype, o_part.shape);
  CheckOperand(ctx, kOp, "lse_part", lse_part, wide, statistics);
  CheckOperand(ctx, kOp, "o", o, o.dtype == wide ? wide : o_part.dtype, o_part.shape);
  CheckOperand(ctx, kOp, "lse", lse, wide, statistics);
  if (o.num_elements() == 0) return;
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::AttentionMerge(ctx, o_part, lse_part, o, lse);
  }
  DispatchReal(o.dtype,
               [&](auto real) { cpu::AttentionMerge<decltype(real)>(o_part, lse_part, o, lse); });
}

}  // namespace omnitrain
