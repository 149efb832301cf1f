#include "kernels/rows/rows.h"

#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

using V = std::vector<double>;

Array Table() {
  Array a(DType::kF32, {3, 2}, 1);
  a.SetValues({1, 2, 3, 4, 5, 6});
  return a;
}

TEST_CASE("GatherRows picks rows; no row is 0, or nothing when it adds") {
  CpuContext cpu;
  const Array index = Array::Ints({2, -1, 0, 2});
  Array dst(DType::kF32, {4, 2}, 3);
  GatherRows(cpu.ctx, *Table(), *index, Write::kOverwrite, *dst);
  CHECK(dst.Values() == V{5, 6, 0, 0, 1, 2, 5, 6});
  dst.SetValues({10, 10, 20, 20, 30, 30, 40, 40});
  GatherRows(cpu.ctx, *Table(), *index, Write::kAccumulate, *dst);
  CHECK(dst.Values() == V{15, 16, 20, 20, 31, 32, 45, 46});
}

TEST_CASE("ScatterRows leaves rows that no index names") {
  CpuContext cpu;
  const Array index = Array::Ints({3, -1, 0});
  Array dst = Array::Filled(DType::kF32, {4, 2}, 9);
  ScatterRows(cpu.ctx, *Table(), *index, Write::kOverwrite, *dst);
  CHECK(dst.Values() == V{5, 6, 9, 9, 9, 9, 1, 2});
  ScatterRows(cpu.ctx, *Table(), *index, Write::kAccumulate, *dst);
  CHECK(dst.Values() == V{10, 12, 9, 9, 9, 9, 2, 4});
}

TEST_CASE("ScatterAddRows adds rows that share an index, in order") {
  CpuContext cpu;
  // In f32, (1e8 + 1) + -1e8 is 0 in this order and 1 in another.
  Array src(DType::kF32, {3, 1});
  src.SetValues({1e8, 1, -1e8});
  Array dst = Array::Filled(DType::kF32, {2, 1}, 0);
  ScatterAddRows(cpu.ctx, *src, *Array::Ints({1, 1, 1}), *dst);
  CHECK(dst.Values() == V{0, 0});
  Array sum = Array::Filled(DType::kF32, {2, 2}, 1);
  ScatterAddRows(cpu.ctx, *Table(), *Array::Ints({0, -1, 0}), *sum);
  CHECK(sum.Values() == V{7, 9, 1, 1});
}

TEST_CASE("InterpolateRows is a weighted sum, its backward the transpose") {
  CpuContext cpu;
  const Array index = [] {
    Array a(DType::kI32, {2, 4});
    a.SetValues({0, 1, 2, 0, 2, -1, -1, -1});
    return a;
  }();
  Array weight(DType::kF32, {2, 4});
  weight.SetValues({0.5, 0.25, 0.125, 0.125, 2, 9, 9, 9});
  Array dst(DType::kF32, {2, 2});
  InterpolateRows(cpu.ctx, *Table(), *index, *weight, Write::kOverwrite, *dst);
  CHECK(dst.Values() == V{2, 3, 10, 12});
  InterpolateRows(cpu.ctx, *Table(), *index, *weight, Write::kAccumulate, *dst);
  CHECK(dst.Values() == V{4, 6, 20, 24});
  Array d(DType::kF32, {2, 2}), dtable = Array::Filled(DType::kF32, {3, 2}, 1);
  d.SetValues({8, 16, 1, 2});
  InterpolateRowsBackward(cpu.ctx, *d, *index, *weight, *dtable);
  CHECK(dtable.Values() == V{6, 11, 3, 5, 4, 7});
}

TEST_CASE("Rows refuse an index out of range, with its place") {
  CpuContext cpu;
  Array dst(DType::kF32, {2, 2});
  CHECK_THROWS_WITH(GatherRows(cpu.ctx, *Table(), *Array::Ints({0, 3}), Write::kOverwrite, *dst),
                    Catch::Contains("index 3 at 1 of 3 rows"));
  CHECK_THROWS_WITH(ScatterAddRows(cpu.ctx, *Table(), *Array::Ints({0, -2, 1}), *dst),
                    Catch::Contains("index -2 at 1 of 2 rows"));
}

}  // namespace
}  // namespace omnitrain
