#include <algorithm>

#include "kernels/common/cuda.cuh"
#include "kernels/reduce/reduce_impl.h"

namespace omnitrain::cuda {
namespace {

constexpr int kThreads = 256;
/// Partial sums of the first pass: a number of its own, so that sums have one order everywhere.
constexpr int64_t kMaxBlocks = 1024;

__device__ double BlockSumF64(double x) {
  __shared__ double partial[kThreads];
  partial[threadIdx.x] = x;
  for (int step = kThreads / 2; step > 0; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) partial[threadIdx.x] += partial[threadIdx.x + step];
  }
  __syncthreads();
  return partial[0];
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    PartialSquaresKernel(const T* x, int64_t count, double* partial) {
  double sum = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * N;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N; i < count;
       i += step) {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(x + i);
#pragma unroll
    for (int k = 0; k < N; ++k) sum += static_cast<double>(p.v[k]) * static_cast<double>(p.v[k]);
  }
  sum = BlockSumF64(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    AddPartialsKernel(const double* partial, int num_blocks, double* result) {
  double sum = 0;
  for (int i = threadIdx.x; i < num_blocks; i += kThreads) sum += partial[i];
  sum = BlockSumF64(sum);
  if (threadIdx.x == 0) *result += sum;
}

template <typename T, int N>
void Launch(Context& ctx, const Tensor& x, const Tensor& result) {
  const int64_t count = x.num_elements();
  const auto num_blocks = static_cast<int>(std::min(kMaxBlocks, CeilDiv(count, kThreads * N)));
  auto* partial = static_cast<double*>(ctx.Scratch(kMaxBlocks * sizeof(double)));
  PartialSquaresKernel<T, N>
      <<<num_blocks, kThreads, 0, StreamOf(ctx)>>>(Data<T>(x), count, partial);
  CheckLaunch("sum_of_squares");
  AddPartialsKernel<<<1, kThreads, 0, StreamOf(ctx)>>>(partial, num_blocks, Data<double>(result));
  CheckLaunch("sum_of_squares");
}

}  // namespace

void SumOfSquares(Context& ctx, const Tensor& x, Tensor result) {
  const int64_t count = x.num_elements();
  if (count == 0) return;
  if (x.dtype == DType::kF64) return Launch<double, 1>(ctx, x, result);
  OT_CHECK(x.dtype == DType::kF32, "sum_of_squares: {}", Describe(x));
  if (PackWidth<float>(x.data, 0, count) == 4) {
    Launch<float, 4>(ctx, x, result);
  } else {
    Launch<float, 1>(ctx, x, result);
  }
}

}  // namespace omnitrain::cuda
