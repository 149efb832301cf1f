#include "kernels/reduce/reduce.h"

#include <cmath>

#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

TEST_CASE("SumOfSquares adds in f64, to a result that is there") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const int64_t size : {0, 1, 3, 8191, 8193, 100003}) {
      const Array x = Array::Random(dtype, {size}, 1);
      long double sum = 2.5;
      for (int64_t i = 0; i < size; ++i) sum += static_cast<long double>(x.at(i)) * x.at(i);
      Array result = Array::Filled(DType::kF64, {1}, 2.5);
      SumOfSquares(cpu.ctx, *x, *result);
      INFO(DTypeName(dtype) << " " << size);
      CHECK(Compare(result.Values(), std::vector<double>{static_cast<double>(sum)}, {0, 1e-14}));
    }
  }
}

TEST_CASE("SumOfSquares neither overflows in f32 nor hides NaN") {
  CpuContext cpu;
  Array x = Array::Filled(DType::kF32, {20000}, 0x1p100);
  Array result = Array::Filled(DType::kF64, {1}, 0);
  SumOfSquares(cpu.ctx, *x, *result);
  CHECK(result.at(0) == 20000 * 0x1p200);
  x.at(19999, std::nan(""));
  SumOfSquares(cpu.ctx, *x, *result);
  CHECK(std::isnan(result.at(0)));
}

}  // namespace
}  // namespace omnitrain
