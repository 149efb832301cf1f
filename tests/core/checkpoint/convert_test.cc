#include "core/checkpoint/convert.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/base/rng.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

TEST_CASE("Every bf16 and f16 pattern reads as ToFloat has it, and comes back") {
  std::vector<uint16_t> in(65536), back(65536);
  std::vector<float> out(65536);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i);
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    REQUIRE(ConvertElements(dtype, in.data(), DType::kF32, out.data(), 65536) == 65536);
    REQUIRE(ConvertElements(DType::kF32, out.data(), dtype, back.data(), 65536) == 65536);
    int num_wrong = 0;
    for (size_t i = 0; i < in.size(); ++i) {
      const float want = dtype == DType::kBF16 ? ToFloat(BFloat16{in[i]}) : ToFloat(Float16{in[i]});
      if (std::isnan(want)) {
        if (!std::isnan(out[i])) ++num_wrong;
      } else if (out[i] != want || std::signbit(out[i]) != std::signbit(want) || back[i] != in[i]) {
        ++num_wrong;
      }
    }
    CHECK(num_wrong == 0);
  }
}

TEST_CASE("Singles round as ToBFloat16 and ToFloat16 do") {
  constexpr int64_t kCount = 100003;  // odd: the vector loops leave a rest
  std::vector<float> in(kCount);
  for (int64_t i = 0; i < kCount; ++i) {
    const uint32_t bits = Philox({static_cast<uint32_t>(i), 0, 0, 0}, {1, 2})[0];
    std::memcpy(&in[i], &bits, sizeof bits);
    if (i % 2 == 1) in[i] = std::ldexp(static_cast<float>(bits), -40);  // the range of f16
  }
  in[0] = std::numeric_limits<float>::max();
  in[1] = 65520.0f;
  in[2] = 65519.9f;
  std::vector<uint16_t> out(kCount);
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    ConvertElements(DType::kF32, in.data(), dtype, out.data(), kCount);
    int64_t num_wrong = 0;
    for (int64_t i = 0; i < kCount; ++i) {
      const bool is_bf16 = dtype == DType::kBF16;
      const uint16_t want = is_bf16 ? ToBFloat16(in[i]).bits : ToFloat16(in[i]).bits;
      const float got = is_bf16 ? ToFloat(BFloat16{out[i]}) : ToFloat(Float16{out[i]});
      if (std::isnan(in[i]) ? !std::isnan(got) : out[i] != want) ++num_wrong;
    }
    CHECK(num_wrong == 0);
  }
}

TEST_CASE("Doubles round once on their way to 16 bits") {
  // Just above the middle of two bf16 numbers: through a single it would look like the middle, and
  // go to the even one below.
  const double above = 1.0 + 0x1p-8 + 0x1p-40, middle = 1.0 + 0x1p-8, below = above - 0x1p-39;
  const std::vector<double> in = {
      above,  middle, below, -above, 1e300, -1e300, std::numeric_limits<double>::quiet_NaN(),
      1e-300, 0.1};
  std::vector<BFloat16> out(in.size());
  ConvertElements(DType::kF64, in.data(), DType::kBF16, out.data(), in.size());
  CHECK(ToFloat(out[0]) == 1.0f + 0x1p-7f);
  CHECK(ToFloat(out[1]) == 1.0f);
  CHECK(ToFloat(out[2]) == 1.0f);
  CHECK(ToFloat(out[3]) == -1.0f - 0x1p-7f);
  CHECK(std::isinf(ToFloat(out[4])));
  CHECK(ToFloat(out[5]) == -std::numeric_limits<float>::infinity());
  CHECK(std::isnan(ToFloat(out[6])));
  CHECK(ToFloat(out[7]) == 0.0f);
  CHECK(out[8].bits == ToBFloat16(0.1f).bits);
}

TEST_CASE("Doubles stay doubles, and singles become exact ones") {
  const std::vector<double> in = {0.1, -1e300, 5e-324};
  std::vector<double> out(3);
  ConvertElements(DType::kF64, in.data(), DType::kF64, out.data(), 3);
  CHECK(in == out);
  const std::vector<float> singles = {0.1f, 3e38f, 1e-45f};
  ConvertElements(DType::kF32, singles.data(), DType::kF64, out.data(), 3);
  for (int i = 0; i < 3; ++i) CHECK(out[i] == static_cast<double>(singles[i]));
}

TEST_CASE("Integers are exact or refused") {
  const std::vector<int64_t> in = {-100, 2147483647, -2147483648LL, 2147483648LL, 1};
  std::vector<int32_t> out(5, 7);
  CHECK(ConvertElements(DType::kI64, in.data(), DType::kI32, out.data(), 5) == 3);
  CHECK(out == std::vector<int32_t>{-100, 2147483647, -2147483647 - 1, 7, 7});
  const std::vector<int32_t> small = {255, 256};
  uint8_t bytes[2];
  CHECK(ConvertElements(DType::kI32, small.data(), DType::kU8, bytes, 2) == 1);
  CHECK(bytes[0] == 255);
  int64_t wide[1];
  CHECK(ConvertElements(DType::kU8, bytes, DType::kI64, wide, 1) == 1);
  CHECK(wide[0] == 255);
  CHECK_FALSE(IsConvertible(DType::kI64, DType::kF32));
  CHECK_FALSE(IsConvertible(DType::kBF16, DType::kI32));
}

}  // namespace
}  // namespace omnitrain
