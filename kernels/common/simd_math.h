#pragma once

#include <cstdint>
#include <cstring>

namespace omnitrain {

// Elementary functions without branches or table look-ups, for the inner loops of CPU kernels. V is
// float or double (loops under `#pragma omp simd` vectorise them), or one of the short vectors
// below, whose lanes are independent: a lane gives the same bits as the scalar.

using Float8 = float __attribute__((vector_size(32)));
using Double4 = double __attribute__((vector_size(32)));

template <typename V>
struct SimdTraits;
template <>
struct SimdTraits<float> {
  using Scalar = float;
  using Bits = int32_t;
};
template <>
struct SimdTraits<Float8> {
  using Scalar = float;
  using Bits = int32_t __attribute__((vector_size(32)));
};
template <>
struct SimdTraits<double> {
  using Scalar = double;
  using Bits = int64_t;
};
template <>
struct SimdTraits<Double4> {
  using Scalar = double;
  using Bits = int64_t __attribute__((vector_size(32)));
};

/// The short vector that fills one AVX2 register.
template <typename T>
struct SimdVector;
template <>
struct SimdVector<float> {
  using Type = Float8;
};
template <>
struct SimdVector<double> {
  using Type = Double4;
};

namespace simd_internal {

template <typename T>
struct ExpConstants;

// kLn2Hi has trailing zero bits, so that n * kLn2Hi is exact (Cody & Waite 1980, chapter 6).
// kShift = 1.5 * 2^(mantissa bits): adding it rounds to the nearest integer and leaves that integer
// in the low bits of the sum.
template <>
struct ExpConstants<float> {
  static constexpr float kLog2E = 1.44269504088896341f;
  static constexpr float kLn2Hi = 0.693359375f, kLn2Lo = -2.12194440054690583e-4f;
  static constexpr float kShift = 12582912.0f;
  static constexpr float kLowest = -104.0f, kHighest = 89.0f, kFlush = -88.0f;
  static constexpr int kMantissaBits = 23;
  static constexpr int32_t kOneBits = 0x3f800000;
};
template <>
struct ExpConstants<double> {
  static constexpr double kLog2E = 1.44269504088896340736;
  static constexpr double kLn2Hi = 6.93145751953125e-1, kLn2Lo = 1.42860682030941723212e-6;
  static constexpr double kShift = 6755399441055744.0;
  static constexpr double kLowest = -746.0, kHighest = 710.0, kFlush = -709.0;
  static constexpr int kMantissaBits = 52;
  static constexpr int64_t kOneBits = 0x3ff0000000000000;
};

// (exp(r) - 1 - r) / r^2 interpolated at the Chebyshev nodes of |r| <= 1.01 ln(2) / 2; the relative
// error of exp is 1.1e-8 (f32) and 2.6e-19 (f64), before rounding.
template <typename V>
inline V ExpPolynomial(V r, float) {
  V p = 0.001392692661402190648f * r + 0.0083637738744055734983f;
  p = p * r + 0.041666550110305124444f;
  p = p * r + 0.16666573381900846023f;
  p = p * r + 0.5f;
  return (p * r) * r + r + 1.0f;
}
template <typename V>
inline V ExpPolynomial(V r, double) {
  V p = 2.0915442297780115216e-9 * r + 2.5106274733573294687e-8;
  p = p * r + 2.7557271810219799569e-7;
  p = p * r + 2.7557252833516909748e-6;
  p = p * r + 2.4801587327007186731e-5;
  p = p * r + 1.9841269876864354929e-4;
  p = p * r + 1.3888888888883326674e-3;
  p = p * r + 8.3333333333255446996e-3;
  p = p * r + 4.1666666666666670074e-2;
  p = p * r + 1.6666666666666671438e-1;
  p = p * r + 0.5;
  return (p * r) * r + r + 1.0;
}

/// 2^n from kShift + n, for n that a normal exponent (or the zeros and infinity at its ends) holds.
template <typename V>
inline V PowerOfTwo(V shifted) {
  using Bits = typename SimdTraits<V>::Bits;
  using C = ExpConstants<typename SimdTraits<V>::Scalar>;
  Bits bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = static_cast<Bits>((bits << C::kMantissaBits) + C::kOneBits);
  V power;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

}  // namespace simd_internal

/// exp(x) within 1.1 ulp (f64: 1.0; subnormal results included): -inf gives 0, large x inf, NaN
/// NaN.
template <typename V>
inline V ExpFast(V x) {
  using T = typename SimdTraits<V>::Scalar;
  using C = simd_internal::ExpConstants<T>;
  const V lowest = V{} + C::kLowest, highest = V{} + C::kHighest;
  x = x < lowest ? lowest : x;
  x = x > highest ? highest : x;
  const V n = (x * C::kLog2E + C::kShift) - C::kShift;
  const V r = (x - n * C::kLn2Hi) - n * C::kLn2Lo;
  // Two factors, since one exponent cannot hold 2^n near overflow nor for subnormal results.
  const V half = n * T(0.5) + C::kShift;
  const V rest = (n - (half - C::kShift)) + C::kShift;
  return simd_internal::ExpPolynomial(r, T{}) * simd_internal::PowerOfTwo(half) *
         simd_internal::PowerOfTwo(rest);
}

/// exp(x) for a softmax, x <= 88 (f32) or 709 (f64): as ExpFast, a quarter cheaper, with results
/// below the smallest normal number flushed to 0.
template <typename V>
inline V ExpSoftmax(V x) {
  using T = typename SimdTraits<V>::Scalar;
  using C = simd_internal::ExpConstants<T>;
  const V flush = V{} + C::kFlush;
  x = x < flush ? flush : x;
  const V shifted = x * C::kLog2E + C::kShift;
  const V n = shifted - C::kShift;
  const V r = (x - n * C::kLn2Hi) - n * C::kLn2Lo;
  return simd_internal::ExpPolynomial(r, T{}) * simd_internal::PowerOfTwo(shifted);
}

}  // namespace omnitrain
