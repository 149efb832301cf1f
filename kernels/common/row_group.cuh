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

/// Calls f(std::integral_constant lanes) with a warp for narrow rows and a block for wide ones.
template <typename F>
void DispatchLanes(int64_t width, F&& f) {
  constexpr int64_t kWidestOfWarp = 1024;
  if (width <= kWidestOfWarp) {
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
