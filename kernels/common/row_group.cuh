#pragma once

#include <initializer_list>
#include <type_traits>

#include "kernels/common/cuda.cuh"

namespace omnitrain::cuda {

// Kernels that reduce over rows: a group of kLanes threads works on one row, and a block of
// kRowThreads on kRowThreads / kLanes of them.

constexpr int kRowThreads = 256;

template <int kLanes>
__device__ __forceinline__ float RowSum(float x) {
  static_assert(kLanes == 32 || kLanes == kRowThreads);
  if constexpr (kLanes == 32) {
    return WarpSum(x);
  } else {
    return BlockSum<kRowThreads>(x);
  }
}

template <int kLanes>
unsigned NumRowBlocks(int64_t rows) {
  return static_cast<unsigned>(CeilDiv(rows, kRowThreads / kLanes));
}

template <typename T>
int PackOf(const Tensor& t) {
  return PackWidth<T>(t.data, t.row_stride, t.shape[t.shape.rank() - 1]);
}

/// The widest row that a warp takes: it has no barrier to wait at, but all of a row's loads to
/// itself. Tuned on an H200, bf16: a LayerNorm forward of 16384 x 1280 takes 46 us by warps and 73
/// by blocks, an RMSNorm forward of 8192 x 3584 91 and 52. Their backwards, which hold three
/// tensors of a row, gain nothing from 1280 on: half as wide.
constexpr int64_t kWidestOfWarp = 2048;

/// By how much loops over a row are unrolled: a block has other warps to hide its loads.
template <int kLanes>
constexpr int kLoadsAhead = kLanes == 32 ? 4 : 1;

/// Calls f(std::integral_constant lanes) with a warp for narrow rows and a block for wide ones.
template <typename F>
void DispatchLanes(int64_t width, int64_t widest_of_warp, F&& f) {
  if (width <= widest_of_warp) {
    f(std::integral_constant<int, 32>());
  } else {
    f(std::integral_constant<int, kRowThreads>());
  }
}

/// Calls f(std::integral_constant pack): 16 bytes at once where all of `widths` (PackWidth) allow
/// it, single elements elsewhere.
template <typename T, typename F>
void DispatchPack(std::initializer_list<int> widths, F&& f) {
  constexpr int kWide = 16 / static_cast<int>(sizeof(T));
  bool is_wide = true;
  for (const int width : widths) is_wide = is_wide && width == kWide;
  if (is_wide) {
    f(std::integral_constant<int, kWide>());
  } else {
    f(std::integral_constant<int, 1>());
  }
}

}  // namespace omnitrain::cuda
