#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/runtime/carver.h"
#include "kernels/common/parallel.h"
#include "kernels/common/simd_math.h"
#include "kernels/cross_entropy/cross_entropy_impl.h"
#include "kernels/gemm/gemm.h"

namespace omnitrain::cpu {
namespace {

void CheckRows(const Tensor& rows, const Tensor& labels, int64_t num_tokens, int64_t vocabulary) {
  const int32_t *row = rows.ptr<int32_t>(), *label = labels.ptr<int32_t>();
  for (int64_t i = 0; i < rows.rows(); ++i) {
    OT_CHECK(row[i] > (i > 0 ? row[i - 1] : -1) &&
                     row[i]<num_tokens, "LinearCrossEntropy: row {} of {} follows {}", row[i],
                            num_tokens, i> 0
                 ? row[i - 1]
                 : -1);
    OT_CHECK(label[i] >= 0 && label[i] < vocabulary,
             "LinearCrossEntropy: row {} has label {}, vocabulary is {}", row[i], label[i],
             vocabulary);
  }
}

/// Rows of dh before, between and behind those of the list.
template <typename T>
void ZeroOtherRows(const Tensor& rows, Tensor dh) {
  const int32_t* row = rows.ptr<int32_t>();
  const int64_t num_rows = rows.rows(), width = dh.shape[1];
  T* data = dh.ptr<T>();
  ParallelFor(num_rows + 1, width, [&](int64_t i) {
    const int64_t begin = i > 0 ? row[i - 1] + 1 : 0, end = i < num_rows ? row[i] : dh.shape[0];
    for (int64_t r = begin; r < end; ++r) std::fill_n(data + r * dh.row_stride, width, T(0));
  });
}

/// sum_i exp(x[i] - max), written over x where asked for. Blocks add up in f64: f32 alone would
/// lose digits over a large vocabulary.
template <typename T, bool kStore>
double ExpSum(int64_t n, T max, T* x) {
  constexpr int64_t kBlock = 1024;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, n);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      const T e = ExpSoftmax(x[i] - max);
      if (kStore) x[i] = e;
      sum += e;
    }
    total += static_cast<double>(sum);
  }
  return total;
}

template <typename T>
T RowMax(int64_t n, const T* x) {
  T max = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

/// Returns logsumexp(x) - x[label]; with kGradient, x becomes weight * (softmax(x) -
/// onehot(label)).
template <typename T, bool kGradient>
double RowLoss(int64_t n, int64_t label, T weight, T* x) {
  const T max = RowMax(n, x);
  const double target = static_cast<double>(x[label]) - static_cast<double>(max);
  const double sum = ExpSum<T, kGradient>(n, max, x);
  if (kGradient) {
    const T factor = static_cast<T>(static_cast<double>(weight) / sum);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) x[i] *= factor;
    x[label] -= weight;
  }
  return std::log(sum) - target;
}

/// RowLoss of all rows of z [n, V], a slice of the vocabulary; `weight` may be absent.
template <typename T>
void ShardLosses(const VocabShard& shard, const Tensor& z, const int32_t* label,
                 const float* weight, bool has_gradient, double* losses) {
  const int64_t n = z.rows(), vocabulary = z.shape[1];
  std::vector<T> maxima(static_cast<size_t>(n));
  ParallelFor(n, vocabulary, [&](int64_t i) { maxima[i] = RowMax(vocabulary, z.row<T>(i)); });
  shard.max(Tensor(maxima.data(), z.dtype, {n}));

  // Sums of exponentials, then the logits of the labels, each known to one rank.
  std::vector<double> sums(static_cast<size_t>(2 * n));
  const auto has_label = [&](int64_t i) {
    return label[i] >= shard.first && label[i] < shard.first + vocabulary;
  };
  ParallelFor(n, vocabulary, [&](int64_t i) {
    T* x = z.row<T>(i);
    if (has_label(i)) {
      sums[n + i] = static_cast<double>(x[label[i] - shard.first]) - static_cast<double>(maxima[i]);
    }
    const auto exp_sum = has_gradient ? ExpSum<T, true> : ExpSum<T, false>;
    sums[i] = exp_sum(vocabulary, maxima[i], x);
  });
  shard.sum(Tensor(sums.data(), DType::kF64, {2 * n}));

  ParallelFor(n, vocabulary, [&](int64_t i) {
    const T row_weight = weight != nullptr ? static_cast<T>(weight[i]) : T(1);
    losses[i] = static_cast<double>(row_weight) * (std::log(sums[i]) - sums[n + i]);
    if (!has_gradient) return;
    T* x = z.row<T>(i);
    const T factor = static_cast<T>(static_cast<double>(row_weight) / sums[i]);
#pragma omp simd
    for (int64_t v = 0; v < vocabulary; ++v) x[v] *= factor;
    if (has_label(i)) x[label[i] - shard.first] -= row_weight;
  });
}

}  // namespace

template <typename T>
void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& rows,
                        const Tensor& labels, const Tensor& weights, Tensor loss_sum, Tensor dh,
                        Tensor dw, const VocabShard* shard) {
  const int64_t width = h.shape[1], vocabulary = w.shape[0];
  CheckRows(rows, labels, h.shape[0], shard != nullptr ? shard->vocabulary : vocabulary);
  const int64_t num_rows = rows.rows();
  const int32_t* label = labels.ptr<int32_t>();
  const float* weight = weights ? weights.ptr<float>() : nullptr;
  if (dh) ZeroOtherRows<T>(rows, dh);
  if (num_rows == 0) return;

  const int64_t widest = shard != nullptr ? shard->widest : vocabulary;
  const int64_t row_bytes = widest * static_cast<int64_t>(sizeof(T));
  const int64_t chunk = std::min(num_rows, std::max(kMinChunkRows, kChunkBytes / row_bytes));
  // The products take no scratch of their own on the CPU.
  Carver count;
  const auto carve = [&](Carver& carver, Tensor* h_rows, Tensor* dh_rows, Tensor* logits) {
    *h_rows = carver.Take(h.dtype, {chunk, width});
    if (dh) *dh_rows = carver.Take(h.dtype, {chunk, width});
    *logits = carver.Take(h.dtype, {chunk, vocabulary});
  };
  Tensor h_rows, dh_rows, logits;
  carve(count, &h_rows, &dh_rows, &logits);
  Carver carver(ctx.Scratch(count.used()), count.used(), DeviceKind::kCpu);
  carve(carver, &h_rows, &dh_rows, &logits);

  std::vector<double> losses(static_cast<size_t>(num_rows));
  for (int64_t begin = 0; begin < num_rows; begin += chunk) {
    const int64_t n = std::min(chunk, num_rows - begin);
    const int32_t* row = rows.ptr<int32_t>() + begin;
    const Tensor x = h_rows.Rows(0, n), z = logits.Rows(0, n);
    T *x_data = x.ptr<T>(), *z_data = z.ptr<T>();
    const T* h_data = h.ptr<T>();
    ParallelFor(n, width, [&](int64_t i) {
      std::copy_n(h_data + row[i] * h.row_stride, width, x_data + i * width);
    });
    LinearForward(ctx, x, w, Tensor(), Write::kOverwrite, z);
    const bool has_gradient = dh || dw;
    if (shard != nullptr) {
      ShardLosses<T>(*shard, z, label + begin, weight ? weight + begin : nullptr, has_gradient,
                     losses.data() + begin);
    } else {
      ParallelFor(n, vocabulary, [&](int64_t i) {
        const T row_weight = weight ? static_cast<T>(weight[begin + i]) : T(1);
        const auto row_loss = has_gradient ? RowLoss<T, true> : RowLoss<T, false>;
        losses[static_cast<size_t>(begin + i)] =
            static_cast<double>(row_weight) *
            row_loss(vocabulary, label[begin + i], row_weight, z_data + i * vocabulary);
      });
    }
    if (dw) LinearWeightGrad(ctx, x, z, dw, Tensor());
    if (dh) {
      const Tensor dx = dh_rows.Rows(0, n);
      LinearInputGrad(ctx, z, w, Write::kOverwrite, dx);
      const T* dx_data = dx.ptr<T>();
      T* dh_data = dh.ptr<T>();
      ParallelFor(n, width, [&](int64_t i) {
        std::copy_n(dx_data + i * width, width, dh_data + row[i] * dh.row_stride);
      });
    }
  }
  if (shard != nullptr && shard->first > 0) return;
  double total = 0;
  for (const double loss : losses) total += loss;
  *loss_sum.ptr<double>() += total;
}

template void LinearCrossEntropy<float>(Context&, const Tensor&, const Tensor&, const Tensor&,
                                        const Tensor&, const Tensor&, Tensor, Tensor, Tensor,
                                        const VocabShard*);
template void LinearCrossEntropy<double>(Context&, const Tensor&, const Tensor&, const Tensor&,
                                         const Tensor&, const Tensor&, Tensor, Tensor, Tensor,
                                         const VocabShard*);

}  // namespace omnitrain::cpu
