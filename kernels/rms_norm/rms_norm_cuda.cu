#include "kernels/common/column_sums.cuh"
#include "kernels/common/row_group.cuh"
#include "kernels/rms_norm/rms_norm_impl.h"

namespace omnitrain::cuda {
namespace {

template <typename T, int N, int kLanes>
__global__ void __launch_bounds__(kRowThreads)
    ForwardKernel(RowPointers<const T> x, const T* w, float eps, RowPointers<T> y, float* rstd,
                  int64_t num_rows) {
  const int64_t row =
      static_cast<int64_t>(blockIdx.x) * (kRowThreads / kLanes) + threadIdx.x / kLanes;
  if (row >= num_rows) return;  // a warp's rows end together; a block has one
  const int lane = threadIdx.x % kLanes;
  const T* from = x[row];
  T* to = y[row];
  const int64_t width = x.width;
  float sum = 0;
#pragma unroll kLoadsAhead < kLanes>
  for (int64_t j = lane * N; j < width; j += kLanes * N) {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(from + j);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += ToFloat(p.v[i]) * ToFloat(p.v[i]);
  }
  const float r = 1 / sqrtf(RowSum<kLanes>(sum) / static_cast<float>(width) + eps);
  if (lane == 0) rstd[row] = r;
#pragma unroll kLoadsAhead < kLanes>
  for (int64_t j = lane * N; j < width; j += kLanes * N) {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(from + j);
    const auto q = *reinterpret_cast<const Pack<T, N>*>(w + j);
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.v[i] = FromFloat<T>(ToFloat(q.v[i]) * (ToFloat(p.v[i]) * r));
    *reinterpret_cast<Pack<T, N>*>(to + j) = out;
  }
}

/// dx = rstd (w dy - x^ mean(w dy x^)), x^ = x rstd. dx may be dy: each thread reads what it
/// writes.
template <typename T, int N, int kLanes>
__global__ void __launch_bounds__(kRowThreads)
    InputGradKernel(RowPointers<const T> dy, RowPointers<const T> x, const T* w, const float* rstd,
                    bool accumulates, RowPointers<T> dx, int64_t num_rows) {
  const int64_t row =
      static_cast<int64_t>(blockIdx.x) * (kRowThreads / kLanes) + threadIdx.x / kLanes;
  if (row >= num_rows) return;
  const int lane = threadIdx.x % kLanes;
  const T *x_row = x[row], *dy_row = dy[row];
  T* to = dx[row];
  const int64_t width = x.width;
  const float r = rstd[row];
  float sum = 0;
  for (int64_t j = lane * N; j < width; j += kLanes * N) {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(x_row + j);
    const auto g = *reinterpret_cast<const Pack<T, N>*>(dy_row + j);
    const auto q = *reinterpret_cast<const Pack<T, N>*>(w + j);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum += ToFloat(q.v[i]) * ToFloat(g.v[i]) * (ToFloat(p.v[i]) * r);
    }
  }
  const float mean = RowSum<kLanes>(sum) / static_cast<float>(width);
  for (int64_t j = lane * N; j < width; j += kLanes * N) {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(x_row + j);
    const auto g = *reinterpret_cast<const Pack<T, N>*>(dy_row + j);
    const auto q = *reinterpret_cast<const Pack<T, N>*>(w + j);
    Pack<T, N> out;
    if (accumulates) out = *reinterpret_cast<const Pack<T, N>*>(to + j);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float d = r * (ToFloat(q.v[i]) * ToFloat(g.v[i]) - ToFloat(p.v[i]) * r * mean);
      out.v[i] = FromFloat<T>(accumulates ? ToFloat(out.v[i]) + d : d);
    }
    *reinterpret_cast<Pack<T, N>*>(to + j) = out;
  }
}

/// The terms of dw.
template <typename T>
struct WeightGrad {
  RowPointers<const T> dy, x;
  const float* rstd;

  template <int N>
  __device__ void Run(int64_t row, int64_t column, float (&values)[1][N]) const {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(x[row] + column);
    const auto g = *reinterpret_cast<const Pack<T, N>*>(dy[row] + column);
    const float r = rstd[row];
#pragma unroll
    for (int i = 0; i < N; ++i) values[0][i] = ToFloat(g.v[i]) * (ToFloat(p.v[i]) * r);
  }
};

}  // namespace

void RmsNormForward(Context& ctx, const Tensor& x, const Tensor& w, double eps, Tensor y,
                    Tensor rstd) {
  const int64_t rows = rstd.num_elements(), width = w.shape[0];
  if (rows == 0) return;
  DispatchCompute(x.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    DispatchPack<T>({PackOf<T>(x), PackOf<T>(w), PackOf<T>(y)}, [&](auto pack) {
      DispatchLanes(width, kWidestOfWarp, [&](auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        ForwardKernel<T, decltype(pack)::value, kLanes>
            <<<NumRowBlocks<kLanes>(rows), kRowThreads, 0, StreamOf(ctx)>>>(
                RowsOf<const T>(x), Data<T>(w), static_cast<float>(eps), RowsOf<T>(y),
                Data<float>(rstd), rows);
        CheckLaunch("rms_norm forward");
      });
    });
  });
}

void RmsNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                     const Tensor& rstd, Write write, Tensor dx, Tensor dw) {
  const int64_t rows = rstd.num_elements(), width = w.shape[0];
  if (rows == 0) return;
  DispatchCompute(x.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    DispatchPack<T>({PackOf<T>(x), PackOf<T>(w), PackOf<T>(dy), PackOf<T>(dx)}, [&](auto pack) {
      constexpr int kPack = decltype(pack)::value;
      // Before dx takes the place of dy.
      if (dw) {
        AddColumnSums<1, kPack>(
            ctx, WeightGrad<T>{RowsOf<const T>(dy), RowsOf<const T>(x), Data<float>(rstd)}, rows,
            width, ColumnSumTargets<1>{{Data<float>(dw)}});
      }
      DispatchLanes(width, kWidestOfWarp / 2, [&](auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        InputGradKernel<T, kPack, kLanes>
            <<<NumRowBlocks<kLanes>(rows), kRowThreads, 0, StreamOf(ctx)>>>(
                RowsOf<const T>(dy), RowsOf<const T>(x), Data<T>(w), Data<float>(rstd),
                write == Write::kAccumulate, RowsOf<T>(dx), rows);
        CheckLaunch("rms_norm backward");
      });
    });
  });
}

}  // namespace omnitrain::cuda
