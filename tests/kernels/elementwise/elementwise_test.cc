#include "kernels/elementwise/elementwise.h"

#include <cmath>
#include <cstring>

#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

const float kInf = std::numeric_limits<float>::infinity();

template <typename T>
Tensor View(std::vector<T>& v, DType dtype) {
  return Tensor(v.data(), dtype, {1, static_cast<int64_t>(v.size())});
}

/// Numbers on and around the rounding borders of bf16 and f16, subnormals, and what is not finite.
std::vector<float> HardFloats() {
  std::vector<float> values = {0.0f,     -0.0f,      kInf,     -kInf,  std::nanf(""),
                               65504.0f, 65519.9f,   65520.0f, 1e30f,  0x1p-24f,
                               0x1p-25f, 0x1.8p-25f, 3.4e38f,  -1e-40f};
  for (int i = 0; i < 40000; ++i) {
    uint32_t bits = static_cast<uint32_t>(RandomBits(1, 2, static_cast<uint64_t>(i)));
    if (i % 3 == 0) bits &= 0xffff8000u;  // ties of bf16
    if (i % 3 == 1) bits = (bits & 0xfffff000u) | 0x30000000u;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    if (!std::isnan(x)) values.push_back(x);
  }
  return values;
}

TEST_CASE("Cast has the bits of the scalar conversions") {
  CpuContext cpu;
  std::vector<float> source = HardFloats(), back(source.size());
  std::vector<BFloat16> bf16(source.size());
  std::vector<Float16> f16(source.size());
  Cast(cpu.ctx, View(source, DType::kF32), View(bf16, DType::kBF16));
  Cast(cpu.ctx, View(source, DType::kF32), View(f16, DType::kF16));
  for (size_t i = 0; i < source.size(); ++i) {
    INFO(source[i]);
    REQUIRE(bf16[i].bits == ToBFloat16(source[i]).bits);
    if (std::isnan(source[i])) {
      REQUIRE(std::isnan(ToFloat(f16[i])));
    } else {
      REQUIRE(f16[i].bits == ToFloat16(source[i]).bits);
    }
  }
  Cast(cpu.ctx, View(bf16, DType::kBF16), View(back, DType::kF32));
  for (size_t i = 0; i < source.size(); ++i) {
    REQUIRE((back[i] == ToFloat(bf16[i]) || std::isnan(source[i])));
  }
  Cast(cpu.ctx, View(f16, DType::kF16), View(back, DType::kF32));
  for (size_t i = 0; i < source.size(); ++i) {
    REQUIRE((back[i] == ToFloat(f16[i]) || std::isnan(source[i])));
  }
}

TEST_CASE("Cast from f64 rounds once") {
  CpuContext cpu;
  // Just above and below a tie: rounding to f32 first would land on the tie and lose the side.
  const double bf16_tie = 1 + 0x1p-8, f16_tie = 1 + 0x1p-11;
  std::vector<double> source = {bf16_tie,
                                bf16_tie + 0x1p-40,
                                bf16_tie - 0x1p-40,
                                -(bf16_tie + 0x1p-40),
                                f16_tie,
                                f16_tie + 0x1p-40,
                                f16_tie - 0x1p-40,
                                3 * bf16_tie - 0x1p-40,
                                1e300,
                                -1e300,
                                0x1.8p-25 * (1 + 0x1p-40),
                                0x1p-25 * (1 + 0x1p-40),
                                0x1p-200,
                                std::nan("")};
  std::vector<BFloat16> bf16(source.size());
  std::vector<Float16> f16(source.size());
  Cast(cpu.ctx, View(source, DType::kF64), View(bf16, DType::kBF16));
  Cast(cpu.ctx, View(source, DType::kF64), View(f16, DType::kF16));
  CHECK(ToFloat(bf16[0]) == 1);
  CHECK(ToFloat(bf16[1]) == 1 + 0x1p-7f);
  CHECK(ToFloat(bf16[2]) == 1);
  CHECK(ToFloat(bf16[3]) == -(1 + 0x1p-7f));
  CHECK(ToFloat(f16[4]) == 1);
  CHECK(ToFloat(f16[5]) == 1 + 0x1p-10f);
  CHECK(ToFloat(f16[6]) == 1);
  CHECK(ToFloat(bf16[8]) == kInf);
  CHECK(ToFloat(f16[9]) == -kInf);
  CHECK(ToFloat(f16[11]) == 0x1p-24f);
  CHECK(ToFloat(f16[12]) == 0);
  CHECK(std::isnan(ToFloat(bf16[13])));
  CHECK(std::isnan(ToFloat(f16[13])));
}

TEST_CASE("Cast, AddInto, Zero keep to their columns") {
  CpuContext cpu;
  const Array x = Array::Random(DType::kF32, {5, 7}, 1, 4);
  Array wide = Array::Filled(DType::kF64, {5, 12}, 3);
  const Tensor middle = (*wide).Columns(2, 7);
  Cast(cpu.ctx, *x, middle);
  CHECK(Compare(middle, *x, {}));
  AddInto(cpu.ctx, middle, middle);
  Array doubled = x;
  AddInto(cpu.ctx, *x, *doubled);
  CHECK(Compare(middle, *doubled, {}));
  CHECK(doubled.at(8) == 2 * x.at(8));
  Zero(cpu.ctx, middle);
  for (int64_t i = 0; i < 60; ++i) CHECK(wide.at(i) == (i % 12 >= 2 && i % 12 < 9 ? 0 : 3));
}

TEST_CASE("Cast onto itself does nothing, and refuses another dtype") {
  CpuContext cpu;
  const Array x = Array::Random(DType::kF32, {5, 7}, 1);
  Array y = x;
  Cast(cpu.ctx, *y, *y);
  CHECK(y == x);
  Tensor as_double = *y;
  as_double.dtype = DType::kF64;
  CHECK_THROWS_WITH(Cast(cpu.ctx, *y, as_double), Catch::Contains("onto itself"));
}

TEST_CASE("Scale lets NaN and infinity through") {
  CpuContext cpu;
  Array y(DType::kF32, {4});
  y.SetValues({std::nan(""), kInf, 2, -3});
  Scale(cpu.ctx, -0.5, *y);
  CHECK(std::isnan(y.at(0)));
  CHECK(y.at(1) == -kInf);
  CHECK(y.at(2) == -1);
  CHECK(y.at(3) == 1.5);
}

}  // namespace
}  // namespace omnitrain
