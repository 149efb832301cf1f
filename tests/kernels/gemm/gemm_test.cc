#include "kernels/gemm/gemm.h"

#include <cmath>
#include <vector>

#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

struct Sizes {
  int64_t rows, in, out;
};
const Sizes kSizes[] = {{1, 1, 1},    {0, 5, 3},     {7, 13, 5},    {33, 17, 129},
                        {64, 64, 64}, {130, 96, 40}, {257, 3, 201}, {2060, 2, 1024}};

/// Bound on a sum of `inner` products of standard normal numbers: added one by one, as the
/// reference does, partial sums of size sqrt(inner) are rounded `inner` times.
Bound RoundingBound(DType dtype, int64_t inner) {
  const double eps = dtype == DType::kF32 ? 0x1p-23 : 0x1p-52;
  return {2 * eps * (static_cast<double>(inner) + 8), 4 * eps, 16 * eps};
}

/// c + a b^T by definition, in f64; strides as element steps of [m, k] and [n, k].
Array Reference(const Array& a, int64_t a_m, int64_t a_k, const Array& b, int64_t b_n, int64_t b_k,
                int64_t m, int64_t n, int64_t k, const Array* c) {
  const std::vector<double> left = a.Values(), right = b.Values();
  std::vector<double> y = c ? c->Values() : std::vector<double>(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = y[i * n + j];
      for (int64_t p = 0; p < k; ++p) sum += left[i * a_m + p * a_k] * right[j * b_n + p * b_k];
      y[i * n + j] = sum;
    }
  }
  Array result(DType::kF64, {m, n});
  result.SetValues(y);
  return result;
}

const DType kDTypes[] = {DType::kF32, DType::kF64};

TEST_CASE("LinearForward is x w^T + bias on dense and strided rows") {
  CpuContext cpu;
  for (const DType dtype : kDTypes) {
    for (const auto [rows, in, out] : kSizes) {
      for (const int64_t gap : {0, 5}) {
        const Array x = Array::Random(dtype, {rows, in}, 1, gap);
        const Array w = Array::Random(dtype, {out, in}, 2);
        const Array bias = Array::Random(dtype, {out}, 3);
        const Array before = Array::Random(dtype, {rows, out}, 4, gap);
        const Array product = Reference(x, in, 1, w, in, 1, rows, out, in, nullptr);
        const Array sum = Reference(x, in, 1, w, in, 1, rows, out, in, &before);
        for (const bool has_bias : {false, true}) {
          for (const Write write : {Write::kOverwrite, Write::kAccumulate}) {
            Array want = write == Write::kAccumulate ? sum : product;
            for (int64_t i = 0; has_bias && i < rows * out; ++i) {
              want.at(i, want.at(i) + bias.at(i % out));
            }
            Array y = write == Write::kAccumulate ? before : Array(dtype, {rows, out}, gap);
            LinearForward(cpu.ctx, *x, *w, has_bias ? *bias : Tensor(), write, *y);
            INFO(rows << " x " << in << " -> " << out << " gap " << gap);
            CHECK(Compare(*y, *want, RoundingBound(dtype, in)));
          }
        }
      }
    }
  }
}

TEST_CASE("LinearInputGrad is dy w") {
  CpuContext cpu;
  for (const DType dtype : kDTypes) {
    for (const auto [rows, in, out] : kSizes) {
      for (const int64_t gap : {0, 3}) {
        const Array dy = Array::Random(dtype, {rows, out}, 1, gap);
        const Array w = Array::Random(dtype, {out, in}, 2);
        const Array before = Array::Random(dtype, {rows, in}, 3, gap);
        Array dx(dtype, {rows, in}, gap), sum = before;
        LinearInputGrad(cpu.ctx, *dy, *w, Write::kOverwrite, *dx);
        LinearInputGrad(cpu.ctx, *dy, *w, Write::kAccumulate, *sum);
        const Bound bound = RoundingBound(dtype, out);
        CHECK(Compare(*dx, *Reference(dy, out, 1, w, 1, in, rows, in, out, nullptr), bound));
        CHECK(Compare(*sum, *Reference(dy, out, 1, w, 1, in, rows, in, out, &before), bound));
      }
    }
  }
}

TEST_CASE("LinearWeightGrad adds dy^T x and the column sums of dy") {
  CpuContext cpu;
  for (const DType dtype : kDTypes) {
    for (const auto [rows, in, out] : kSizes) {
      for (const int64_t gap : {0, 3}) {
        const Array x = Array::Random(dtype, {rows, in}, 1, gap);
        const Array dy = Array::Random(dtype, {rows, out}, 2, gap);
        const Array before = Array::Random(dtype, {out, in}, 3);
        const Array bias_before = Array::Random(dtype, {out}, 4);
        Array dw = before, dbias = bias_before, dw_alone = before;
        LinearWeightGrad(cpu.ctx, *x, *dy, *dw, *dbias);
        LinearWeightGrad(cpu.ctx, *x, *dy, *dw_alone, Tensor());
        const Bound bound = RoundingBound(dtype, rows);
        CHECK(Compare(*dw, *Reference(dy, 1, out, x, 1, in, out, in, rows, &before), bound));
        CHECK(Compare(*dw_alone, *dw, {}));
        Array sums(DType::kF64, {out});
        for (int64_t j = 0; j < out; ++j) {
          double sum = bias_before.at(j);
          for (int64_t i = 0; i < rows; ++i) sum += dy.at(i * out + j);
          sums.at(j, sum);
        }
        CHECK(Compare(*dbias, *sums, bound));
      }
    }
  }
}

TEST_CASE("linear layers write only their rows, pass NaN on and repeat bit for bit") {
  for (const DType dtype : kDTypes) {
    CpuContext cpu(2);
    const Array x = Array::Random(dtype, {300, 70}, 1, 6), w = Array::Random(dtype, {90, 70}, 2);
    Array y(dtype, {300, 90}, 4), again = y;
    LinearForward(cpu.ctx, *x, *w, Tensor(), Write::kOverwrite, *y);
    LinearForward(cpu.ctx, *x, *w, Tensor(), Write::kOverwrite, *again);
    CHECK(y == again);
    Tensor gaps = *y;  // the columns between rows
    gaps.data = static_cast<char*>(gaps.data) + 90 * DTypeBytes(dtype);
    gaps.shape = {299, 4};
    for (int64_t i = 0; i < gaps.num_elements(); ++i) REQUIRE(std::isnan(ElementAt(gaps, i)));

    Array dw = Array::Filled(dtype, {90, 70}, 0), dw_again = dw;
    LinearWeightGrad(cpu.ctx, *x, *y, *dw, Tensor());
    LinearWeightGrad(cpu.ctx, *x, *y, *dw_again, Tensor());
    CHECK(dw == dw_again);

    Array bad = x;
    bad.at(5 * 70 + 3, std::nan(""));
    LinearForward(cpu.ctx, *bad, *w, Tensor(), Write::kOverwrite, *y);
    CHECK(std::isnan(y.at(5 * 90 + 89)));
    CHECK_FALSE(std::isnan(y.at(6 * 90)));
  }
}

TEST_CASE("linear layers refuse shapes that do not fit") {
  CpuContext cpu;
  const Array x = Array::Random(DType::kF32, {4, 6}, 1), w = Array::Random(DType::kF32, {5, 7}, 2);
  Array y(DType::kF32, {4, 5});
  CHECK_THROWS_WITH(LinearForward(cpu.ctx, *x, *w, Tensor(), Write::kOverwrite, *y),
                    Catch::Contains("w is f32 [5, 7], expected f32 [5, 6]"));
}

}  // namespace
}  // namespace omnitrain
