#include <cmath>

#include "kernels/common/parallel.h"
#include "kernels/layer_norm/layer_norm_impl.h"

namespace omnitrain::cpu {
namespace {

template <typename S>
void ForwardRow(const S* x, const S* w, const S* b, S eps, int64_t width, S* y, S* mean_out,
                S* rstd_out) {
  const S mean = LaneSum<S>(width, [=](int64_t j) { return x[j]; }) / static_cast<S>(width);
  const S squares = LaneSum<S>(width, [=](int64_t j) { return (x[j] - mean) * (x[j] - mean); });
  const S rstd = S(1) / std::sqrt(squares / static_cast<S>(width) + eps);
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) y[j] = w[j] * ((x[j] - mean) * rstd) + b[j];
  *mean_out = mean;
  *rstd_out = rstd;
}

// With xhat = (x - mean) rstd and g = w dy:
//   dx = rstd (g - mean(g) - xhat mean(g xhat)),  dw = sum of dy xhat,  db = sum of dy.
template <Write kWrite, typename S>
void BackwardRow(const S* dy, const S* x, const S* w, S mean, S rstd, int64_t width, S* dx) {
  // Both sums in one pass, each in two halves (LaneSum's reasons).
  const int64_t half = width / 2;
  S g0 = 0, g1 = 0, h0 = 0, h1 = 0;
#pragma omp simd reduction(+ : g0, g1, h0, h1)
  for (int64_t j = 0; j < half; ++j) {
    const S left = w[j] * dy[j], right = w[half + j] * dy[half + j];
    g0 += left;
    g1 += right;
    h0 += left * (x[j] - mean);
    h1 += right * (x[half + j] - mean);
  }
  if (width % 2 == 1) {
    const S last = w[width - 1] * dy[width - 1];
    g0 += last;
    h0 += last * (x[width - 1] - mean);
  }
  const S g_mean = (g0 + g1) / static_cast<S>(width);
  const S factor = (h0 + h1) * rstd * rstd / static_cast<S>(width);
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) {
    const S value = rstd * (w[j] * dy[j] - g_mean - (x[j] - mean) * factor);
    dx[j] = kWrite == Write::kAccumulate ? dx[j] + value : value;
  }
}

template <typename S>
void AddWeightGrad(const S* dy, const S* x, S mean, S rstd, int64_t width, S* dw) {
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) dw[j] += dy[j] * ((x[j] - mean) * rstd);
}

template <typename S>
void AddRow(const S* dy, int64_t width, S* db) {
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) db[j] += dy[j];
}

template <typename S>
void AddWeightAndBiasGrad(const S* dy, const S* x, S mean, S rstd, int64_t width, S* dw, S* db) {
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) {
    dw[j] += dy[j] * ((x[j] - mean) * rstd);
    db[j] += dy[j];
  }
}

template <Write kWrite, typename S>
void Backward(Context& ctx, const Tensor& dy, const Tensor& x, const S* w, const S* mean,
              const S* rstd, const Tensor& dx, S* dw, S* db) {
  const int64_t width = x.shape[1];
  const RowBlocks blocks(x.rows());
  const size_t sum_bytes = ColumnSums<S>::Bytes(blocks, width);
  char* scratch = static_cast<char*>(ctx.Scratch(2 * sum_bytes));
  ColumnSums<S> dw_sums(scratch, blocks, width), db_sums(scratch + sum_bytes, blocks, width);
  ParallelFor(blocks.num_blocks, blocks.rows * width / blocks.num_blocks, [&](int64_t block) {
    S* dw_partial = dw ? dw_sums.Clear(block) : nullptr;
    S* db_partial = db ? db_sums.Clear(block) : nullptr;
    for (int64_t r = blocks.begin(block); r < blocks.end(block); ++r) {
      const S *dy_row = dy.row<S>(r), *x_row = x.row<S>(r);
      // Before dx is written, which may be dy.
      if (dw && db) {
        AddWeightAndBiasGrad(dy_row, x_row, mean[r], rstd[r], width, dw_partial, db_partial);
      } else if (dw) {
        AddWeightGrad(dy_row, x_row, mean[r], rstd[r], width, dw_partial);
      } else if (db) {
        AddRow(dy_row, width, db_partial);
      }
      BackwardRow<kWrite>(dy_row, x_row, w, mean[r], rstd[r], width, dx.row<S>(r));
    }
  });
  if (dw) dw_sums.AddTo(dw);
  if (db) db_sums.AddTo(db);
}

}  // namespace

void LayerNormForward(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor y,
                      Tensor mean, Tensor rstd) {
  DispatchReal(x.dtype, [&](auto zero) {
    using S = decltype(zero);
    const int64_t width = x.shape[1];
    const S *weight = w.ptr<S>(), *bias = b.ptr<S>();
    S *mean_out = mean.ptr<S>(), *rstd_out = rstd.ptr<S>();
    ParallelFor(x.rows(), width, [&](int64_t r) {
      ForwardRow(x.row<S>(r), weight, bias, static_cast<S>(eps), width, y.row<S>(r), mean_out + r,
                 rstd_out + r);
    });
  });
}

void LayerNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor& mean, const Tensor& rstd, Write write, Tensor dx, Tensor dw,
                       Tensor db) {
  DispatchReal(x.dtype, [&](auto zero) {
    using S = decltype(zero);
    S *dw_out = dw ? dw.ptr<S>() : nullptr, *db_out = db ? db.ptr<S>() : nullptr;
    const S *w_in = w.ptr<S>(), *mean_in = mean.ptr<S>(), *rstd_in = rstd.ptr<S>();
    if (write == Write::kAccumulate) {
      Backward<Write::kAccumulate>(ctx, dy, x, w_in, mean_in, rstd_in, dx, dw_out, db_out);
    } else {
      Backward<Write::kOverwrite>(ctx, dy, x, w_in, mean_in, rstd_in, dx, dw_out, db_out);
    }
  });
}

}  // namespace omnitrain::cpu
