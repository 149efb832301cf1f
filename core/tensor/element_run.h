#pragma once

#include <cstdint>
#include <vector>

namespace omnitrain {

/// Elements of a tensor, flat in row-major order: `count` runs of `length`, each starting `stride`
/// after the one before.
struct ElementRun {
  int64_t begin = 0, length = 0;
  int64_t stride = 0, count = 1;  // stride means something only where there are several

  int64_t num_elements() const { return length * count; }
  /// One past the last; of an empty run, `begin`.
  int64_t end() const {
    return num_elements() == 0 ? begin : begin + (count - 1) * stride + length;
  }
  /// The place in the tensor of the i-th element.
  int64_t operator[](int64_t i) const { return begin + i / length * stride + i % length; }
};

int64_t NumElements(const std::vector<ElementRun>& runs);

/// A rectangle of a matrix. Its elements, row by row, follow each other in a list of runs from
/// element `position` of that list on.
struct ElementRect {
  int64_t row_begin = 0, row_end = 0, column_begin = 0, column_end = 0;
  int64_t position = 0;

  int64_t rows() const { return row_end - row_begin; }
  int64_t columns() const { return column_end - column_begin; }
};

/// Runs over a matrix of `columns` columns as rectangles, in the order of their elements: three at
/// most for a run without a stride and one for rows of a column slice.
std::vector<ElementRect> ToRects(const std::vector<ElementRun>& runs, int64_t columns);

}  // namespace omnitrain
