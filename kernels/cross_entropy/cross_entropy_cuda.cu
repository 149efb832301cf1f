#include <algorithm>

#include "core/runtime/carver.h"
#include "kernels/common/cuda.cuh"
#include "kernels/cross_entropy/cross_entropy_impl.h"
#include "kernels/gemm/gemm_cuda.h"
#include "kernels/rows/rows.h"

namespace omnitrain::cuda {
namespace {

/// f32 logits in memory at once. Each chunk of rows reads and writes the whole gradient of w once
/// (f32: 8 V D bytes), which the products of a thousand rows hide.
constexpr int64_t kChunkBytes = int64_t{1} << 30;
constexpr int64_t kMinChunkRows = 128;
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

/// One block a row: losses[row] = weight * (logsumexp(z) - z[label]), and, where d is given,
/// d = weight * (softmax(z) - onehot(label)). d may be z.
template <typename D>
__global__ void __launch_bounds__(kThreads)
    RowLossKernel(const float* logits, int64_t vocabulary, const int32_t* labels,
                  const float* weights, double* losses, D* d) {
  const int64_t row = blockIdx.x;
  const float* z = logits + row * vocabulary;
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
  const MaxSum all = BlockJoin(mine);
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
};

Work Carve(Carver& carver, const Tensor& h, int64_t num_rows, int64_t chunk, int64_t vocabulary,
           bool has_gradient) {
  const int64_t width = h.shape[1];
  Work work;
  work.losses = carver.Take(DType::kF64, {num_rows});
  work.h = carver.Take(h.dtype, {chunk, width});
  work.logits = carver.Take(DType::kF32, {chunk, vocabulary});
  if (!has_gradient) return work;
  work.dh = carver.Take(h.dtype, {chunk, width});
  work.d = h.dtype == DType::kF32 ? work.logits : carver.Take(h.dtype, {chunk, vocabulary});
  return work;
}

}  // namespace

void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& rows,
                        const Tensor& labels, const Tensor& weights, Tensor loss_sum, Tensor dh,
                        Tensor dw) {
  const int64_t num_rows = rows.rows(), vocabulary = w.shape[0];
  const bool is_whole = num_rows == h.shape[0];  // rows are distinct: all of them, in order
  if (dh && !is_whole) {
    OT_CUDA(cudaMemset2DAsync(dh.data, static_cast<size_t>(dh.row_stride) * DTypeBytes(dh.dtype), 0,
                              static_cast<size_t>(dh.shape[1]) * DTypeBytes(dh.dtype),
                              static_cast<size_t>(dh.shape[0]), StreamOf(ctx)));
  }
  if (num_rows == 0) return;
  const bool has_gradient = dh || dw;
  const int64_t chunk = std::min(
      num_rows, std::max(kMinChunkRows, kChunkBytes / (vocabulary * int64_t{sizeof(float)})));
  Carver count(DeviceKind::kCuda);
  Carve(count, h, num_rows, chunk, vocabulary, has_gradient);
  Carver carver(ctx.Scratch(count.used()), count.used(), DeviceKind::kCuda);
  const Work work = Carve(carver, h, num_rows, chunk, vocabulary, has_gradient);

  for (int64_t begin = 0; begin < num_rows; begin += chunk) {
    const int64_t n = std::min(chunk, num_rows - begin);
    const Tensor picked = rows.Rows(begin, n), logits = work.logits.Rows(0, n);
    Tensor x = h.Rows(begin, n);
    if (!is_whole) {
      x = work.h.Rows(0, n);
      GatherRows(ctx, h, picked, Write::kOverwrite, x);
    }
    Gemm(ctx, {x}, {w, true}, Tensor(), Write::kOverwrite, logits);
    DispatchCompute(h.dtype, [&](auto scalar) {
      using T = decltype(scalar);
      RowLossKernel<T><<<static_cast<unsigned>(n), kThreads, 0, StreamOf(ctx)>>>(
          Data<float>(logits), vocabulary, Data<int32_t>(labels) + begin,
          weights ? Data<float>(weights) + begin : nullptr, Data<double>(work.losses) + begin,
          has_gradient ? Data<T>(work.d) : nullptr);
      CheckLaunch("RowLossKernel");
    });
    if (!has_gradient) continue;
    const Tensor d = work.d.Rows(0, n);
    if (dw) Gemm(ctx, {d, true}, {x}, Tensor(), Write::kAccumulate, dw);
    if (dh) {
      const Tensor dx = is_whole ? dh.Rows(begin, n) : work.dh.Rows(0, n);
      Gemm(ctx, {d}, {w}, Tensor(), Write::kOverwrite, dx);
      if (!is_whole) ScatterRows(ctx, dx, picked, Write::kOverwrite, dh);
    }
  }
  AddLossesKernel<<<1, kThreads, 0, StreamOf(ctx)>>>(Data<double>(work.losses), num_rows,
                                                     Data<double>(loss_sum));
  CheckLaunch("AddLossesKernel");
}

}  // namespace omnitrain::cuda
