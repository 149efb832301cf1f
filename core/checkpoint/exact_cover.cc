#include "core/checkpoint/exact_cover.h"

#include <algorithm>
#include <iterator>
#include <map>

namespace omnitrain {
namespace {

// A sweep from row to row over the columns that rectangles occupy there.
class Sweep {
 public:
  Sweep(int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {}

  std::string Run(const std::vector<ElementRect>& rects) {
    std::vector<Border> borders;
    for (const ElementRect& rect : rects) {
      borders.push_back({rect.row_begin, /*is_begin=*/true, &rect});
      borders.push_back({rect.row_end, /*is_begin=*/false, &rect});
    }
    std::sort(borders.begin(), borders.end(), [](const Border& a, const Border& b) {
      return a.row != b.row ? a.row < b.row : a.is_begin < b.is_begin;
    });
    if (borders.empty() || borders.front().row > 0) {
      return Missing(0, 0, borders.empty() ? rows_ : borders.front().row);
    }
    for (size_t i = 0; i < borders.size();) {
      const int64_t row = borders[i].row;
      for (; i < borders.size() && borders[i].row == row; ++i) {
        const ElementRect& rect = *borders[i].rect;
        if (!borders[i].is_begin) {
          Remove(rect);
        } else if (const ElementRect* other = FindOverlap(rect)) {
          return Doubled(row, rect, *other);
        } else {
          Insert(rect);
        }
      }
      const int64_t next = i < borders.size() ? borders[i].row : rows_;
      if (row < next && num_occupied_ != columns_) return Missing(FirstGap(), row, next);
    }
    return "";
  }

 private:
  struct Border {
    int64_t row;
    bool is_begin;
    const ElementRect* rect;
  };
  using Occupied = std::map<int64_t, const ElementRect*>;  // by first column

  void Insert(const ElementRect& rect) {
    occupied_[rect.column_begin] = &rect;
    num_occupied_ += rect.columns();
  }
  void Remove(const ElementRect& rect) {
    occupied_.erase(rect.column_begin);
    num_occupied_ -= rect.columns();
  }
  const ElementRect* FindOverlap(const ElementRect& rect) const {
    const auto after = occupied_.lower_bound(rect.column_begin);
    if (after != occupied_.end() && after->first < rect.column_end) return after->second;
    if (after == occupied_.begin()) return nullptr;
    const ElementRect* before = std::prev(after)->second;
    return before->column_end > rect.column_begin ? before : nullptr;
  }
  int64_t FirstGap() const {
    int64_t column = 0;
    for (const auto& [begin, rect] : occupied_) {
      if (begin != column) break;
      column = rect->column_end;
    }
    return column;
  }

  // Rows that are wrong over their whole width are one range; of others the first row is named.
  std::string Fault(int64_t row, int64_t row_end, int64_t column, int64_t column_end,
                    const char* where) const {
    const bool is_whole = column == 0 && column_end == columns_;
    const int64_t last = is_whole ? row_end - 1 : row;
    return fmt::format("elements [{}, {}) are in {}", row * columns_ + column,
                       last * columns_ + column_end, where);
  }
  std::string Missing(int64_t column, int64_t row, int64_t row_end) const {
    const auto after = occupied_.lower_bound(column);
    return Fault(row, row_end, column, after == occupied_.end() ? columns_ : after->first,
                 "no file");
  }
  std::string Doubled(int64_t row, const ElementRect& a, const ElementRect& b) const {
    return Fault(row, std::min(a.row_end, b.row_end), std::max(a.column_begin, b.column_begin),
                 std::min(a.column_end, b.column_end), "two places");
  }

  int64_t rows_, columns_;
  Occupied occupied_;
  int64_t num_occupied_ = 0;
};

}  // namespace

std::string FindCoverFault(const Shape& shape, const std::vector<ElementRun>& runs) {
  if (shape.num_elements() == 0) return "";
  const int64_t columns = shape.row_elements();
  return Sweep(shape.num_elements() / columns, columns).Run(ToRects(runs, columns));
}

}  // namespace omnitrain
