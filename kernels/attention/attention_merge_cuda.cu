#include "kernels/attention/attention_cuda.cuh"
#include "kernels/attention/attention_impl.h"

namespace omnitrain::cuda {
namespace {

constexpr int kThreads = 256;

/// One warp a row: a head of a token.
template <typename T, typename U>
__global__ void __launch_bounds__(kThreads)
    MergeKernel(Heads<const T> o_part, const float* lse_part, int64_t part_stride, int64_t num_rows,
                int num_heads, Heads<U> o, float* lse, int64_t lse_stride) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= num_rows) return;
  const int64_t token = i / num_heads;
  const int head = static_cast<int>(i % num_heads), lane = static_cast<int>(threadIdx.x) % 32;
  float* both = lse + head * lse_stride + token;
  const float mine = *both, part = lse_part[head * part_stride + token];
  const float max = fmaxf(mine, part);
  if (max == -INFINITY) return;
  const float merged = max + logf(expf(mine - max) + expf(part - max));
  const float keep = expf(mine - merged), add = expf(part - merged);
  const T* from = o_part.Row(token, head);
  U* to = o.Row(token, head);
  for (int d = lane; d < o.head_dim; d += 32) {
    to[d] = FromFloat<U>(keep * ToFloat(to[d]) + add * ToFloat(from[d]));
  }
  __syncwarp();  // all have read `both`
  if (lane == 0) *both = merged;
}

}  // namespace

void AttentionMerge(Context& ctx, const Tensor& o_part, const Tensor& lse_part, Tensor o,
                    Tensor lse) {
  const int64_t rows = o.shape[0] * o.shape[1];
  DispatchCompute(o_part.dtype, [&](auto part_scalar) {
    DispatchCompute(o.dtype, [&](auto scalar) {
      using T = decltype(part_scalar);
      using U = decltype(scalar);
      MergeKernel<T, U>
          <<<static_cast<unsigned>(CeilDiv(rows * 32, kThreads)), kThreads, 0, StreamOf(ctx)>>>(
              HeadsOf<const T>(o_part), Data<float>(lse_part), lse_part.row_stride, rows,
              static_cast<int>(o.shape[1]), HeadsOf<U>(o), Data<float>(lse), lse.row_stride);
    });
  });
  CheckLaunch("attention merge");
}

}  // namespace omnitrain::cuda
