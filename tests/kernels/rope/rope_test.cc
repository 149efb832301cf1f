#include "kernels/rope/rope.h"

#include <cmath>

#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

// A libm may round a cosine the other way: one ulp below 1.
constexpr Bound kOneUlp = {0x1p-24};

TEST_CASE("M-RoPE tables are those that PyTorch computes in f32") {
  // cos and sin of float(1799) * (1.0 / (5e6 ** (arange(0, 16, 2).float() / 16))), torch 2.15.
  const std::vector<float> want_cos = {
      -0.424315482378006f, -0.6515408158302307f, 0.9410389065742493f, 0.7311866283416748f,
      0.6934446692466736f, 0.9931636452674866f,  0.9998552799224854f, 0.9999969601631165f};
  const std::vector<float> want_sin = {
      0.9055144190788269f, -0.7586135864257812f, 0.3382984399795532f,   -0.6821774840354919f,
      0.7205098867416382f, 0.11673031002283096f, 0.017013071104884148f, 0.002474183915182948f};
  const int64_t positions[] = {1799, 1799, 1799};
  for (const MropeLayout layout : {MropeLayout::kChunked, MropeLayout::kInterleaved}) {
    const MropeParams params = {16, 5e6, {3, 3, 2}, layout};
    std::vector<float> cos(8), sin(8);
    BuildMropeTables(params, positions, 1, cos.data(), sin.data());
    CHECK(Compare(cos, want_cos, kOneUlp));
    CHECK(Compare(sin, want_sin, kOneUlp));
  }
}

TEST_CASE("M-RoPE layouts give each frequency its position row") {
  // theta 1: every angle is the position itself.
  const int64_t positions[] = {1, 4, 2, 5, 3, 6};  // rows: time 1 4, height 2 5, width 3 6
  const auto rows_of = [&](MropeLayout layout, int token) {
    const MropeParams params = {20, 1, {4, 3, 3}, layout};
    std::vector<float> cos(20), sin(20);
    BuildMropeTables(params, positions, 2, cos.data(), sin.data());
    std::string rows;
    for (int j = 0; j < 10; ++j) {
      for (int row = 0; row < 3; ++row) {
        const auto position = static_cast<float>(positions[row * 2 + token]);
        if (cos[token * 10 + j] == std::cos(position)) rows += "thw"[row];
      }
    }
    return rows;
  };
  for (const int token : {0, 1}) {
    CHECK(rows_of(MropeLayout::kChunked, token) == "tttthhhwww");
    CHECK(rows_of(MropeLayout::kInterleaved, token) == "thwthwthwt");
  }
}

TEST_CASE("M-RoPE refuses sections that do not add up") {
  const int64_t positions[] = {0, 0, 0};
  float table[8];
  CHECK_THROWS_WITH(BuildMropeTables({16, 1e4, {3, 3, 3}}, positions, 1, table, table),
                    Catch::Contains("sections 3 + 3 + 3 of 8"));
}

TEST_CASE("Vision tables hold the row's angles, then the column's") {
  // cos and sin of float(31) * (1.0 / (1e4 ** (arange(0, 12, 2).float() / 12))), torch 2.15.
  const std::vector<float> cos31 = {0.9147423505783081f, 0.9227803945541382f, 0.1315218061208725f,
                                    0.9523335695266724f, 0.9977705478668213f, 0.9998964667320251f};
  const std::vector<float> sin31 = {-0.4040376543998718f, 0.3853262960910797f,
                                    0.9913132786750793f,  0.30505862832069397f,
                                    0.0667378231883049f,  0.01438843086361885f};
  const int32_t coordinates[] = {31, 0, 0, 31};
  std::vector<float> cos(24), sin(24);
  BuildVisionRopeTables(24, 1e4, coordinates, 2, cos.data(), sin.data());
  std::vector<float> want_cos(24, 1.0f), want_sin(24, 0.0f);
  for (int j = 0; j < 6; ++j) {
    want_cos[j] = want_cos[18 + j] = cos31[j];
    want_sin[j] = want_sin[18 + j] = sin31[j];
  }
  CHECK(Compare(cos, want_cos, kOneUlp));
  CHECK(Compare(sin, want_sin, kOneUlp));
}

TEST_CASE("ApplyRope turns pairs (j, j + K/2), and back") {
  CpuContext cpu;
  const int64_t half = 5;
  Array cos(DType::kF64, {3, half}), sin(DType::kF64, {3, half});
  for (int64_t i = 0; i < 3 * half; ++i) {
    cos.at(i, std::cos(0.3 * static_cast<double>(i)));
    sin.at(i, std::sin(0.3 * static_cast<double>(i)));
  }
  const Array before = Array::Random(DType::kF64, {3, 2, 2 * half}, 1, 4);
  Array x = before;
  ApplyRope(cpu.ctx, *cos, *sin, RopeDirection::kForward, *x);
  std::vector<double> want(60);
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t j = 0; j < half; ++j) {
        const int64_t a = (t * 2 + h) * 2 * half + j, b = a + half;
        const double c = cos.at(t * half + j), s = sin.at(t * half + j);
        want[a] = before.at(a) * c - before.at(b) * s;
        want[b] = before.at(b) * c + before.at(a) * s;
      }
    }
  }
  CHECK(Compare(x.Values(), want, {1e-15}));
  ApplyRope(cpu.ctx, *cos, *sin, RopeDirection::kBackward, *x);
  CHECK(Compare(x.Values(), before.Values(), {1e-15}));
}

}  // namespace
}  // namespace omnitrain
