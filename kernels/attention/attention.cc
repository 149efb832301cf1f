#include "kernels/attention/attention.h"

#include "core/runtime/has_cuda.h"
#include "kernels/attention/attention_impl.h"
#include "kernels/common/operands.h"

namespace omnitrain {
namespace {

constexpr int64_t kMaxHeadDimCpu = 256, kMaxHeadDimCuda = 128;

/// Checks what forward and backward share.
void CheckInputs(const Context& ctx, const char* op, const Tensor& q, const Tensor& k,
                 const Tensor& v, const Tensor& cu_seqlens, const AttentionParams& params,
                 const Tensor& o, const Tensor& lse) {
  OT_CHECK(q.shape.rank() == 3 && k.shape.rank() == 3,
           "{}: q is {}, k is {}, expected [tokens, heads, head dim]", op, Describe(q),
           Describe(k));
  const int64_t tokens = q.shape[0], heads = q.shape[1], head_dim = q.shape[2];
  const int64_t kv_heads = k.shape[1];
  OT_CHECK(kv_heads > 0 && heads > 0 && heads % kv_heads == 0,
           "{}: {} query heads over {} kv heads", op, heads, kv_heads);
  const int64_t max_head_dim = ctx.is_cuda() ? kMaxHeadDimCuda : kMaxHeadDimCpu;
  OT_CHECK(head_dim > 0 && head_dim <= max_head_dim, "{}: head dim {}, supported up to {}", op,
           head_dim, max_head_dim);
  CheckOperand(ctx, op, "q", q, q.dtype, {tokens, heads, head_dim});
  CheckOperand(ctx, op, "k", k, q.dtype, {tokens, kv_heads, head_dim});
  CheckOperand(ctx, op, "v", v, q.dtype, {tokens, kv_heads, head_dim});
  CheckOperand(ctx, op, "o", o, q.dtype, {tokens, heads, head_dim});
  CheckDenseOperand(ctx, op, "lse", lse, StatisticsDType(q.dtype), {heads, tokens});
  OT_CHECK(cu_seqlens.shape.rank() == 1 && cu_seqlens.shape[0] >= 1, "{}: cu_seqlens is {}", op,
           Describe(cu_seqlens));
  CheckDenseOperand(ctx, op, "cu_seqlens", cu_seqlens, DType::kI32, {cu_seqlens.shape[0]});
  if (ctx.is_cuda()) return;  // cu_seqlens is out of reach; the loader made it

  const int32_t* cu = cu_seqlens.ptr<int32_t>();
  const int64_t num_sequences = cu_seqlens.shape[0] - 1;
  OT_CHECK(cu[0] == 0 && cu[num_sequences] == tokens,
           "{}: cu_seqlens runs from {} to {}, expected 0 to {}", op, cu[0], cu[num_sequences],
           tokens);
  for (int64_t s = 0; s < num_sequences; ++s) {
    const int64_t length = cu[s + 1] - cu[s];
    OT_CHECK(length >= 0 && length <= params.max_seqlen,
             "{}: sequence {} has {} tokens, max_seqlen is {}", op, s, length, params.max_seqlen);
  }
}

}  // namespace

void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& cu_seqlens, const AttentionParams& params, Tensor o,
                      Tensor lse) {
  CheckInputs(ctx, "AttentionForward", q, k, v, cu_seqlens, params, o, lse);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::AttentionForward(ctx, q, k, v, cu_seqlens, params, o, lse);
  }
  DispatchReal(q.dtype, [&](auto real) {
    cpu::AttentionForward<decltype(real)>(ctx, q, k, v, cu_seqlens, params, o, lse);
  });
}

void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const Tensor& cu_seqlens, const AttentionParams& params, Tensor dq,
                       Tensor dk, Tensor dv) {
  constexpr char kOp[] = "AttentionBackward";
  CheckInputs(ctx, kOp, q, k, v, cu_seqlens, params, o, lse);
  CheckOperand(ctx, kOp, "d_o", d_o, q.dtype, q.shape);
  CheckOperand(ctx, kOp, "dq", dq, q.dtype, q.shape);
  CheckOperand(ctx, kOp, "dk", dk, q.dtype, k.shape);
  CheckOperand(ctx, kOp, "dv", dv, q.dtype, k.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) {
      return cuda::AttentionBackward(ctx, d_o, q, k, v, o, lse, cu_seqlens, params, dq, dk, dv);
    }
  }
  DispatchReal(q.dtype, [&](auto real) {
    cpu::AttentionBackward<decltype(real)>(ctx, d_o, q, k, v, o, lse, cu_seqlens, params, dq, dk,
                                           dv);
  });
}

}  // namespace omnitrain
