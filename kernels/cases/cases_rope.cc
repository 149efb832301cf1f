#include <cmath>

#include "kernels/cases/op_groups.h"
#include "kernels/rope/rope.h"

namespace omnitrain {
namespace {

OpCase RopeCase(const std::string& label, int64_t rows, int64_t heads, int64_t head_dim,
                int64_t pad) {
  const Shape shape = {rows, heads, head_dim}, table = {rows, head_dim / 2};
  std::vector<double> cosines, sines;
  for (int64_t i = 0; i < table.num_elements(); ++i) {
    cosines.push_back(static_cast<float>(std::cos(0.1 * static_cast<double>(i))));
    sines.push_back(static_cast<float>(std::sin(0.1 * static_cast<double>(i))));
  }
  OpCase c;
  c.op = "rope";
  c.label = label;
  c.Add(Input("cos", table, Fill::List(cosines)).Type(OperandType::kMainGrad).Moves(1, 1));
  c.Add(Input("sin", table, Fill::List(sines)).Type(OperandType::kMainGrad).Moves(1, 1));
  c.Add(InOut("x", shape).Pad(pad).Seed("dx").Grad("dx").Moves(2, 0));
  c.Add(GradOut("dx", shape, true).Pad(pad).Moves(0, 2));
  c.forward = [](Context& ctx, const CaseRun& t) {
    ApplyRope(ctx, t["cos"], t["sin"], RopeDirection::kForward, t["x"]);
  };
  c.backward = [](Context& ctx, const CaseRun& t) {
    ApplyRope(ctx, t["cos"], t["sin"], RopeDirection::kBackward, t["dx"]);
  };
  c.forward_flops = c.backward_flops = 3 * static_cast<double>(shape.num_elements());
  return c;
}

}  // namespace

void AddRopeCases(std::vector<OpCase>* cases) {
  cases->push_back(RopeCase("T=1 H=1 K=2", 1, 1, 2, 0));
  cases->push_back(RopeCase("T=0 H=2 K=8", 0, 2, 8, 0));
  cases->push_back(RopeCase("T=7 H=3 K=10 strided", 7, 3, 10, 20));
  cases->push_back(RopeCase("T=33 H=2 K=128", 33, 2, 128, 0));
  for (const int64_t head_dim : {64, 128}) {
    cases->push_back(RopeCase(fmt::format("T=2048 H=4 K={}", head_dim), 2048, 4, head_dim, 0));
    cases->back().bench_on = BenchOn::kCpu;
  }
  cases->push_back(RopeCase("T=8192 H=14 K=128", 8192, 14, 128, 0));
  cases->back().bench_on = BenchOn::kGpu;
  cases->push_back(RopeCase("T=16384 H=32 K=80", 16384, 32, 80, 0));
  cases->back().bench_on = BenchOn::kGpu;
}

}  // namespace omnitrain
