#include "kernels/common/column_sums.cuh"
#include "kernels/common/row_group.cuh"
#include "kernels/layer_norm/layer_norm_impl.h"

namespace omnitrain::cuda {
namespace {

template <typename T, int N, int kLanes>
__global__ void __launch_bounds__(kRowThreads)
    ForwardKernel(RowPointers<const T> x, const T* w, const T* b, float eps, RowPointers<T> y,
                  float* mean_out, float* rstd_out, int64_t num_rows) {
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
    for (int i = 0; i < N; ++i) sum += ToFloat(p.v[i]);
  }
  const float mean = RowSum<kLanes>(sum) / static_cast<float>(width);
  float squares = 0;
#pragma unroll kLoadsAhead < kLanes>
  for (int64_t j = lane * N; j < width; j += kLanes * N) {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(from + j);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float d = ToFloat(p.v[i]) - mean;
      squares += d * d;
    }
  }
  const float r = 1 / sqrtf(RowSum<kLanes>(squares) / static_cast<float>(width) + eps);
  if (lane == 0) {
    mean_out[row] = mean;
    rstd_out[row] = r;
  }
#pragma unroll kLoadsAhead < kLanes>
  for (int64_t j = lane * N; j < width; j += kLanes * N) {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(from + j);
    const auto scale = *reinterpret_cast<const Pack<T, N>*>(w + j);
    const auto shift = *reinterpret_cast<const Pack<T, N>*>(b + j);
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out.v[i] =
          FromFloat<T>(ToFloat(scale.v[i]) * ((ToFloat(p.v[i]) - mean) * r) + ToFloat(shift.v[i]));
    }
    *reinterpret_cast<Pack<T, N>*>(to + j) = out;
  }
}

/// dx = rstd (w dy - mean(w dy) - x^ mean(w dy x^)), x^ = (x - mean) rstd. dx may be dy.
template <typename T, int N, int kLanes>
__global__ void __launch_bounds__(kRowThreads)
    InputGradKernel(RowPointers<const T> dy, RowPointers<const T> x, const T* w, const float* mean,
                    const float* rstd, bool accumulates, RowPointers<T> dx, int64_t num_rows) {
  const int64_t row =
      static_cast<int64_t>(blockIdx.x) * (kRowThreads / kLanes) + threadIdx.x / kLanes;
  if (row >= num_rows) return;
  const int lane = threadIdx.x % kLanes;
  const T *x_row = x[row], *dy_row = dy[row];
  T* to = dx[row];
  const int64_t width = x.width;
  const float m = mean[row], r = rstd[row];
  float sum = 0, product = 0;
  for (int64_t j = lane * N; j < width; j += kLanes * N) {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(x_row + j);
    const auto g = *reinterpret_cast<const Pack<T, N>*>(dy_row + j);
    const auto scale = *reinterpret_cast<const Pack<T, N>*>(w + j);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float d = ToFloat(scale.v[i]) * ToFloat(g.v[i]);
      sum += d;
      product += d * ((ToFloat(p.v[i]) - m) * r);
    }
  }
  sum = RowSum<kLanes>(sum) / static_cast<float>(width);
  product = RowSum<kLanes>(product) / static_cast<float>(width);
  for (int64_t j = lane * N; j < width; j += kLanes * N) {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(x_row + j);
    const auto g = *reinterpret_cast<const Pack<T, N>*>(dy_row + j);
    const auto scale = *reinterpret_cast<const Pack<T, N>*>(w + j);
    Pack<T, N> out;
    if (accumulates) out = *reinterpret_cast<const Pack<T, N>*>(to + j);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float normed = (ToFloat(p.v[i]) - m) * r;
      const float d = r * (ToFloat(scale.v[i]) * ToFloat(g.v[i]) - sum - normed * product);
      out.v[i] = FromFloat<T>(accumulates ? ToFloat(out.v[i]) + d : d);
    }
    *reinterpret_cast<Pack<T, N>*>(to + j) = out;
  }
}

/// The terms of dw and db.
template <typename T>
struct WeightGrad {
  RowPointers<const T> dy, x;
  const float *mean, *rstd;

  template <int N>
  __device__ void Run(int64_t row, int64_t column, float (&values)[2][N]) const {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(x[row] + column);
    const auto g = *reinterpret_cast<const Pack<T, N>*>(dy[row] + column);
    const float m = mean[row], r = rstd[row];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[0][i] = ToFloat(g.v[i]) * ((ToFloat(p.v[i]) - m) * r);
      values[1][i] = ToFloat(g.v[i]);
    }
  }
};

}  // namespace

void LayerNormForward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& b, double eps,
                      Tensor y, Tensor mean, Tensor rstd) {
  const int64_t rows = x.shape[0], width = x.shape[1];
  if (rows == 0) return;
  DispatchCompute(x.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    DispatchPack<T>({PackOf<T>(x), PackOf<T>(w), PackOf<T>(b), PackOf<T>(y)}, [&](auto pack) {
      DispatchLanes(width, kWidestOfWarp, [&](auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        ForwardKernel<T, decltype(pack)::value, kLanes>
            <<<NumRowBlocks<kLanes>(rows), kRowThreads, 0, StreamOf(ctx)>>>(
                RowsOf<const T>(x), Data<T>(w), Data<T>(b), static_cast<float>(eps), RowsOf<T>(y),
                Data<float>(mean), Data<float>(rstd), rows);
        CheckLaunch("layer_norm forward");
      });
    });
  });
}

void LayerNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor& mean, const Tensor& rstd, Write write, Tensor dx, Tensor dw,
                       Tensor db) {
  const int64_t rows = x.shape[0], width = x.shape[1];
  if (rows == 0) return;
  DispatchCompute(x.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    DispatchPack<T>({PackOf<T>(x), PackOf<T>(w), PackOf<T>(dy), PackOf<T>(dx)}, [&](auto pack) {
      constexpr int kPack = decltype(pack)::value;
      // Before dx takes the place of dy.
      if (dw || db) {
        const ColumnSumTargets<2> targets{
            {dw ? Data<float>(dw) : nullptr, db ? Data<float>(db) : nullptr}};
        AddColumnSums<2, kPack>(ctx,
                                WeightGrad<T>{RowsOf<const T>(dy), RowsOf<const T>(x),
                                              Data<float>(mean), Data<float>(rstd)},
                                rows, width, targets);
      }
      DispatchLanes(width, kWidestOfWarp / 2, [&](auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        InputGradKernel<T, kPack, kLanes>
            <<<NumRowBlocks<kLanes>(rows), kRowThreads, 0, StreamOf(ctx)>>>(
                RowsOf<const T>(dy), RowsOf<const T>(x), Data<T>(w), Data<float>(mean),
                Data<float>(rstd), write == Write::kAccumulate, RowsOf<T>(dx), rows);
        CheckLaunch("layer_norm backward");
      });
    });
  });
}

}  // namespace omnitrain::cuda
