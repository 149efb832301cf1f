#include "core/tensor/element_run.h"

#include <algorithm>

namespace omnitrain {
namespace {

// Elements [begin, begin + length): the rest of a row, whole rows, the beginning of a row.
void AppendContiguous(int64_t begin, int64_t length, int64_t columns, int64_t position,
                      std::vector<ElementRect>* rects) {
  const int64_t end = begin + length;
  while (begin < end) {
    const int64_t row = begin / columns, column = begin % columns;
    const int64_t whole_rows = column == 0 ? (end - begin) / columns : 0;
    const int64_t taken =
        whole_rows > 0 ? whole_rows * columns : std::min(columns - column, end - begin);
    const int64_t column_end = whole_rows > 0 ? columns : column + taken;
    rects->push_back({row, row + std::max<int64_t>(1, whole_rows), column, column_end, position});
    begin += taken;
    position += taken;
  }
}

}  // namespace

int64_t NumElements(const std::vector<ElementRun>& runs) {
  int64_t n = 0;
  for (const ElementRun& run : runs) n += run.num_elements();
  return n;
}

std::vector<ElementRect> ToRects(const std::vector<ElementRun>& runs, int64_t columns) {
  std::vector<ElementRect> rects;
  int64_t position = 0;
  for (const ElementRun& run : runs) {
    const int64_t column = columns > 0 ? run.begin % columns : 0;
    if (run.num_elements() == 0) continue;
    if (run.count > 1 && run.stride == columns && column + run.length <= columns) {
      const int64_t row = run.begin / columns;
      rects.push_back({row, row + run.count, column, column + run.length, position});
    } else {
      for (int64_t i = 0; i < run.count; ++i) {
        AppendContiguous(run.begin + i * run.stride, run.length, columns, position + i * run.length,
                         &rects);
      }
    }
    position += run.num_elements();
  }
  return rects;
}

}  // namespace omnitrain
