#include "kernels/layer_norm/layer_norm.h"

#include <cmath>

#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

constexpr double kEps = 1e-6;

std::vector<double> Reference(const Array& x, const Array& w, const Array& b, int64_t width) {
  std::vector<double> y;
  const std::vector<double> v = x.Values();
  for (size_t begin = 0; begin < v.size(); begin += static_cast<size_t>(width)) {
    long double sum = 0, squares = 0;
    for (int64_t j = 0; j < width; ++j) sum += v[begin + static_cast<size_t>(j)];
    const long double mean = sum / width;
    for (int64_t j = 0; j < width; ++j) {
      squares += std::pow(v[begin + static_cast<size_t>(j)] - mean, 2);
    }
    const long double rstd = 1 / std::sqrt(squares / width + kEps);
    for (int64_t j = 0; j < width; ++j) {
      const long double xhat = (v[begin + static_cast<size_t>(j)] - mean) * rstd;
      y.push_back(static_cast<double>(w.at(j) * xhat + b.at(j)));
    }
  }
  return y;
}

TEST_CASE("LayerNormForward is its formula") {
  CpuContext cpu;
  const Array x = Array::Random(DType::kF64, {9, 37}, 1, 7);
  const Array w = Array::Random(DType::kF64, {37}, 2), b = Array::Random(DType::kF64, {37}, 3);
  Array y(DType::kF64, {9, 37}, 2), mean(DType::kF64, {9}), rstd(DType::kF64, {9});
  LayerNormForward(cpu.ctx, *x, *w, *b, kEps, *y, *mean, *rstd);
  CHECK(Compare(y.Values(), Reference(x, w, b, 37), {1e-15, 2e-15}));
}

TEST_CASE("LayerNorm keeps a small variance on a large mean in f32") {
  CpuContext cpu;
  Array x(DType::kF32, {2, 256});
  // Multiples of 2^-4 around 4096: exact, with a variance that E[x^2] - mean^2 would lose.
  for (int64_t i = 0; i < 512; ++i) x.at(i, 4096 + static_cast<double>(i * 37 % 64) / 16);
  const Array w = Array::Filled(DType::kF32, {256}, 1), b = Array::Filled(DType::kF32, {256}, 0);
  Array y(DType::kF32, {2, 256}), mean(DType::kF32, {2}), rstd(DType::kF32, {2});
  LayerNormForward(cpu.ctx, *x, *w, *b, kEps, *y, *mean, *rstd);
  CHECK(Compare(y.Values(), Reference(x, w, b, 256), {1e-3}));
}

TEST_CASE("LayerNorm: dx may be dy, sums may be absent, NaN stays in its row") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    Array x = Array::Random(dtype, {41, 35}, 1);
    const Array w = Array::Random(dtype, {35}, 2), b = Array::Random(dtype, {35}, 3);
    const Array dy = Array::Random(dtype, {41, 35}, 4);
    Array y(dtype, {41, 35}), mean(dtype, {41}), rstd(dtype, {41}), dx(dtype, {41, 35});
    Array dw = Array::Filled(dtype, {35}, 0), db = dw, dw_alone = dw, db_in_place = dw;
    LayerNormForward(cpu.ctx, *x, *w, *b, kEps, *y, *mean, *rstd);
    LayerNormBackward(cpu.ctx, *dy, *x, *w, *mean, *rstd, Write::kOverwrite, *dx, *dw, *db);
    Array in_place = dy, other = dy;
    LayerNormBackward(cpu.ctx, *in_place, *x, *w, *mean, *rstd, Write::kOverwrite, *in_place,
                      Tensor(), *db_in_place);
    CHECK(in_place == dx);
    CHECK(db_in_place == db);
    LayerNormBackward(cpu.ctx, *dy, *x, *w, *mean, *rstd, Write::kOverwrite, *other, *dw_alone,
                      Tensor());
    CHECK(other == dx);
    CHECK(dw_alone == dw);

    x.at(35 + 3, std::nan(""));
    LayerNormForward(cpu.ctx, *x, *w, *b, kEps, *y, *mean, *rstd);
    for (int64_t i = 0; i < 70; ++i) CHECK(std::isnan(y.at(i)) == (i >= 35));
  }
}

}  // namespace
}  // namespace omnitrain
