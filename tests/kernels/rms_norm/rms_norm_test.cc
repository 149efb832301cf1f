#include "kernels/rms_norm/rms_norm.h"

#include <cmath>

#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

constexpr double kEps = 1e-6;

TEST_CASE("RmsNormForward is its formula") {
  CpuContext cpu;
  const Array x = Array::Random(DType::kF64, {6, 3, 19}, 1, 7);
  const Array w = Array::Random(DType::kF64, {19}, 2);
  Array y(DType::kF64, {6, 3, 19}, 2), rstd(DType::kF64, {6, 3});
  RmsNormForward(cpu.ctx, *x, *w, kEps, *y, *rstd);
  std::vector<double> want_y, want_rstd;
  for (int64_t r = 0; r < 18; ++r) {
    long double squares = 0;
    for (int64_t j = 0; j < 19; ++j) squares += std::pow(x.at(r * 19 + j), 2);
    want_rstd.push_back(static_cast<double>(1 / std::sqrt(squares / 19 + kEps)));
    for (int64_t j = 0; j < 19; ++j) want_y.push_back(w.at(j) * x.at(r * 19 + j) * want_rstd[r]);
  }
  CHECK(Compare(rstd.Values(), want_rstd, {0, 1e-15}));
  CHECK(Compare(y.Values(), want_y, {0, 1e-15}));
}

TEST_CASE("RmsNorm in place gives the bits of out of place") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const Array x = Array::Random(dtype, {41, 35}, 1), w = Array::Random(dtype, {35}, 2);
    const Array dy = Array::Random(dtype, {41, 35}, 3);
    Array y(dtype, {41, 35}), rstd(dtype, {41}), dx(dtype, {41, 35});
    Array dw = Array::Filled(dtype, {35}, 0), dw_in_place = dw;
    RmsNormForward(cpu.ctx, *x, *w, kEps, *y, *rstd);
    RmsNormBackward(cpu.ctx, *dy, *x, *w, *rstd, Write::kOverwrite, *dx, *dw);
    Array x_y = x, dy_dx = dy;
    RmsNormForward(cpu.ctx, *x_y, *w, kEps, *x_y, *rstd);
    RmsNormBackward(cpu.ctx, *dy_dx, *x, *w, *rstd, Write::kOverwrite, *dy_dx, *dw_in_place);
    CHECK(x_y == y);
    CHECK(dy_dx == dx);
    CHECK(dw_in_place == dw);
  }
}

TEST_CASE("RmsNorm: dw may be absent, NaN stays in its row") {
  CpuContext cpu;
  Array x = Array::Random(DType::kF32, {3, 16}, 1);
  const Array w = Array::Random(DType::kF32, {16}, 2), dy = Array::Random(DType::kF32, {3, 16}, 3);
  x.at(16 + 5, std::nan(""));
  Array y(DType::kF32, {3, 16}), rstd(DType::kF32, {3}), dx(DType::kF32, {3, 16});
  RmsNormForward(cpu.ctx, *x, *w, kEps, *y, *rstd);
  RmsNormBackward(cpu.ctx, *dy, *x, *w, *rstd, Write::kOverwrite, *dx, Tensor());
  for (int64_t i = 0; i < 48; ++i) {
    CHECK(std::isnan(y.at(i)) == (i / 16 == 1));
    CHECK(std::isnan(dx.at(i)) == (i / 16 == 1));
  }
}

TEST_CASE("RmsNorm names the operand that does not fit") {
  CpuContext cpu;
  const Array x = Array::Random(DType::kF32, {3, 16}, 1), w = Array::Random(DType::kF32, {15}, 2);
  Array y(DType::kF32, {3, 16}), rstd(DType::kF32, {3});
  CHECK_THROWS_WITH(RmsNormForward(cpu.ctx, *x, *w, kEps, *y, *rstd),
                    Catch::Contains("w is f32 [15], expected f32 [16]"));
}

}  // namespace
}  // namespace omnitrain
