#pragma once

#include "kernels/common/cuda.cuh"

namespace omnitrain::cuda {

// Sums over the rows of values that are made from a matrix: gradients of biases and of norms. Two
// passes, each in a fixed order: sums over blocks of rows, then over the blocks. The partition
// depends on the shape alone.

struct ColumnSumBlocks {
  static constexpr int kColumns = 32, kRowsAtOnce = 8;

  /// Of rows, beside `column_blocks` of columns: enough to fill a GPU where the matrix is narrow.
  static int64_t Count(int64_t rows, int64_t column_blocks) {
    const bool is_narrow = column_blocks <= 2;
    const int64_t rows_per_block = is_narrow ? 64 : 256, most = is_narrow ? 256 : 64;
    const int64_t wanted = CeilDiv(rows, rows_per_block);
    return wanted < most ? wanted : most;
  }
};

/// partial[block, k, j] = the sum over a block's rows of f's k-th value in column j. A warp reads
/// 32 packs of neighbouring columns.
template <int K, int N, typename F>
__global__ void __launch_bounds__(256)
    PartialColumnSumsKernel(F f, int64_t rows, int64_t width, float* partial) {
  constexpr int kColumns = ColumnSumBlocks::kColumns, kRows = ColumnSumBlocks::kRowsAtOnce;
  __shared__ float sums[K][kRows][kColumns * N];
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x) * N;
  const int64_t begin = rows * blockIdx.y / gridDim.y, end = rows * (blockIdx.y + 1) / gridDim.y;
  float sum[K][N] = {};
  if (column < width) {
    for (int64_t r = begin + threadIdx.y; r < end; r += kRows) {
      float values[K][N];
      f.template Run<N>(r, column, values);
#pragma unroll
      for (int k = 0; k < K; ++k) {
#pragma unroll
        for (int i = 0; i < N; ++i) sum[k][i] += values[k][i];
      }
    }
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int i = 0; i < N; ++i) sums[k][threadIdx.y][threadIdx.x * N + i] = sum[k][i];
  }
  __syncthreads();
  for (int i = threadIdx.y * kColumns + threadIdx.x; i < K * kColumns * N; i += kColumns * kRows) {
    const int k = i / (kColumns * N), place = i % (kColumns * N);
    const int64_t j = static_cast<int64_t>(blockIdx.x) * kColumns * N + place;
    if (j >= width) continue;
    float total = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) total += sums[k][r][place];
    partial[(blockIdx.y * K + k) * width + j] = total;
  }
}

/// to[k][j] += the sum over blocks of partial[block, k, j], where to[k] is there.
template <int K>
struct ColumnSumTargets {
  float* to[K];
};
constexpr int kPartialGroups = 8;
template <int K>
__global__ void __launch_bounds__(ColumnSumBlocks::kColumns* kPartialGroups)
    AddPartialColumnSumsKernel(const float* partial, int64_t num_blocks, int64_t width,
                               ColumnSumTargets<K> targets) {
  __shared__ float sums[kPartialGroups][ColumnSumBlocks::kColumns];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * ColumnSumBlocks::kColumns + threadIdx.x;
  float sum = 0;
  if (i < K * width) {
#pragma unroll 8
    for (int64_t b = threadIdx.y; b < num_blocks; b += kPartialGroups) {
      sum += partial[b * K * width + i];
    }
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || i >= K * width) return;
  float* to = targets.to[i / width];
  if (to == nullptr) return;
  float total = 0;
#pragma unroll
  for (int g = 0; g < kPartialGroups; ++g) total += sums[g][threadIdx.x];
  to[i % width] += total;
}

/// targets.to[k][j] += sum over rows of the values that f.Run<N>(row, column, values[K][N]) gives.
/// Uses the context's scratch.
template <int K, int N, typename F>
void AddColumnSums(Context& ctx, const F& f, int64_t rows, int64_t width,
                   const ColumnSumTargets<K>& targets) {
  if (rows == 0 || width == 0) return;
  using Blocks = ColumnSumBlocks;
  const int64_t column_blocks = CeilDiv(width, Blocks::kColumns * N);
  const int64_t num_blocks = Blocks::Count(rows, column_blocks);
  auto* partial =
      static_cast<float*>(ctx.Scratch(static_cast<size_t>(num_blocks * K * width) * sizeof(float)));
  const dim3 grid(static_cast<unsigned>(column_blocks), static_cast<unsigned>(num_blocks));
  PartialColumnSumsKernel<K, N>
      <<<grid, dim3(Blocks::kColumns, Blocks::kRowsAtOnce), 0, StreamOf(ctx)>>>(f, rows, width,
                                                                                partial);
  CheckLaunch("PartialColumnSumsKernel");
  AddPartialColumnSumsKernel<K><<<static_cast<unsigned>(CeilDiv(K * width, Blocks::kColumns)),
                                  dim3(Blocks::kColumns, kPartialGroups), 0, StreamOf(ctx)>>>(
      partial, num_blocks, width, targets);
  CheckLaunch("AddPartialColumnSumsKernel");
}

}  // namespace omnitrain::cuda
