#include "core/checkpoint/exact_cover.h"

#include "core/base/rng.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

// How often the runs name each element.
std::vector<int> Counts(const Shape& shape, const std::vector<ElementRun>& runs) {
  std::vector<int> counts(static_cast<size_t>(shape.num_elements()));
  for (const ElementRun& run : runs) {
    for (int64_t i = 0; i < run.num_elements(); ++i) ++counts[static_cast<size_t>(run[i])];
  }
  return counts;
}

TEST_CASE("Slices of a matrix cover it, and what is wrong with them is named") {
  const Shape shape = {6, 10};
  // Columns 0..3 of all rows; of the others rows 0..1, and from row 2 on a rank's shares, cut at
  // element 33.
  const std::vector<ElementRun> good = {{0, 4, 10, 6}, {4, 6, 10, 2}, {24, 6}, {34, 6, 10, 3}};
  CHECK(FindCoverFault(shape, good) == "");
  std::vector<ElementRun> runs = good;
  runs[2] = {25, 5};
  CHECK(FindCoverFault(shape, runs) == "elements [24, 25) are in no file");
  runs[2] = {23, 7};
  CHECK(FindCoverFault(shape, runs) == "elements [23, 24) are in two places");
  runs = good;
  runs.pop_back();
  CHECK(FindCoverFault(shape, runs) == "elements [34, 40) are in no file");
  runs.push_back({34, 6, 10, 2});
  CHECK(FindCoverFault(shape, runs) == "elements [54, 60) are in no file");
  CHECK(FindCoverFault(shape, {}) == "elements [0, 60) are in no file");
  CHECK(FindCoverFault(shape, {{0, 60}, {0, 60}}) == "elements [0, 60) are in two places");
  CHECK(FindCoverFault({}, {{0, 1}}) == "");
  CHECK(FindCoverFault({0, 3}, {{0, 0}}) == "");
  // Strides that are no rows of the matrix.
  CHECK(FindCoverFault({12}, {{0, 2, 4, 3}, {2, 2, 4, 3}}) == "");
  CHECK(FindCoverFault({4, 3}, {{0, 2, 4, 3}, {2, 2, 4, 2}}) == "elements [10, 12) are in no file");
}

TEST_CASE("A huge tensor is checked by its rectangles") {
  const int64_t rows = int64_t{1} << 20, columns = int64_t{1} << 20, half = columns / 2;
  std::vector<ElementRun> runs = {{0, half, columns, rows}, {half, half, columns, rows}};
  CHECK(FindCoverFault({rows, columns}, runs) == "");
  runs[1].count = rows - 1;
  CHECK(FindCoverFault({rows, columns}, runs) ==
        fmt::format("elements [{}, {}) are in no file", rows * columns - half, rows * columns));
}

TEST_CASE("Random runs: the verdict is that of counting") {
  int num_good = 0;
  for (uint64_t round = 0; round < 3000; ++round) {
    uint64_t index = 0;
    const auto draw = [&](int64_t n) {
      return static_cast<int64_t>(RandomBits(3, round, index++) % static_cast<uint64_t>(n));
    };
    const Shape shape = {1 + draw(4), 1 + draw(4)};
    const int64_t columns = shape[1];
    // Column slices, each cut into bands of rows; some are then spoilt.
    std::vector<ElementRun> runs;
    for (int64_t column = 0; column < columns;) {
      const int64_t width = 1 + draw(columns - column);
      for (int64_t row = 0; row < shape[0];) {
        const int64_t height = 1 + draw(shape[0] - row);
        runs.push_back({row * columns + column, width, columns, height});
        row += height;
      }
      column += width;
    }
    ElementRun& one = runs[static_cast<size_t>(draw(static_cast<int64_t>(runs.size())))];
    const int64_t kind = draw(4);
    if (kind == 1 && one.count > 1) --one.count;
    if (kind == 2 && one.length > 1) --one.length;
    if (kind == 3 && one.begin > 0) --one.begin;
    const std::vector<int> counts = Counts(shape, runs);
    const bool is_good = counts == std::vector<int>(counts.size(), 1);
    num_good += is_good ? 1 : 0;
    if (FindCoverFault(shape, runs).empty() != is_good) FAIL("round " << round);
  }
  CHECK(num_good > 500);
  CHECK(num_good < 2500);
}

}  // namespace
}  // namespace omnitrain
