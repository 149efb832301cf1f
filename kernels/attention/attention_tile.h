#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/runtime/carver.h"
#include "kernels/common/simd_math.h"

namespace omnitrain::cpu {

// Small matrix products in registers, and the packed layouts that they read.
//
// A task works on one sequence and one kv head. Its query heads share the keys, so their rows lie
// in one matrix: row i * group + h is query i of the group's head h; neighbours have about the same
// causal limit, and grouped heads cost no more packing than one.

/// Rows of a register tile. Six rows of two AVX2 vectors are 12 accumulators, which leaves of the
/// 16 registers two for b and one for a broadcast element of a.
constexpr int64_t kTileRows = 6;
/// Columns of a register tile.
template <typename T>
constexpr int64_t kTileCols = 2 * static_cast<int64_t>(sizeof(typename SimdVector<T>::Type) /
                                                       sizeof(T));
/// Keys that are in flight at once: a multiple of kTileRows (dk and dv have a row a key) and of
/// kTileCols.
constexpr int64_t kKeyTile = 192;

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <typename T>
typename SimdVector<T>::Type Load(const T* from) {
  typename SimdVector<T>::Type v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <typename T>
void Store(typename SimdVector<T>::Type v, T* to) {
  std::memcpy(to, &v, sizeof v);
}

enum class ReadA { kRows, kColumns };  // a[i, p] = a[i * stride + p] or a[p * stride + i]
enum class Into { kSet, kAdd };

/// c (= or +=) a b for one register tile: a [kTileRows, inner], b [inner, kTileCols]. Not inlined:
/// inside the loops of its callers GCC 12 spills accumulators (a third slower on Zen, K = 64).
template <typename T, ReadA kRead, Into kInto>
[[gnu::noinline]] void MultiplyTile(int64_t inner, const T* a, int64_t a_stride, const T* b,
                                    int64_t b_stride, T* c, int64_t c_stride) {
  using V = typename SimdVector<T>::Type;
  constexpr int64_t kLanes = kTileCols<T> / 2;
  V left[kTileRows], right[kTileRows];
#pragma GCC unroll 6
  for (int64_t i = 0; i < kTileRows; ++i) {
    left[i] = kInto == Into::kAdd ? Load(c + i * c_stride) : V{};
    right[i] = kInto == Into::kAdd ? Load(c + i * c_stride + kLanes) : V{};
  }
  for (int64_t p = 0; p < inner; ++p) {
    const V b_left = Load(b + p * b_stride), b_right = Load(b + p * b_stride + kLanes);
#pragma GCC unroll 6
    for (int64_t i = 0; i < kTileRows; ++i) {
      const T element = kRead == ReadA::kRows ? a[i * a_stride + p] : a[p * a_stride + i];
      left[i] += element * b_left;
      right[i] += element * b_right;
    }
  }
#pragma GCC unroll 6
  for (int64_t i = 0; i < kTileRows; ++i) {
    Store(left[i], c + i * c_stride);
    Store(right[i], c + i * c_stride + kLanes);
  }
}

/// Rows [0, count) of one head of a [T, heads, K] tensor.
template <typename T>
struct HeadRows {
  T* data;
  int64_t stride;
  T* operator[](int64_t i) const { return data + i * stride; }
};

/// Transposed, for products with keys along the columns: panels of kTileCols keys, each [K,
/// kTileCols]; keys behind `count` are 0.
template <typename T>
void PackTransposed(HeadRows<const T> rows, int64_t count, int64_t head_dim, T* panels) {
  constexpr int64_t kCols = kTileCols<T>;
  for (int64_t j0 = 0; j0 < count; j0 += kCols, panels += head_dim * kCols) {
    const int64_t full = std::min(kCols, count - j0);
    if (full < kCols) std::fill_n(panels, head_dim * kCols, T(0));
    for (int64_t j = 0; j < full; ++j) {
      const T* row = rows[j0 + j];
      for (int64_t d = 0; d < head_dim; ++d) panels[d * kCols + j] = row[d];
    }
  }
}

/// As they are, for products summed over keys: panels of kTileCols head dims, each [kKeyTile,
/// kTileCols]; dims behind K are 0.
template <typename T>
void PackPanels(HeadRows<const T> rows, int64_t count, int64_t head_dim, T* panels) {
  constexpr int64_t kCols = kTileCols<T>;
  for (int64_t d0 = 0; d0 < head_dim; d0 += kCols, panels += kKeyTile * kCols) {
    const int64_t full = std::min(kCols, head_dim - d0);
    for (int64_t j = 0; j < count; ++j) {
      T* to = panels + j * kCols;
      const T* from = rows[j] + d0;
      for (int64_t d = 0; d < full; ++d) to[d] = from[d];
      for (int64_t d = full; d < kCols; ++d) to[d] = T(0);
    }
  }
}

/// Query rows [begin, end) of a group of heads times `factor`, to [(end - begin) * group, width]
/// as said on top; dims behind K are 0.
template <typename T>
void PackQueries(HeadRows<const T> rows, int64_t begin, int64_t end, int64_t group,
                 int64_t head_dim, T factor, int64_t width, T* to) {
  for (int64_t i = begin; i < end; ++i) {
    const T* from = rows[i];
    for (int64_t h = 0; h < group; ++h, from += head_dim, to += width) {
      for (int64_t d = 0; d < head_dim; ++d) to[d] = factor * from[d];
      for (int64_t d = head_dim; d < width; ++d) to[d] = T(0);
    }
  }
}

}  // namespace omnitrain::cpu
