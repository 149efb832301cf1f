#include "kernels/common/simd_math.h"

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/catch.h"

namespace omnitrain {
namespace {

template <typename T>
constexpr T kInf = std::numeric_limits<T>::infinity();
template <typename T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

template <typename T>
double Ulps(T got, long double want) {
  const T rounded = static_cast<T>(want);
  const T next = std::nextafter(rounded, kInf<T>);
  return static_cast<double>(std::fabs((static_cast<long double>(got) - want) /
                                       (static_cast<long double>(next) - rounded)));
}

template <typename T, typename F>
double WorstUlps(T low, T high, int count, F f) {
  double worst = 0;
  for (int i = 0; i <= count; ++i) {
    const T x = low + (high - low) * (static_cast<T>(i) / static_cast<T>(count));
    const double ulps = Ulps(f(x), std::exp(static_cast<long double>(x)));
    if (!(ulps <= worst)) worst = ulps;
  }
  return worst;
}

TEST_CASE("ExpFast is good to an ulp over the whole range") {
  const auto exp_f32 = [](float x) { return ExpFast(x); };
  const auto exp_f64 = [](double x) { return ExpFast(x); };
  CHECK(WorstUlps(-103.0f, 88.72f, 400001, exp_f32) <= 1.1);
  CHECK(WorstUlps(-1.0f, 1.0f, 400001, exp_f32) <= 1.1);
  CHECK(WorstUlps(-745.0, 709.78, 400001, exp_f64) <= 1.0);
  CHECK(WorstUlps(-1.0, 1.0, 400001, exp_f64) <= 1.0);
}

TEST_CASE("ExpSoftmax is good to an ulp down to the smallest normal number") {
  CHECK(WorstUlps(-87.3f, 1.0f, 400001, [](float x) { return ExpSoftmax(x); }) <= 1.1);
  CHECK(WorstUlps(-708.3, 1.0, 400001, [](double x) { return ExpSoftmax(x); }) <= 1.0);
}

TEMPLATE_TEST_CASE("exponentials at the edges", "", float, double) {
  using T = TestType;
  CHECK(ExpFast(T(0)) == T(1));
  CHECK(ExpFast(-kInf<T>) == T(0));
  CHECK(ExpFast(kInf<T>) == kInf<T>);
  CHECK(ExpFast(T(1e30)) == kInf<T>);
  CHECK(ExpFast(T(-1e30)) == T(0));
  CHECK(std::isnan(ExpFast(kNaN<T>)));
  CHECK(ExpSoftmax(T(0)) == T(1));
  CHECK(ExpSoftmax(-kInf<T>) == T(0));
  CHECK(ExpSoftmax(T(-1e30)) == T(0));
  CHECK(std::isnan(ExpSoftmax(kNaN<T>)));
}

TEMPLATE_TEST_CASE("vectors give the bits of scalars", "", float, double) {
  using T = TestType;
  using V = typename SimdVector<T>::Type;
  constexpr int kLanes = sizeof(V) / sizeof(T);
  for (int i = 0; i < 1000; ++i) {
    V x;
    for (int j = 0; j < kLanes; ++j) x[j] = T(-120) + T(0.0261) * T(i * kLanes + j);
    const V fast = ExpFast(x), softmax = ExpSoftmax(x);
    for (int j = 0; j < kLanes; ++j) {
      REQUIRE(fast[j] == ExpFast(T(x[j])));
      REQUIRE(softmax[j] == ExpSoftmax(T(x[j])));
    }
  }
}

}  // namespace
}  // namespace omnitrain
