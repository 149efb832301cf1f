#include <cmath>

#include "kernels/activation/activation.h"
#include "kernels/moe/grouped_linear.h"
#include "kernels/moe/moe_permute.h"
#include "kernels/moe/moe_route.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

using V = std::vector<double>;
using Offsets = std::vector<int64_t>;

TEST_CASE("Grouped products row by row, and empty groups left alone") {
  CpuContext cpu;
  const Offsets offsets = {0, 3, 3, 10, 11};
  constexpr int64_t kRows = 11, kExperts = 4, kIn = 6, kOut = 5;
  const Array x = Array::Random(DType::kF64, {kRows, kIn}, 1, 2);
  const Array w = Array::Random(DType::kF64, {kExperts, kOut, kIn}, 2);
  const Array dy = Array::Random(DType::kF64, {kRows, kOut}, 3, 1);
  const Array dw_before = Array::Random(DType::kF64, {kExperts, kOut, kIn}, 4);
  V y_want(kRows * kOut), dx_want(kRows * kIn), dw_want = dw_before.Values();
  for (int64_t r = 0; r < kRows; ++r) {
    const int64_t e = r < 3 ? 0 : r < 10 ? 2 : 3;
    for (int64_t o = 0; o < kOut; ++o) {
      for (int64_t i = 0; i < kIn; ++i) {
        const int64_t at = (e * kOut + o) * kIn + i;
        y_want[static_cast<size_t>(r * kOut + o)] += x.at(r * kIn + i) * w.at(at);
        dx_want[static_cast<size_t>(r * kIn + i)] += dy.at(r * kOut + o) * w.at(at);
        dw_want[static_cast<size_t>(at)] += dy.at(r * kOut + o) * x.at(r * kIn + i);
      }
    }
  }
  Array y(DType::kF64, {kRows, kOut}), dx(DType::kF64, {kRows, kIn}), dw = dw_before;
  GroupedLinearForward(cpu.ctx, *x, *w, offsets, Write::kOverwrite, *y);
  GroupedLinearInputGrad(cpu.ctx, *dy, *w, offsets, Write::kOverwrite, *dx);
  GroupedLinearWeightGrad(cpu.ctx, *x, *dy, offsets, *dw);
  CHECK(Compare(y.Values(), y_want, {1e-13}));
  CHECK(Compare(dx.Values(), dx_want, {1e-13}));
  CHECK(Compare(dw.Values(), dw_want, {1e-13}));
  for (int64_t i = kOut * kIn; i < 2 * kOut * kIn; ++i) CHECK(dw.at(i) == dw_before.at(i));
}

TEST_CASE("Offsets that do not cover the rows are refused") {
  CpuContext cpu;
  const Array x = Array::Filled(DType::kF32, {4, 2}, 1);
  const Array w = Array::Filled(DType::kF32, {2, 3, 2}, 1);
  Array y(DType::kF32, {4, 3});
  const auto run = [&](const Offsets& offsets) {
    GroupedLinearForward(cpu.ctx, *x, *w, offsets, Write::kOverwrite, *y);
  };
  CHECK_THROWS_WITH(run({0, 4}), Catch::Contains("2 offsets of 2 experts"));
  CHECK_THROWS_WITH(run({0, 2, 3}), Catch::Contains("offsets from 0 to 3 of 4 rows"));
  CHECK_THROWS_WITH(run({0, 5, 4}), Catch::Contains("offset 5 of expert 1 is followed by 4"));
}

constexpr int64_t kTokens = 17, kExperts = 6, kTopK = 3, kWidth = 8, kFfn = 5;

struct Parameters {
  Array router = Array::Random(DType::kF64, {kExperts, kWidth}, 5);
  Array gate_up = Array::Random(DType::kF64, {kExperts, 2 * kFfn, kWidth}, 6, 0, 0.5);
  Array down = Array::Random(DType::kF64, {kExperts, kWidth, kFfn}, 7, 0, 0.5);
};

double Dot(const Array& a, int64_t a_row, const Array& b, int64_t b_row, int64_t width) {
  double sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += a.at(a_row * width + i) * b.at(b_row * width + i);
  return sum;
}

/// y of the block, token by token and expert by expert, from the definition: an expert counts when
/// fewer than K others are likelier.
V NaiveBlock(const Array& x, const Parameters& p) {
  V y(kTokens * kWidth);
  for (int64_t t = 0; t < kTokens; ++t) {
    V likelihood;
    for (int64_t e = 0; e < kExperts; ++e) {
      likelihood.push_back(std::exp(Dot(x, t, p.router, e, kWidth)));
    }
    double chosen = 0;
    const auto is_chosen = [&](size_t e) {
      int64_t num_above = 0;
      for (const double other : likelihood) num_above += other > likelihood[e];
      return num_above < kTopK;
    };
    for (size_t e = 0; e < kExperts; ++e) chosen += is_chosen(e) ? likelihood[e] : 0;
    for (int64_t e = 0; e < kExperts; ++e) {
      const auto at = static_cast<size_t>(e);
      if (!is_chosen(at)) continue;
      for (int64_t f = 0; f < kFfn; ++f) {
        const double gate = Dot(x, t, p.gate_up, e * 2 * kFfn + f, kWidth);
        const double up = Dot(x, t, p.gate_up, e * 2 * kFfn + kFfn + f, kWidth);
        const double h = gate / (1 + std::exp(-gate)) * up;
        for (int64_t d = 0; d < kWidth; ++d) {
          y[static_cast<size_t>(t * kWidth + d)] +=
              likelihood[at] / chosen * p.down.at((e * kWidth + d) * kFfn + f) * h;
        }
      }
    }
  }
  return y;
}

/// The block through the ops, with what its backward needs.
struct Block {
  static constexpr int64_t kRows = kTokens * kTopK;
  static constexpr DType kF64 = DType::kF64, kI32 = DType::kI32;
  Array logits{kF64, {kTokens, kExperts}}, probs{kF64, {kTokens, kExperts}};
  Array ids{kI32, {kTokens, kTopK}}, weights{kF64, {kTokens, kTopK}};
  Array counts{kI32, {kExperts}}, row_of{kI32, {kTokens, kTopK}}, token_of{kI32, {kRows}};
  Array rows{kF64, {kRows, kWidth}}, gate_up{kF64, {kRows, 2 * kFfn}}, h{kF64, {kRows, kFfn}};
  Array out{kF64, {kRows, kWidth}}, y{kF64, {kTokens, kWidth}};
  Offsets offsets = {0};

  void Forward(Context& ctx, const Array& x, const Parameters& p) {
    constexpr Write kSet = Write::kOverwrite;
    GroupedLinearForward(ctx, *x, (*p.router).View({1, kExperts, kWidth}), {0, kTokens}, kSet,
                         *logits);
    MoeRouteForward(ctx, *logits, MoeWeights::kNormalized, *probs, *ids, *weights);
    MoePlan(ctx, *ids, *counts, *row_of, *token_of);
    offsets = {0};
    for (int64_t e = 0; e < kExperts; ++e) {
      offsets.push_back(offsets.back() + static_cast<int64_t>(counts.at(e)));
    }
    MoeGatherForward(ctx, *x, *token_of, *rows);
    GroupedLinearForward(ctx, *rows, *p.gate_up, offsets, kSet, *gate_up);
    GatedActivationForward(ctx, Activation::kSilu, *gate_up, *h);
    GroupedLinearForward(ctx, *h, *p.down, offsets, kSet, *out);
    MoeCombineForward(ctx, *out, *row_of, *weights, kSet, *y);
  }

  void Backward(Context& ctx, const Array& x, const Parameters& p, const Array& dy, Array* dx,
                Parameters* dp) {
    constexpr Write kSet = Write::kOverwrite;
    Array d_weights(kF64, {kTokens, kTopK}), d_logits(kF64, {kTokens, kExperts});
    MoeCombineBackward(ctx, *out, *row_of, *weights, *dy, *out, *d_weights);
    Array dh(kF64, {kRows, kFfn}), d_rows(kF64, {kRows, kWidth});
    GroupedLinearWeightGrad(ctx, *h, *out, offsets, *dp->down);
    GroupedLinearInputGrad(ctx, *out, *p.down, offsets, kSet, *dh);
    GatedActivationBackward(ctx, Activation::kSilu, *dh, *gate_up, *gate_up);
    GroupedLinearWeightGrad(ctx, *rows, *gate_up, offsets, *dp->gate_up);
    GroupedLinearInputGrad(ctx, *gate_up, *p.gate_up, offsets, kSet, *d_rows);
    MoeGatherBackward(ctx, *d_rows, *row_of, kSet, **dx);
    MoeRouteBackward(ctx, *probs, *ids, *weights, *d_weights, Tensor(), MoeWeights::kNormalized,
                     *d_logits);
    const Shape router = {1, kExperts, kWidth};
    GroupedLinearWeightGrad(ctx, *x, *d_logits, {0, kTokens}, (*dp->router).View(router));
    GroupedLinearInputGrad(ctx, *d_logits, (*p.router).View(router), {0, kTokens},
                           Write::kAccumulate, **dx);
  }
};

TEST_CASE("A whole block agrees with its definition, and its gradient with differences of it") {
  CpuContext cpu;
  Array x = Array::Random(DType::kF64, {kTokens, kWidth}, 8);
  Parameters p;
  Block block;
  block.Forward(cpu.ctx, x, p);
  CHECK(Compare(block.y.Values(), NaiveBlock(x, p), {1e-13}));

  const Array dy = Array::Random(DType::kF64, {kTokens, kWidth}, 9);
  Array dx(DType::kF64, {kTokens, kWidth});
  Parameters dp;
  for (Array* a : {&dp.router, &dp.gate_up, &dp.down}) {
    a->SetValues(V(static_cast<size_t>((**a).num_elements())));
  }
  block.Backward(cpu.ctx, x, p, dy, &dx, &dp);
  const auto check = [&](Array* input, const Array& grad) {
    V want;
    for (int64_t i = 0; i < (**input).num_elements(); ++i) {
      constexpr double kStep = 1e-6;
      const double kept = input->at(i);
      double objective[2];
      for (const int side : {0, 1}) {
        input->at(i, kept + (side ? kStep : -kStep));
        const V y = NaiveBlock(x, p);
        objective[side] = 0;
        for (size_t j = 0; j < y.size(); ++j) {
          objective[side] += y[j] * dy.at(static_cast<int64_t>(j));
        }
      }
      input->at(i, kept);
      want.push_back((objective[1] - objective[0]) / (2 * kStep));
    }
    CHECK(Compare(grad.Values(), want, {1e-7, 0, 1e-8}));
  };
  check(&x, dx);
  check(&p.router, dp.router);
  check(&p.gate_up, dp.gate_up);
  check(&p.down, dp.down);
}

}  // namespace
}  // namespace omnitrain
