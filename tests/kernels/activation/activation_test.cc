#include "kernels/activation/activation.h"

#include <cmath>

#include "kernels/common/normal_cdf.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

constexpr Activation kAll[] = {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf,
                               Activation::kQuickGelu};

long double Sigmoid(long double z) { return 1 / (1 + std::exp(-z)); }

long double Value(Activation act, long double x) {
  constexpr long double kPi = 3.14159265358979323846L;
  switch (act) {
    case Activation::kSilu:
      return x * Sigmoid(x);
    case Activation::kGeluTanh:  // 1 + tanh(u) = 2 sigmoid(2u), which does not cancel
      return x * Sigmoid(2 * std::sqrt(2 / kPi) * (x + 0.044715L * x * x * x));
    case Activation::kGeluErf:
      return 0.5L * x * std::erfc(-x / std::sqrt(2.0L));
    case Activation::kQuickGelu:
      return x * Sigmoid(1.702L * x);
  }
  return 0;
}

/// Both tails, where results are tiny, and the middle.
Array Inputs(DType dtype) {
  Array x(dtype, {1, 4001});
  for (int64_t i = 0; i < 4001; ++i) {
    x.at(i, static_cast<float>(static_cast<double>(i - 2000) / 200.0));
  }
  return x;
}

TEST_CASE("Activations agree with their definitions over both tails") {
  CpuContext cpu;
  for (const Activation act : kAll) {
    const Array x64 = Inputs(DType::kF64), x32 = Inputs(DType::kF32);
    Array y64(DType::kF64, {1, 4001}), y32(DType::kF32, {1, 4001});
    ActivationForward(cpu.ctx, act, *x64, *y64);
    ActivationForward(cpu.ctx, act, *x32, *y32);
    std::vector<double> want;
    for (int64_t i = 0; i < 4001; ++i) want.push_back(static_cast<double>(Value(act, x64.at(i))));
    INFO("activation " << static_cast<int>(act));
    // In the tails the rounding of an exponent z costs z ulp: |x| <= 10 gives z <= 90.
    CHECK(Compare(y64.Values(), want, {2e-16, 2e-14}));
    CHECK(Compare(y32.Values(), want, {1.2e-7, 1e-5}));
  }
}

TEST_CASE("The f32 normal distribution is good to a few ulp, also where it is tiny") {
  double worst = 0;
  for (float x = -9.0f; x <= 9.0f; x += 0.00037f) {
    const double want = 0.5 * std::erfc(-static_cast<double>(x) * M_SQRT1_2);
    worst = std::max(worst, std::fabs(static_cast<double>(NormalAt(x).cdf) - want) / want);
    const double density = std::exp(-0.5 * static_cast<double>(x) * x) / std::sqrt(2 * M_PI);
    worst =
        std::max(worst, std::fabs(static_cast<double>(NormalAt(x).density) - density) / density);
  }
  INFO("worst relative error " << worst);
  CHECK(worst <= 4 * 0x1p-23);
  CHECK(NormalAt(-1e30f).cdf == 0);
  CHECK(NormalAt(1e30f).cdf == 1);
  CHECK(std::isnan(NormalAt(std::nanf("")).cdf));
}

TEST_CASE("Activations let NaN through, and reach their limits without overflow") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const Activation act : kAll) {
      Array x(dtype, {1, 9}), y(dtype, {1, 9}), dx(dtype, {1, 9});
      x.SetValues({std::nan(""), 1e4, -1e4, 300, -300, 0, 1, -1, 2});
      const Array dy = Array::Filled(dtype, {1, 9}, 1);
      ActivationForward(cpu.ctx, act, *x, *y);
      ActivationBackward(cpu.ctx, act, *dy, *x, *dx);
      INFO(DTypeName(dtype) << " activation " << static_cast<int>(act));
      CHECK(std::isnan(y.at(0)));
      CHECK(std::isnan(dx.at(0)));
      CHECK(y.at(1) == 1e4);
      CHECK(dx.at(1) == 1);
      CHECK(y.at(2) == 0);
      CHECK(dx.at(2) == 0);
      CHECK(y.at(3) == 300);
      CHECK(std::fabs(y.at(4)) < 1e-30);
      CHECK(y.at(5) == 0);
      CHECK(dx.at(5) == 0.5);
    }
  }
}

TEST_CASE("Activations in place give the bits of out of place") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const Activation act : kAll) {
      const Array x = Array::Random(dtype, {7, 37}, 1, 3), dy = Array::Random(dtype, {7, 37}, 2, 3);
      Array y(dtype, {7, 37}, 3), dx(dtype, {7, 37}, 3), in_place = x, d_in_place = dy;
      ActivationForward(cpu.ctx, act, *x, *y);
      ActivationForward(cpu.ctx, act, *in_place, *in_place);
      CHECK(in_place.Values() == y.Values());
      ActivationBackward(cpu.ctx, act, *dy, *x, *dx);
      ActivationBackward(cpu.ctx, act, *d_in_place, *x, *d_in_place);
      CHECK(d_in_place.Values() == dx.Values());

      const Array gate_up = Array::Random(dtype, {7, 74}, 3);
      Array d(dtype, {7, 74}), gated_in_place = gate_up;
      GatedActivationBackward(cpu.ctx, act, *dy, *gate_up, *d);
      GatedActivationBackward(cpu.ctx, act, *dy, *gated_in_place, *gated_in_place);
      CHECK(gated_in_place == d);
    }
  }
}

TEST_CASE("GatedActivationForward is act(gate) up") {
  CpuContext cpu;
  const Array gate_up = Array::Random(DType::kF64, {5, 26}, 1, 2);
  Array y(DType::kF64, {5, 13});
  GatedActivationForward(cpu.ctx, Activation::kSilu, *gate_up, *y);
  std::vector<double> want;
  for (int64_t i = 0; i < 65; ++i) {
    const int64_t gate = i / 13 * 26 + i % 13;
    want.push_back(static_cast<double>(Value(Activation::kSilu, gate_up.at(gate))) *
                   gate_up.at(gate + 13));
  }
  CHECK(Compare(y.Values(), want, {0, 2e-15}));
}

}  // namespace
}  // namespace omnitrain
