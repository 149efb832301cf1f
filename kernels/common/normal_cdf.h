#pragma once

#include <cmath>

#include "kernels/common/simd_math.h"

namespace omnitrain {

/// The standard normal distribution at one point: P(X <= x) and its density.
template <typename S>
struct Normal {
  S cdf, density;
};

/// f64: within 2 ulp on both tails; libm's erfc does not vectorise.
inline Normal<double> NormalAt(double x) {
  constexpr double kInvSqrt2 = 0.70710678118654752440, kInvSqrt2Pi = 0.39894228040143267794;
  return {0.5 * std::erfc(-x * kInvSqrt2), kInvSqrt2Pi * std::exp(-0.5 * x * x)};
}

/// f32, without branches: the cdf within 4 ulp on both tails (no 1 + erf cancellation), NaN gives
/// NaN. P(X <= -a) = exp(-a^2/2) q(a), q(a) = erfcx(a / sqrt(2)) / 2, where q(a) / t is a
/// polynomial in t = 1 / (1 + 0.3 a): interpolated at the Chebyshev nodes of 0 <= a <= 14.6,
/// relative error 4.4e-9 before rounding. Source of the form: Abramowitz & Stegun 1964, 7.1.26.
inline Normal<float> NormalAt(float x) {
  constexpr float kInvSqrt2Pi = 0.39894228040143267794f;
  constexpr float kLargest = 15.0f;  // exp(-a^2/2) is 0 from 14.5 on
  float a = std::fabs(x);
  a = a > kLargest ? kLargest : a;
  // a^2 in two parts: the rounding of a^2 alone would cost a^2/2 ulp of the result.
  const float square = a * a;
  const float rest = __builtin_fmaf(a, a, -square);
  const float e = ExpFast(-0.5f * square) * (1.0f - 0.5f * rest);
  const float t = 1.0f / (1.0f + 0.3f * a);
  float p = -0.02096273236167834775f;
  p = p * t + 0.11429182063678407273f;
  p = p * t - 0.23259967899113467949f;
  p = p * t + 0.19764255497183698719f;
  p = p * t - 0.084282069150581750264f;
  p = p * t + 0.098743451393891604797f;
  p = p * t + 0.077508623863255359274f;
  p = p * t + 0.11041998012557441097f;
  p = p * t + 0.11955029574333513555f;
  p = p * t + 0.11968775188825284471f;
  const float tail = e * (p * t);
  return {x > 0 ? 1.0f - tail : tail, kInvSqrt2Pi * e};
}

}  // namespace omnitrain
