#include <algorithm>

#include "core/runtime/carver.h"
#include "kernels/common/cuda.cuh"
#include "kernels/cross_entropy/cross_entropy_impl.h"
#include "kernels/gemm/gemm_cuda.h"
#include "kernels/rows/rows.h"

namespace omnitrain::cuda {
namespace {

constexpr int kThreads = 512;

/// A maximum and the sum of exp(x - maximum): what log-sum-exp is made of, in one pass.
/// Source: Milakov & Gimelshein 2018, algorithm 3.
struct MaxSum {
  float max, sum;
};

__device__ __forceinline__ MaxSum Join(MaxSum a, MaxSum b) {
  const float max = fmaxf(a.max, b.max);
  // An empty part (-inf) must not give exp(-inf + inf); a NaN logit shows in `sum`.
  const float left = a.max == max ? a.sum : a.sum * expf(a.max - max);
  const float right = b.max == max ? b.sum : b.sum * expf(b.max - max);
  return {max, left + right};
}

__device__ MaxSum BlockJoin(MaxSum x) {
  __shared__ MaxSum partial[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    x = Join(x, {__shfl_xor_sync(0xffffffffu, x.max, offset),
                 __shfl_xor_sync(0xffffffffu, x.sum, offset)});
  }
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  x = partial[0];
  for (int i = 1; i < kThreads / 32; ++i) x = Join(x, partial[i]);
  return x;
}

/// A maximum and its sum of exponentials over the row of a block.
__device__ MaxSum RowMaxSum(const float* z, int64_t vocabulary) {
  MaxSum mine = {-INFINITY, 0};
  for (int64_t v = threadIdx.x; v < vocabulary; v += kThreads) {
    const float x = z[v];
    if (x > mine.max) {
      mine.sum = mine.sum * expf(mine.max - x) + 1;
      mine.max = x;
    } else {
      mine.sum += expf(x - mine.max);
    }
  }
  return BlockJoin(mine);
}

/// One block a row: losses[row] = weight * (logsumexp(z) - z[label]), and, where d is given,
/// d = weight * (softmax(z) - onehot(label)). d may be z.
template <typename D>
__global__ void __launch_bounds__(kThreads)
    RowLossKernel(const float* logits, int64_t vocabulary, const int32_t* labels,
                  const float* weights, double* losses, D* d) {
  const int64_t row = blockIdx.x;
  const float* z = logits + row * vocabulary;
  const MaxSum all = RowMaxSum(z, vocabulary);
  const int32_t label = labels[row];
  const float weight = weights == nullptr ? 1.0f : weights[row];
  const float target = z[label];
  if (threadIdx.x == 0) {
    losses[row] =
        static_cast<double>(weight) * (static_cast<double>(all.max) - static_cast<double>(target) +
                                       log(static_cast<double>(all.sum)));
  }
  if (d == nullptr) return;
  __syncthreads();  // everyone has read the label's logit
  const float factor = weight / all.sum;
  D* to = d + row * vocabulary;
  for (int64_t v = threadIdx.x; v < vocabulary; v += kThreads) {
    const float p = factor * expf(z[v] - all.max);
    to[v] = FromFloat<D>(v == label ? p - weight : p);
  }
}

/// One block a row: the maximum of a slice's logits, twice, and their sum of exponentials.
__global__ void __launch_bounds__(kThreads)
    ShardMaxKernel(const float* logits, int64_t vocabulary, MaxSum* mine, float* maxima) {
  const int64_t row = blockIdx.x;
  const MaxSum all = RowMaxSum(logits + row * vocabulary, vocabulary);
  if (threadIdx.x != 0) return;
  mine[row] = all;
  maxima[row] = all.max;
}

/// One thread a row: sums[row] of exponentials below the maximum over all slices, and
/// sums[num_rows + row], the logit of the label below it, 0 where another slice has it.
__global__ void ShardSumKernel(const float* logits, int64_t num_rows, int64_t vocabulary,
                               int64_t first, const int32_t* labels, const MaxSum* mine,
                               const float* maxima, double* sums) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= num_rows) return;
  const float max = maxima[row];
  const MaxSum m = mine[row];
  sums[row] = m.max == max ? m.sum : static_cast<double>(m.sum) * expf(m.max - max);
  const int64_t at = labels[row] - first;
  const bool has_label = at >= 0 && at < vocabulary;
  sums[num_rows + row] =
      has_label ? static_cast<double>(logits[row * vocabulary + at]) - static_cast<double>(max) : 0;
}

/// RowLossKernel with what ShardSumKernel gave, summed over the slices.
template <typename D>
__global__ void __launch_bounds__(kThreads)
    ShardLossKernel(const float* logits, int64_t num_rows, int64_t vocabulary, int64_t first,
                    const int32_t* labels, const float* weights, const float* maxima,
                    const double* sums, double* losses, D* d) {
  const int64_t row = blockIdx.x;
  const float weight = weights == nullptr ? 1.0f : weights[row];
  if (threadIdx.x == 0) {
    losses[row] = static_cast<double>(weight) * (log(sums[row]) - sums[num_rows + row]);
  }
  if (d == nullptr) return;
  const float factor = static_cast<float>(static_cast<double>(weight) / sums[row]);
  const float max = maxima[row];
  const int64_t at = labels[row] - first;
  const float* z = logits + row * vocabulary;
  D* to = d + row * vocabulary;
  for (int64_t v = threadIdx.x; v < vocabulary; v += kThreads) {
    const float p = factor * expf(z[v] - max);
    to[v] = FromFloat<D>(v == at ? p - weight : p);
  }
}

/// loss_sum += the sum of losses, in a fixed order.
__global__ void AddLossesKernel(const double* losses, int64_t num_rows, double* loss_sum) {
  __shared__ double partial[kThreads];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < num_rows; i += kThreads) sum += losses[i];
  partial[threadIdx.x] = sum;
  for (int step = kThreads / 2; step > 0; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) partial[threadIdx.x] += partial[threadIdx.x + step];
  }
  if (threadIdx.x == 0) *loss_sum += partial[0];
}

struct Work {
  Tensor h, dh;   // [chunk, D]
  Tensor logits;  // [chunk, V] f32
  Tensor d;       // [chunk, V] compute dtype; the logits themselves in f32
  Tensor losses;  // [M] f64
  // Of a slice of the vocabulary alone:
  Tensor mine;    // [chunk, 2] f32: a MaxSum a row
  Tensor maxima;  // [chunk] f32
  Tensor sums;    // [2 * chunk] f64
};

Work Carve(Carver& carver, const Tensor& h, int64_t num_rows, int64_t chunk, int64_t vocabulary,
           bool has_gradient, bool is_shard) {
  const int64_t width = h.shape[1];
  Work work;
  work.losses = carver.Take(DType::kF64, {num_rows});
  if (is_shard) {
    work.mine = carver.Take(DType::kF32, {chunk, 2});
    work.maxima = carver.Take(DType::kF32, {chunk});
    work.sums = carver.Take(DType::kF64, {2 * chunk});
  }
  work.h = carver.Take(h.dtype, {chunk, width});
  work.logits = carver.Take(DType::kF32, {chunk, vocabulary});
  if (!has_gradient) return work;
  work.dh = carver.Take(h.dtype, {chunk, width});
  work.d = h.dtype == DType::kF32 ? work.logits : carver.Take(h.dtype, {chunk, vocabulary});
  return work;
}

/// The losses of a chunk and, where d is present, the gradients of its logits, from a slice of the
/// vocabulary.
void ShardLosses(Context& ctx, const VocabShard& shard, const Tensor& logits, const int32_t* labels,
                 const float* weights, const Work& work, double* losses, const Tensor& d) {
  const int64_t n = logits.rows(), vocabulary = logits.shape[1];
  const Tensor maxima = work.maxima.Rows(0, n), sums = work.sums.Rows(0, 2 * n);
  auto* mine = static_cast<MaxSum*>(work.mine.data);
  const auto blocks = static_cast<unsigned>(n);
  ShardMaxKernel<<<blocks, kThreads, 0, StreamOf(ctx)>>>(Data<float>(logits), vocabulary, mine,
                                                         Data<float>(maxima));
  CheckLaunch("ShardMaxKernel");
  shard.max(maxima);
  ShardSumKernel<<<(blocks + kThreads - 1) / kThreads, kThreads, 0, StreamOf(ctx)>>>(
      Data<float>(logits), n, vocabulary, shard.first, labels, mine, Data<float>(maxima),
      Data<double>(sums));
  CheckLaunch("ShardSumKernel");
  shard.sum(sums);
  DispatchCompute(d ? d.dtype : DType::kF32, [&](auto scalar) {
    using T = decltype(scalar);
    ShardLossKernel<T><<<blocks, kThreads, 0, StreamOf(ctx)>>>(
        Data<float>(logits), n, vocabulary, shard.first, labels, weights, Data<float>(maxima),
        Data<double>(sums), losses, d ? Data<T>(d) : nullptr);
    CheckLaunch("ShardLossKernel");
  });
}

}  // namespace

void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& rows,
                        const Tensor& labels, const Tensor& weights, Tensor loss_sum, Tensor dh,
                        Tensor dw, const VocabShard* shard) {
  const int64_t num_rows = rows.rows(), vocabulary = w.shape[0];
  const bool is_whole = num_rows == h.shape[0];  // rows are distinct: all of them, in order
  if (dh && !is_whole) {
    OT_CUDA(cudaMemset2DAsync(dh.data, static_cast<size_t>(dh.row_stride) * DTypeBytes(dh.dtype), 0,
                              static_cast<size_t>(dh.shape[1]) * DTypeBytes(dh.dtype),
                              static_cast<size_t>(dh.shape[0]), StreamOf(ctx)));
  }
  if (num_rows == 0) return;
  const bool has_gradient = dh || dw;
  const bool is_shard = shard != nullptr;
  const int64_t row_bytes =
      (is_shard ? shard->widest : vocabulary) * static_cast<int64_t>(sizeof(float));
  const int64_t chunk = std::min(num_rows, std::max(kMinChunkRows, kChunkBytes / row_bytes));
  Carver count(DeviceKind::kCuda);
  Carve(count, h, num_rows, chunk, vocabulary, has_gradient, is_shard);
  Carver carver(ctx.Scratch(count.used()), count.used(), DeviceKind::kCuda);
  const Work work = Carve(carver, h, num_rows, chunk, vocabulary, has_gradient, is_shard);

  for (int64_t begin = 0; begin < num_rows; begin += chunk) {
    const int64_t n = std::min(chunk, num_rows - begin);
    const Tensor picked = rows.Rows(begin, n), logits = work.logits.Rows(0, n);
    Tensor x = h.Rows(begin, n);
    if (!is_whole) {
      x = work.h.Rows(0, n);
      GatherRows(ctx, h, picked, Write::kOverwrite, x);
    }
    Gemm(ctx, {x}, {w, true}, Tensor(), Write::kOverwrite, logits);
    const int32_t* label = Data<int32_t>(labels) + begin;
    const float* weight = weights ? Data<float>(weights) + begin : nullptr;
    double* losses = Data<double>(work.losses) + begin;
    if (is_shard) {
      ShardLosses(ctx, *shard, logits, label, weight, work, losses, work.d);
    } else {
      DispatchCompute(h.dtype, [&](auto scalar) {
        using T = decltype(scalar);
        RowLossKernel<T><<<static_cast<unsigned>(n), kThreads, 0, StreamOf(ctx)>>>(
            Data<float>(logits), vocabulary, label, weight, losses,
            has_gradient ? Data<T>(work.d) : nullptr);
        CheckLaunch("RowLossKernel");
      });
    }
    if (!has_gradient) continue;
    const Tensor d = work.d.Rows(0, n);
    if (dw) Gemm(ctx, {d, true}, {x}, Tensor(), Write::kAccumulate, dw);
    if (dh) {
      const Tensor dx = is_whole ? dh.Rows(begin, n) : work.dh.Rows(0, n);
      Gemm(ctx, {d}, {w}, Tensor(), Write::kOverwrite, dx);
      if (!is_whole) ScatterRows(ctx, dx, picked, Write::kOverwrite, dh);
    }
  }
  if (is_shard && shard->first > 0) return;
  AddLossesKernel<<<1, kThreads, 0, StreamOf(ctx)>>>(Data<double>(work.losses), num_rows,
                                                     Data<double>(loss_sum));
  CheckLaunch("AddLossesKernel");
}

}  // namespace omnitrain::cuda
