#include "kernels/activation/activation.h"
#include "kernels/cases/op_groups.h"

namespace omnitrain {
namespace {

struct NamedActivation {
  Activation act;
  const char* name;
  double flops;  // a forward element, exp as 12
};
constexpr NamedActivation kActivations[] = {{Activation::kSilu, "silu", 16},
                                            {Activation::kGeluTanh, "gelu_tanh", 21},
                                            {Activation::kGeluErf, "gelu_erf", 36},
                                            {Activation::kQuickGelu, "quick_gelu", 17}};

OpCase ActivationCase(const NamedActivation& a, int64_t rows, int64_t width, int64_t pad) {
  const Shape shape = {rows, width};
  OpCase c;
  c.op = a.name;
  c.label = fmt::format("T={} F={}{}", rows, width, pad ? " strided" : "");
  c.Add(Input("x", shape, Fill::Normal(2)).Pad(pad).Grad("dx").Moves(1, 1));
  c.Add(Output("y", shape).Pad(pad).Seed("dy").Moves(1, 0));
  c.Add(Input("dy", shape).Moves(0, 1));
  c.Add(GradOut("dx", shape, false).Pad(pad).Moves(0, 1));
  c.forward = [act = a.act](Context& ctx, const CaseRun& t) {
    ActivationForward(ctx, act, t["x"], t["y"]);
  };
  c.backward = [act = a.act](Context& ctx, const CaseRun& t) {
    ActivationBackward(ctx, act, t["dy"], t["x"], t["dx"]);
  };
  c.forward_flops = a.flops * static_cast<double>(shape.num_elements());
  c.backward_flops = c.forward_flops + 4 * static_cast<double>(shape.num_elements());
  return c;
}

OpCase GatedCase(const NamedActivation& a, int64_t rows, int64_t width, int64_t pad) {
  const Shape shape = {rows, width}, both = {rows, 2 * width};
  OpCase c;
  c.op = fmt::format("gated_{}", a.name);
  c.label = fmt::format("T={} F={}{}", rows, width, pad ? " strided" : "");
  c.Add(Input("gate_up", both, Fill::Normal(2)).Pad(pad).Grad("d_gate_up").Moves(1, 1));
  c.Add(Output("y", shape).Pad(pad).Seed("dy").Moves(1, 0));
  c.Add(Input("dy", shape).Moves(0, 1));
  c.Add(GradOut("d_gate_up", both, false).Pad(pad).Moves(0, 1));
  c.forward = [act = a.act](Context& ctx, const CaseRun& t) {
    GatedActivationForward(ctx, act, t["gate_up"], t["y"]);
  };
  c.backward = [act = a.act](Context& ctx, const CaseRun& t) {
    GatedActivationBackward(ctx, act, t["dy"], t["gate_up"], t["d_gate_up"]);
  };
  c.forward_flops = (a.flops + 1) * static_cast<double>(shape.num_elements());
  c.backward_flops = c.forward_flops + 6 * static_cast<double>(shape.num_elements());
  return c;
}

}  // namespace

void AddActivationCases(std::vector<OpCase>* cases) {
  for (const NamedActivation& a : kActivations) {
    cases->push_back(ActivationCase(a, 1, 1, 0));
    cases->push_back(ActivationCase(a, 0, 4, 0));
    cases->push_back(ActivationCase(a, 5, 19, 3));
    cases->push_back(ActivationCase(a, 67, 131, 0));
    cases->push_back(ActivationCase(a, 2048, 768, 0));
    cases->back().bench_on = BenchOn::kCpu;
    cases->push_back(ActivationCase(a, 16384, 5120, 0));
    cases->back().bench_on = BenchOn::kGpu;
    cases->push_back(GatedCase(a, 3, 13, 2));
  }
  const NamedActivation& silu = kActivations[0];
  cases->push_back(GatedCase(silu, 1, 1, 0));
  cases->push_back(GatedCase(silu, 0, 4, 0));
  cases->push_back(GatedCase(silu, 67, 131, 0));
  cases->push_back(GatedCase(silu, 2048, 768, 0));
  cases->back().bench_on = BenchOn::kCpu;
  cases->push_back(GatedCase(silu, 8192, 8960, 0));
  cases->back().bench_on = BenchOn::kGpu;
}

}  // namespace omnitrain
