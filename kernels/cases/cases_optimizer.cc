#include "kernels/adamw/adamw.h"
#include "kernels/cases/op_groups.h"
#include "kernels/reduce/reduce.h"

namespace omnitrain {
namespace {

OpCase AdamWCase(int64_t size, bool has_own_param) {
  OpCase c;
  c.op = "adamw";
  c.label = fmt::format("N={}{}", size, has_own_param ? "" : " param=master");
  c.Add(Input("grad", {size})).Type(OperandType::kMainGrad).Moves(1, 0);
  c.Add(InOut("master", {size})).Type(OperandType::kMainGrad).Moves(2, 0);
  c.Add(InOut("m", {size}, Fill::Normal(0.1))).Type(OperandType::kMainGrad).Moves(2, 0);
  c.Add(InOut("v", {size}, Fill::Constant(0.5))).Type(OperandType::kMainGrad).Moves(2, 0);
  if (has_own_param) c.Add(Output("param", {size})).Moves(1, 0);
  c.forward = [has_own_param](Context& ctx, const CaseRun& t) {
    AdamWParams params;
    params.lr = 1e-2;
    params.weight_decay = 0.1;
    params.step = 7;
    params.grad_scale = 0.25;
    AdamWStep(ctx, params, t["grad"], t["master"], t["m"], t["v"],
              has_own_param ? t["param"] : t["master"]);
  };
  c.forward_flops = 15 * static_cast<double>(size);
  return c;
}

OpCase SumOfSquaresCase(int64_t size) {
  OpCase c;
  c.op = "sum_of_squares";
  c.label = fmt::format("N={}", size);
  c.Add(Input("x", {size})).Type(OperandType::kMainGrad).Moves(1, 0);
  c.Add(InOut("result", {1})).Type(OperandType::kF64);
  c.forward = [](Context& ctx, const CaseRun& t) { SumOfSquares(ctx, t["x"], t["result"]); };
  c.forward_flops = 2 * static_cast<double>(size);
  c.f32_rel_l2 = 1e-15;
  return c;
}

}  // namespace

void AddOptimizerCases(std::vector<OpCase>* cases) {
  for (const int64_t size : {0, 1, 37, 20011}) {
    cases->push_back(AdamWCase(size, true));
    cases->push_back(AdamWCase(size, false));
    cases->push_back(SumOfSquaresCase(size));
  }
  cases->push_back(AdamWCase(2048 * 768, false));
  cases->back().bench_on = BenchOn::kCpu;
  cases->push_back(SumOfSquaresCase(2048 * 768));
  cases->back().bench_on = BenchOn::kCpu;
  cases->push_back(AdamWCase(int64_t{1} << 26, false));
  cases->back().bench_on = BenchOn::kGpu;
  cases->push_back(SumOfSquaresCase(int64_t{1} << 26));
  cases->back().bench_on = BenchOn::kGpu;
}

}  // namespace omnitrain
