#include "kernels/adamw/adamw.h"

#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

using V = std::vector<double>;

// torch 2.15: AdamW([1, -2, 0.5, 0], f64, lr=1e-2, betas=(0.9, 0.95), eps=1e-8), three steps with
// the gradients [0.1 t, -0.2, 1e-9 t, 3 - t].
struct Golden {
  double weight_decay;
  V after[3];
};
const Golden kGolden[] = {
    {0.1,
     {{0.9890000009999999, -1.9880000005, 0.4985909090909091, -0.009999999950000001},
      {0.9784311429058733, -1.9760120009995001, 0.496775763178345, -0.01938293057311566},
      {0.9680076136906267, -1.9640359894985007, 0.4945810243875212, -0.02671819157558481}}},
    {0.0,
     {{0.9900000009999999, -1.9900000005, 0.4990909090909091, -0.009999999950000001},
      {0.9804201429068733, -1.980000001, 0.4977743540874359, -0.019392930573065657},
      {0.9709750448345326, -1.9700000015, 0.4960763910597905, -0.02674757450610793}}}};
const V kFirstMoment = {0.0561, -0.05419999999999999, 5.609999999999999e-10, 0.25199999999999995};
const V kSecondMoment = {0.0068512500000000075, 0.005705000000000005, 6.851250000000008e-19,
                         0.2280000000000002};

TEST_CASE("AdamWStep gives the numbers of torch.optim.AdamW") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    const Bound bound = dtype == DType::kF64 ? Bound{1e-16, 1e-15} : Bound{1e-12, 5e-7};
    for (const Golden& golden : kGolden) {
      Array master(dtype, {4}), m = Array::Filled(dtype, {4}, 0), v = m, grad = m;
      Array param(dtype, {4});
      master.SetValues({1, -2, 0.5, 0});
      for (int t = 1; t <= 3; ++t) {
        // As a sum over 4 loss tokens, which grad_scale divides.
        grad.SetValues({0.4 * t, -0.8, 4e-9 * t, 12.0 - 4 * t});
        AdamWParams params;
        params.lr = 1e-2;
        params.weight_decay = golden.weight_decay;
        params.step = t;
        params.grad_scale = 0.25;
        AdamWStep(cpu.ctx, params, *grad, *master, *m, *v, *param);
        CHECK(Compare(master.Values(), golden.after[t - 1], bound));
        CHECK(param.Values() == master.Values());
      }
      CHECK(Compare(m.Values(), kFirstMoment, bound));
      CHECK(Compare(v.Values(), kSecondMoment, {bound.abs * 1e-16, bound.rel}));
    }
  }
}

TEST_CASE("AdamWStep refuses step 0 and lets NaN through") {
  CpuContext cpu;
  Array master = Array::Filled(DType::kF32, {2}, 1), m = Array::Filled(DType::kF32, {2}, 0), v = m;
  Array grad = Array::Filled(DType::kF32, {2}, 1);
  grad.at(1, std::numeric_limits<double>::quiet_NaN());
  AdamWParams params;
  params.lr = 0.1;
  AdamWStep(cpu.ctx, params, *grad, *master, *m, *v, *master);
  CHECK(Compare(V{master.at(0)}, V{0.9}, {1e-6}));
  CHECK(master.at(1) != master.at(1));
  params.step = 0;
  CHECK_THROWS_WITH(AdamWStep(cpu.ctx, params, *grad, *master, *m, *v, *master),
                    Catch::Contains("step 0"));
}

}  // namespace
}  // namespace omnitrain
