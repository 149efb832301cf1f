#pragma once

#include <cuda_bf16.h>

#include "core/runtime/context.h"
#include "core/runtime/cuda_check.h"

namespace omnitrain::cuda {

// What CUDA kernels share. T is float or __nv_bfloat16, arithmetic is in float.

inline cudaStream_t StreamOf(const Context& ctx) {
  return static_cast<cudaStream_t>(ctx.stream().native());
}

/// Whether this process's GPU has the instructions of hopper.cuh.
inline bool IsHopper() {
  static const bool is_hopper = [] {
    int device = 0, major = 0;
    OT_CUDA(cudaGetDevice(&device));
    OT_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    return major == 9;
  }();
  return is_hopper;
}

/// To be called right after each launch. A kernel that fails while it runs shows at the next call
/// that waits.
inline void CheckLaunch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    Fail(ErrorCode::kInternal, "launch of {}: {}", kernel, cudaGetErrorString(error));
  }
}

/// Elements of a tensor of dtype f32, bf16, i32 or f64 as the device sees them.
template <typename T>
T* Data(const Tensor& t) {
  static_assert(sizeof(T) <= 8, "scalars only");
  OT_CHECK(sizeof(T) == DTypeBytes(t.dtype), "tensor holds {}", DTypeName(t.dtype));
  return static_cast<T*>(t.data);
}

/// Calls f(float{}) or f(__nv_bfloat16{}): the compute dtypes of the GPU.
template <typename F>
void DispatchCompute(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      f(float{});
      return;
    case DType::kBF16:
      f(__nv_bfloat16{});
      return;
    default:
      OT_CHECK(false, "the GPU computes in f32 and bf16, not {}", DTypeName(dtype));
  }
}

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T FromFloat(float x);
template <>
__device__ __forceinline__ float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/// N elements that are moved at once; the address must be a multiple of sizeof(Pack).
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

/// How many elements of rows that start at `data`, `stride` elements apart and `width` long, may be
/// moved as one Pack of at most 16 bytes: a power of two that divides all three.
template <typename T>
int PackWidth(const void* data, int64_t stride, int64_t width) {
  int n = 16 / static_cast<int>(sizeof(T));
  while (n > 1 && (reinterpret_cast<uintptr_t>(data) % (n * sizeof(T)) != 0 || stride % n != 0 ||
                   width % n != 0)) {
    n /= 2;
  }
  return n;
}

__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

/// The sum over a block of kThreads, given to all its threads. Fixed order.
template <int kThreads>
__device__ __forceinline__ float BlockSum(float x) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  __shared__ float partial[kThreads / 32];
  x = WarpSum(x);
  if (kThreads == 32) return x;
  __syncthreads();  // the last use of `partial` is over
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) x += partial[i];
  return x;
}

template <int kThreads>
__device__ __forceinline__ float BlockMax(float x) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  __shared__ float partial[kThreads / 32];
  x = WarpMax(x);
  if (kThreads == 32) return x;
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  x = partial[0];
#pragma unroll
  for (int i = 1; i < kThreads / 32; ++i) x = fmaxf(x, partial[i]);
  return x;
}

constexpr int64_t CeilDiv(int64_t n, int64_t by) { return (n + by - 1) / by; }

/// Blocks of a grid-stride loop over `items`: enough to fill any GPU of today, never more than
/// there is work for.
inline int NumBlocks(int64_t items, int threads) {
  constexpr int64_t kMaxBlocks = 132 * 16;
  const int64_t wanted = CeilDiv(items, threads);
  return static_cast<int>(wanted < 1 ? 1 : wanted < kMaxBlocks ? wanted : kMaxBlocks);
}

/// Rows of `width` elements of a [T, ...] tensor whose dim 0 may be strided; `inner` rows per index
/// of dim 0.
template <typename T>
struct RowPointers {
  T* data;
  int64_t stride, width;
  int inner;

  __device__ __forceinline__ T* operator[](int64_t r) const {
    return inner == 1 ? data + r * stride : data + r / inner * stride + r % inner * width;
  }
};
/// The rows of the last dim of a [T, D] or [T, H, D] tensor.
template <typename T>
RowPointers<T> RowsOf(const Tensor& t) {
  const int rank = t.shape.rank();
  return {Data<T>(t), t.row_stride, t.shape[rank - 1],
          rank == 3 ? static_cast<int>(t.shape[1]) : 1};
}

/// f(row, column) for every N-th column of [rows, width]: the loop of element-wise kernels.
template <int N, typename F>
__global__ void __launch_bounds__(256) ForPacksKernel(uint32_t rows, uint32_t packs, F f) {
  const uint32_t step = gridDim.x * blockDim.x;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * packs; i += step) {
    f.template Run<N>(static_cast<int64_t>(i / packs), static_cast<int64_t>(i % packs) * N);
  }
}
template <int N, typename F>
void ForPacks(const Context& ctx, const char* name, int64_t rows, int64_t width, const F& f) {
  const int64_t total = rows * (width / N);
  if (total == 0) return;
  // The loop's counter may run past the end by one stride of the grid.
  OT_CHECK(total < (int64_t{1} << 32) - (1 << 22), "{}: {} packs", name, total);
  constexpr int kThreads = 256;
  ForPacksKernel<N><<<NumBlocks(total, kThreads), kThreads, 0, StreamOf(ctx)>>>(
      static_cast<uint32_t>(rows), static_cast<uint32_t>(width / N), f);
  CheckLaunch(name);
}

}  // namespace omnitrain::cuda
