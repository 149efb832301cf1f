#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace omnitrain::cpu {

/// Elements below which starting threads costs more than it saves (a fork and join is about 2 us,
/// a core moves a few elements a nanosecond).
constexpr int64_t kMinParallelElements = 1 << 14;

/// f(i) for i < n, over threads when n * elements_per_item is worth it. f must not throw.
template <typename F>
void ParallelFor(int64_t n, int64_t elements_per_item, F&& f) {
#pragma omp parallel for schedule(static) if (n * elements_per_item >= kMinParallelElements)
  for (int64_t i = 0; i < n; ++i) f(i);
}

/// f(row, begin, count) over pieces that cover [rows, width] once. Dense memory is cut into even
/// pieces of "row 0", so that neither one long row nor many short ones leave threads idle.
template <typename F>
void ParallelPieces(int64_t rows, int64_t width, bool is_dense, F&& f) {
  constexpr int64_t kPiece = 8192;
  if (!is_dense) {
    ParallelFor(rows, width, [&](int64_t r) { f(r, int64_t{0}, width); });
    return;
  }
  const int64_t total = rows * width;
  ParallelFor((total + kPiece - 1) / kPiece, kPiece,
              [&](int64_t i) { f(int64_t{0}, i * kPiece, std::min(kPiece, total - i * kPiece)); });
}

/// Blocks of rows that partial column sums are taken over. The partition depends on the number of
/// rows alone, so that sums are the same for every thread count.
struct RowBlocks {
  int64_t rows, num_blocks;

  explicit RowBlocks(int64_t rows_)
      : rows(rows_), num_blocks(std::clamp<int64_t>((rows_ + 31) / 32, 1, 64)) {}
  int64_t begin(int64_t block) const { return rows * block / num_blocks; }
  int64_t end(int64_t block) const { return rows * (block + 1) / num_blocks; }
};

/// One partial row per block, and their sum in block order.
template <typename S>
class ColumnSums {
 public:
  static size_t Bytes(const RowBlocks& blocks, int64_t width) {
    return static_cast<size_t>(blocks.num_blocks * Pitch(width)) * sizeof(S);
  }
  /// `memory` holds Bytes(); null where no sums are asked for.
  ColumnSums(void* memory, const RowBlocks& blocks, int64_t width)
      : data_(static_cast<S*>(memory)), num_blocks_(blocks.num_blocks), width_(width) {}

  /// The partial row of `block`, zeroed.
  S* Clear(int64_t block) {
    S* row = data_ + block * Pitch(width_);
    std::fill(row, row + width_, S(0));
    return row;
  }
  /// out += the sum of all partial rows, which are used up; every block must have been cleared and
  /// filled.
  void AddTo(S* out) {
    // Pairwise: rounding grows with the logarithm of the number of blocks.
    for (int64_t step = 1; step < num_blocks_; step *= 2) {
      for (int64_t block = 0; block + step < num_blocks_; block += 2 * step) {
        AddRow(data_ + (block + step) * Pitch(width_), data_ + block * Pitch(width_));
      }
    }
    AddRow(data_, out);
  }

 private:
  void AddRow(const S* row, S* to) const {
#pragma omp simd
    for (int64_t j = 0; j < width_; ++j) to[j] += row[j];
  }
  /// Whole cache lines, so that threads on neighbouring blocks share none.
  static int64_t Pitch(int64_t width) {
    constexpr int64_t kLine = 64 / sizeof(S);
    return (width + kLine - 1) / kLine * kLine;
  }
  S* data_;
  int64_t num_blocks_, width_;
};

/// sum_{i<n} f(i) in S: four quarters side by side, each in vector lanes, so that additions neither
/// wait for each other nor pile rounding up in one accumulator. The order depends on n alone.
template <typename S, typename F>
inline S LaneSum(int64_t n, F f) {
  const int64_t q = n / 4;
  S s0 = 0, s1 = 0, s2 = 0, s3 = 0, tail = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (int64_t i = 0; i < q; ++i) {
    s0 += f(i);
    s1 += f(q + i);
    s2 += f(2 * q + i);
    s3 += f(3 * q + i);
  }
  for (int64_t i = 4 * q; i < n; ++i) tail += f(i);
  return ((s0 + s1) + (s2 + s3)) + tail;
}

/// Rows of `width` elements of a [T, ...] tensor whose dim 0 may be strided; `inner` rows per index
/// of dim 0.
template <typename S>
struct RowPointers {
  S* data;
  int64_t stride, inner, width;

  S* operator[](int64_t r) const {
    return inner == 1 ? data + r * stride : data + r / inner * stride + r % inner * width;
  }
};

}  // namespace omnitrain::cpu
