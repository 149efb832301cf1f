#include <cmath>
#include <limits>

#include "kernels/moe/moe_balance.h"
#include "kernels/moe/moe_permute.h"
#include "kernels/moe/moe_route.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

using V = std::vector<double>;

struct Routed {
  Array probs, ids, weights;
};

Routed Route(Context& ctx, const Array& logits, int64_t top_k, MoeWeights kind) {
  const int64_t num_tokens = (*logits).shape[0], num_experts = (*logits).shape[1];
  const DType dtype = (*logits).dtype;
  Routed r{Array(dtype, {num_tokens, num_experts}), Array(DType::kI32, {num_tokens, top_k}),
           Array(dtype, {num_tokens, top_k})};
  MoeRouteForward(ctx, *logits, kind, *r.probs, *r.ids, *r.weights);
  return r;
}

Array Rows(DType dtype, Shape shape, const V& values, int64_t gap = 0) {
  Array a(dtype, shape, gap);
  a.SetValues(values);
  return a;
}

TEST_CASE("The router takes the likeliest experts, likeliest first") {
  CpuContext cpu;
  // exp gives 1, 2, 4, 8, of 15 in all.
  const double l = std::log(2.0);
  const Array logits = Rows(DType::kF64, {2, 4}, {l, 3 * l, 0, 2 * l, 2 * l, l, 3 * l, 0}, 3);
  for (const MoeWeights kind : {MoeWeights::kPlain, MoeWeights::kNormalized}) {
    const Routed r = Route(cpu.ctx, logits, 2, kind);
    CHECK(r.ids.Values() == V{1, 3, 2, 0});
    const double sum = kind == MoeWeights::kPlain ? 15 : 12;
    CHECK(Compare(r.weights.Values(), V{8 / sum, 4 / sum, 8 / sum, 4 / sum}, {1e-15}));
    CHECK(Compare(r.probs.Values(),
                  V{2 / 15., 8 / 15., 1 / 15., 4 / 15., 4 / 15., 2 / 15., 8 / 15., 1 / 15.},
                  {1e-15}));
  }
}

TEST_CASE("Of equal probabilities the lower id comes first") {
  CpuContext cpu;
  const Array logits = Rows(DType::kF32, {3, 5}, {1, 1, 1, 1, 1, 0, 2, 1, 2, 1, 7, 7, 9, 7, 7});
  CHECK(Route(cpu.ctx, logits, 3, MoeWeights::kNormalized).ids.Values() ==
        V{0, 1, 2, 1, 3, 2, 2, 0, 1});
}

TEST_CASE("Logits of any size route; -inf never before another; NaN gives legal ids and NaN") {
  CpuContext cpu;
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const Array large = Rows(DType::kF32, {1, 3}, {1e30, -1e30, 3e38});
  CHECK(Route(cpu.ctx, large, 1, MoeWeights::kNormalized).weights.Values() == V{1});
  const Array holes = Rows(DType::kF32, {1, 4}, {-inf, 1, -inf, 1});
  const Routed r = Route(cpu.ctx, holes, 3, MoeWeights::kPlain);
  CHECK(r.ids.Values() == V{1, 3, 0});
  CHECK(r.weights.Values() == V{0.5, 0.5, 0});
  const Array broken = Rows(DType::kF32, {1, 4}, {0, nan, 2, 1});
  const Routed b = Route(cpu.ctx, broken, 3, MoeWeights::kNormalized);
  CHECK(b.ids.Values() == V{0, 1, 2});
  for (const double w : b.weights.Values()) CHECK(std::isnan(w));
}

TEST_CASE("The gradient of logits by the Jacobian of the softmax") {
  CpuContext cpu;
  constexpr int64_t kTokens = 9, kExperts = 11, kTopK = 4;
  const Array logits = Array::Random(DType::kF64, {kTokens, kExperts}, 1);
  const Array d_weights = Array::Random(DType::kF64, {kTokens, kTopK}, 2);
  const Array aux = Array::Random(DType::kF64, {kExperts}, 3);
  for (const MoeWeights kind : {MoeWeights::kPlain, MoeWeights::kNormalized}) {
    for (const bool has_aux : {false, true}) {
      const Routed r = Route(cpu.ctx, logits, kTopK, kind);
      Array d_logits(DType::kF64, {kTokens, kExperts}, 2);
      MoeRouteBackward(cpu.ctx, *r.probs, *r.ids, *r.weights, *d_weights, has_aux ? *aux : Tensor(),
                       kind, *d_logits);
      V want;
      for (int64_t t = 0; t < kTokens; ++t) {
        const auto p = [&](int64_t e) { return r.probs.at(t * kExperts + e); };
        const auto id = [&](int64_t k) { return static_cast<int64_t>(r.ids.at(t * kTopK + k)); };
        double sum = 0;
        for (int64_t k = 0; k < kTopK; ++k) sum += p(id(k));
        for (int64_t f = 0; f < kExperts; ++f) {
          const auto dp = [&](int64_t e) { return p(e) * ((e == f ? 1 : 0) - p(f)); };
          double dsum = 0, d = 0;
          for (int64_t k = 0; k < kTopK; ++k) dsum += dp(id(k));
          for (int64_t k = 0; k < kTopK; ++k) {
            d += d_weights.at(t * kTopK + k) *
                 (kind == MoeWeights::kPlain ? dp(id(k))
                                             : (dp(id(k)) * sum - p(id(k)) * dsum) / (sum * sum));
          }
          for (int64_t e = 0; has_aux && e < kExperts; ++e) d += aux.at(e) * dp(e);
          want.push_back(d);
        }
      }
      CHECK(Compare(d_logits.Values(), want, {1e-14}));
    }
  }
}

TEST_CASE("Load sums add up over micro-batches; an even load gives a loss of K") {
  CpuContext cpu;
  const Array probs = Rows(DType::kF64, {2, 4}, {0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1});
  const Array ids = Rows(DType::kI32, {2, 2}, {3, 2, 0, 1});
  Array counts = Array::Ints({0, 0, 0, 0}), sums = Array::Filled(DType::kF64, {4}, 0);
  for (int i = 0; i < 3; ++i) MoeLoadSums(cpu.ctx, *probs, *ids, *counts, *sums);
  CHECK(counts.Values() == V{3, 3, 3, 3});
  CHECK(Compare(sums.Values(), V{1.5, 1.5, 1.5, 1.5}, {1e-15}));
  Array loss = Array::Filled(DType::kF64, {1}, 10), d_probs(DType::kF64, {4});
  MoeBalanceLoss(cpu.ctx, *counts, *sums, 6, 0.5, *loss, *d_probs);
  CHECK(std::fabs(loss.at(0) - 11) < 1e-14);  // 10 + 0.5 * 2
  CHECK(Compare(d_probs.Values(), V(4, 0.5 * 4 * 3 / 36.), {1e-16}));
}

TEST_CASE("The balance loss is the one written out over one-hot slots") {
  CpuContext cpu;
  constexpr int64_t kTokens = 41, kExperts = 9, kTopK = 3;
  const Array logits = Array::Random(DType::kF64, {kTokens, kExperts}, 4, 0, 2);
  const Routed r = Route(cpu.ctx, logits, kTopK, MoeWeights::kNormalized);
  double want = 0;
  for (int64_t k = 0; k < kTopK; ++k) {
    for (int64_t e = 0; e < kExperts; ++e) {
      double fraction = 0, mean = 0;
      for (int64_t t = 0; t < kTokens; ++t) {
        fraction += r.ids.at(t * kTopK + k) == static_cast<double>(e) ? 1. / kTokens : 0;
        mean += r.probs.at(t * kExperts + e) / kTokens;
      }
      want += kExperts * fraction * mean;
    }
  }
  Array counts = Array::Ints(std::vector<int32_t>(kExperts, 0));
  Array sums = Array::Filled(DType::kF64, {kExperts}, 0);
  Array loss = Array::Filled(DType::kF64, {1}, 0);
  MoeLoadSums(cpu.ctx, *r.probs, *r.ids, *counts, *sums);
  MoeBalanceLoss(cpu.ctx, *counts, *sums, kTokens, 1, *loss, Tensor());
  CHECK(Compare(loss.Values(), V{want}, {1e-13}));
}

TEST_CASE("No tokens: no loss, no gradient") {
  CpuContext cpu;
  const Array counts = Array::Ints({0, 0}), sums = Array::Filled(DType::kF32, {2}, 0);
  Array loss = Array::Filled(DType::kF64, {1}, 7), d_probs(DType::kF32, {2});
  MoeBalanceLoss(cpu.ctx, *counts, *sums, 0, 1, *loss, *d_probs);
  CHECK(loss.at(0) == 7);
  CHECK(d_probs.Values() == V{0, 0});
}

TEST_CASE("A plan sorts by expert, then token, then slot") {
  CpuContext cpu;
  const Array ids = Rows(DType::kI32, {4, 2}, {2, 0, 0, 3, 2, 3, 3, 2});
  Array counts = Array::Ints({9, 9, 9, 9, 9}), row_of(DType::kI32, {4, 2});
  Array token_of(DType::kI32, {8});
  MoePlan(cpu.ctx, *ids, *counts, *row_of, *token_of);
  CHECK(counts.Values() == V{2, 0, 3, 3, 0});
  CHECK(row_of.Values() == V{2, 0, 1, 5, 3, 6, 7, 4});
  CHECK(token_of.Values() == V{0, 1, 0, 2, 3, 1, 2, 3});
}

TEST_CASE("Combining adds in the order of slots") {
  CpuContext cpu;
  // In f32, (1e8 + 1) + -1e8 is 0 in this order and 1 in another.
  const Array sorted = Rows(DType::kF32, {3, 1}, {-1e8, 1, 1e8});
  const Array row_of = Rows(DType::kI32, {1, 3}, {2, 1, 0});
  const Array weights = Rows(DType::kF32, {1, 3}, {1, 1, 1});
  Array y(DType::kF32, {1, 1}), dx(DType::kF32, {1, 1});
  MoeCombineForward(cpu.ctx, *sorted, *row_of, *weights, Write::kOverwrite, *y);
  MoeGatherBackward(cpu.ctx, *sorted, *row_of, Write::kOverwrite, *dx);
  CHECK(y.Values() == V{0});
  CHECK(dx.Values() == V{0});
}

TEST_CASE("Combining by hand, and its backward in place") {
  CpuContext cpu;
  Array sorted = Rows(DType::kF32, {4, 2}, {1, 2, 3, 4, 5, 6, 7, 8}, 1);
  const Array row_of = Rows(DType::kI32, {2, 2}, {3, 0, 1, 2});
  const Array weights = Rows(DType::kF32, {2, 2}, {0.5, 0.25, 2, -1});
  Array y = Array::Filled(DType::kF32, {2, 2}, 100, 3);
  MoeCombineForward(cpu.ctx, *sorted, *row_of, *weights, Write::kAccumulate, *y);
  CHECK(y.Values() == V{103.75, 104.5, 101, 102});
  MoeCombineForward(cpu.ctx, *sorted, *row_of, *weights, Write::kOverwrite, *y);
  CHECK(y.Values() == V{3.75, 4.5, 1, 2});
  const Array dy = Rows(DType::kF32, {2, 2}, {8, 16, 1, -2});
  Array apart(DType::kF32, {4, 2}), d_weights(DType::kF32, {2, 2});
  MoeCombineBackward(cpu.ctx, *sorted, *row_of, *weights, *dy, *apart, *d_weights);
  CHECK(apart.Values() == V{2, 4, 2, -4, -1, 2, 4, 8});
  CHECK(d_weights.Values() == V{184, 40, -5, -7});
  Array again(DType::kF32, {2, 2});
  MoeCombineBackward(cpu.ctx, *sorted, *row_of, *weights, *dy, *sorted, *again);
  CHECK(sorted.Values() == apart.Values());
  CHECK(again.Values() == d_weights.Values());
}

TEST_CASE("Indices and shapes out of range are refused by name") {
  CpuContext cpu;
  Array counts = Array::Ints({0, 0}), row_of(DType::kI32, {1, 2}), token_of(DType::kI32, {2});
  CHECK_THROWS_WITH(
      MoePlan(cpu.ctx, *Rows(DType::kI32, {1, 2}, {0, 2}), *counts, *row_of, *token_of),
      Catch::Contains("moe_plan: index 2 at 1 of 2"));
  const Array sorted = Array::Filled(DType::kF32, {2, 3}, 1);
  Array y(DType::kF32, {1, 3});
  CHECK_THROWS_WITH(MoeGatherBackward(cpu.ctx, *sorted, *Rows(DType::kI32, {1, 2}, {0, -1}),
                                      Write::kOverwrite, *y),
                    Catch::Contains("index -1 at 1 of 2"));
  const Array logits = Array::Filled(DType::kF32, {1, 2}, 1);
  CHECK_THROWS_WITH(Route(cpu.ctx, logits, 3, MoeWeights::kPlain),
                    Catch::Contains("the top 3 of 2 experts"));
}

}  // namespace
}  // namespace omnitrain
