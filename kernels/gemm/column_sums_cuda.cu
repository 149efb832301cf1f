#include "kernels/common/cuda.cuh"
#include "kernels/gemm/gemm_cuda.h"

namespace omnitrain::cuda {
namespace {

constexpr int kColumns = 32, kRowsAtOnce = 8;
/// Blocks of rows whose sums are added up in a second pass: enough to fill a GPU where the matrix
/// is narrow. Depends on nothing but the shape, so that sums have one order.
constexpr int64_t kRowsPerBlock = 256, kMaxRowBlocks = 64;

/// partial[block, j] = the sum of column j over the rows of a block. A warp reads 32 packs of
/// neighbouring columns.
template <typename T, int N>
__global__ void PartialSumsKernel(const T* x, int64_t stride, int64_t rows, int64_t width,
                                  float* partial) {
  __shared__ float sums[kRowsAtOnce][kColumns * N];
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x) * N;
  const int64_t begin = rows * blockIdx.y / gridDim.y, end = rows * (blockIdx.y + 1) / gridDim.y;
  float sum[N] = {};
  if (column < width) {
    for (int64_t r = begin + threadIdx.y; r < end; r += kRowsAtOnce) {
      const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(x + r * stride + column);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += ToFloat(pack.v[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) sums[threadIdx.y][threadIdx.x * N + i] = sum[i];
  __syncthreads();
  for (int i = threadIdx.y * kColumns + threadIdx.x; i < kColumns * N;
       i += kColumns * kRowsAtOnce) {
    const int64_t j = static_cast<int64_t>(blockIdx.x) * kColumns * N + i;
    if (j >= width) continue;
    float total = 0;
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) total += sums[r][i];
    partial[blockIdx.y * width + j] = total;
  }
}

__global__ void AddPartialsKernel(const float* partial, int64_t num_blocks, int64_t width,
                                  float* sums) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= width) return;
  float total = 0;
  for (int64_t b = 0; b < num_blocks; ++b) total += partial[b * width + j];
  sums[j] += total;
}

template <typename T, int N>
void Launch(Context& ctx, const Tensor& x, const Tensor& sums) {
  const int64_t rows = x.shape[0], width = x.shape[1];
  const int64_t wanted = CeilDiv(rows, kRowsPerBlock);
  const int64_t num_blocks = wanted < kMaxRowBlocks ? wanted : kMaxRowBlocks;
  auto* partial =
      static_cast<float*>(ctx.Scratch(static_cast<size_t>(num_blocks * width) * sizeof(float)));
  const dim3 grid(static_cast<unsigned>(CeilDiv(width, kColumns * N)),
                  static_cast<unsigned>(num_blocks));
  PartialSumsKernel<T, N><<<grid, dim3(kColumns, kRowsAtOnce), 0, StreamOf(ctx)>>>(
      Data<T>(x), x.row_stride, rows, width, partial);
  CheckLaunch("PartialSumsKernel");
  constexpr int kThreads = 128;
  AddPartialsKernel<<<static_cast<unsigned>(CeilDiv(width, kThreads)), kThreads, 0,
                      StreamOf(ctx)>>>(partial, num_blocks, width, Data<float>(sums));
  CheckLaunch("AddPartialsKernel");
}

}  // namespace

void AddColumnSums(Context& ctx, const Tensor& x, const Tensor& sums) {
  if (x.num_elements() == 0) return;
  DispatchCompute(x.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    if (PackWidth<T>(x.data, x.row_stride, x.shape[1]) >= 4) {
      Launch<T, 4>(ctx, x, sums);
    } else {
      Launch<T, 1>(ctx, x, sums);
    }
  });
}

}  // namespace omnitrain::cuda
