#include <cmath>

#include "kernels/common/parallel.h"
#include "kernels/rms_norm/rms_norm_impl.h"

namespace omnitrain::cpu {
namespace {

template <typename S>
RowPointers<S> RowsOf(const Tensor& t) {
  const int64_t width = t.shape[t.shape.rank() - 1];
  return {t.ptr<S>(), t.row_stride, t.shape.rank() == 3 ? t.shape[1] : 1, width};
}

template <typename S>
S ForwardRow(const S* x, const S* w, S eps, int64_t width, S* y) {
  const S sum = LaneSum<S>(width, [=](int64_t j) { return x[j] * x[j]; });
  const S rstd = S(1) / std::sqrt(sum / static_cast<S>(width) + eps);
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) y[j] = w[j] * (x[j] * rstd);
  return rstd;
}

// With xhat = x rstd:  dx = rstd (w dy - xhat mean(w dy xhat)),  dw = sum over rows of dy xhat.
// dx may be dy, so whatever reads dy comes first.

template <typename S>
S Projection(const S* dy, const S* x, const S* w, int64_t width) {
  return LaneSum<S>(width, [=](int64_t j) { return w[j] * (dy[j] * x[j]); });
}

/// The same, and dw += dy xhat on the way.
template <typename S>
S ProjectionAndWeightGrad(const S* dy, const S* x, const S* w, S rstd, int64_t width, S* dw) {
  return LaneSum<S>(width, [=](int64_t j) {
    const S product = dy[j] * x[j];
    dw[j] += product * rstd;
    return w[j] * product;
  });
}

template <Write kWrite, typename S>
void WriteInputGrad(const S* dy, const S* x, const S* w, S rstd, S projection, int64_t width,
                    S* dx) {
  const S factor = projection * rstd * rstd / static_cast<S>(width);
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) {
    const S value = rstd * (w[j] * dy[j] - x[j] * factor);
    dx[j] = kWrite == Write::kAccumulate ? dx[j] + value : value;
  }
}

template <Write kWrite, typename S>
void Backward(Context& ctx, const Tensor& dy_tensor, const Tensor& x_tensor, const S* w,
              const Tensor& rstd_tensor, const Tensor& dx_tensor, S* dw) {
  const RowPointers<S> dy = RowsOf<S>(dy_tensor), x = RowsOf<S>(x_tensor),
                       dx = RowsOf<S>(dx_tensor);
  const S* rstd = rstd_tensor.ptr<S>();
  const int64_t width = x.width;
  const RowBlocks blocks(rstd_tensor.num_elements());
  ColumnSums<S> sums(dw ? ctx.Scratch(ColumnSums<S>::Bytes(blocks, width)) : nullptr, blocks,
                     width);
  ParallelFor(blocks.num_blocks, blocks.rows * width / blocks.num_blocks, [&](int64_t block) {
    S* partial = dw ? sums.Clear(block) : nullptr;
    for (int64_t r = blocks.begin(block); r < blocks.end(block); ++r) {
      const S *dy_row = dy[r], *x_row = x[r];
      const S projection = partial
                               ? ProjectionAndWeightGrad(dy_row, x_row, w, rstd[r], width, partial)
                               : Projection(dy_row, x_row, w, width);
      WriteInputGrad<kWrite>(dy_row, x_row, w, rstd[r], projection, width, dx[r]);
    }
  });
  if (dw) sums.AddTo(dw);
}

}  // namespace

void RmsNormForward(const Tensor& x, const Tensor& w, double eps, Tensor y, Tensor rstd) {
  DispatchReal(x.dtype, [&](auto zero) {
    using S = decltype(zero);
    const RowPointers<S> x_rows = RowsOf<S>(x), y_rows = RowsOf<S>(y);
    const S* weight = w.ptr<S>();
    S* rstd_out = rstd.ptr<S>();
    ParallelFor(rstd.num_elements(), x_rows.width, [=](int64_t r) {
      rstd_out[r] = ForwardRow(x_rows[r], weight, static_cast<S>(eps), x_rows.width, y_rows[r]);
    });
  });
}

void RmsNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                     const Tensor& rstd, Write write, Tensor dx, Tensor dw) {
  DispatchReal(x.dtype, [&](auto zero) {
    using S = decltype(zero);
    S* dw_out = dw ? dw.ptr<S>() : nullptr;
    if (write == Write::kAccumulate) {
      Backward<Write::kAccumulate>(ctx, dy, x, w.ptr<S>(), rstd, dx, dw_out);
    } else {
      Backward<Write::kOverwrite>(ctx, dy, x, w.ptr<S>(), rstd, dx, dw_out);
    }
  });
}

}  // namespace omnitrain::cpu
