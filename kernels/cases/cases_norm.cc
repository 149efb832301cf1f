#include "kernels/cases/op_groups.h"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/rms_norm/rms_norm.h"

namespace omnitrain {
namespace {

constexpr double kEps = 1e-6;

OpCase RmsNormCase(const std::string& label, Shape shape, int64_t pad, Write write) {
  const int64_t width = shape[shape.rank() - 1];
  const Shape rows = shape.rank() == 3 ? Shape{shape[0], shape[1]} : Shape{shape[0]};
  const bool is_sum = write == Write::kAccumulate;
  OpCase c;
  c.op = "rms_norm";
  c.label = label;
  c.Add(Input("x", shape).Pad(pad).Grad("dx").Moves(1, 1));
  c.Add(Input("w", {width}, Fill::Normal(0.1, 1)).Grad("dw"));
  c.Add(Output("y", shape).Pad(pad).Seed("dy").Moves(1, 0));
  c.Add(Output("rstd", rows).Type(OperandType::kMainGrad));
  c.Add(Input("dy", shape).Moves(0, 1));
  c.Add(GradOut("dx", shape, is_sum).Pad(pad).Moves(0, is_sum ? 2 : 1));
  c.Add(GradOut("dw", {width}, true).Type(OperandType::kMainGrad));
  c.forward = [](Context& ctx, const CaseRun& t) {
    RmsNormForward(ctx, t["x"], t["w"], kEps, t["y"], t["rstd"]);
  };
  c.backward = [write](Context& ctx, const CaseRun& t) {
    RmsNormBackward(ctx, t["dy"], t["x"], t["w"], t["rstd"], write, t["dx"], t["dw"]);
  };
  const auto elements = static_cast<double>(shape.num_elements());
  c.forward_flops = 4 * elements;
  c.backward_flops = 11 * elements;
  return c;
}

OpCase LayerNormCase(const std::string& label, int64_t rows, int64_t width, int64_t pad,
                     Write write, double shift = 0) {
  const Shape shape = {rows, width};
  const bool is_sum = write == Write::kAccumulate;
  OpCase c;
  c.op = "layer_norm";
  c.label = label;
  c.Add(Input("x", shape, Fill::Normal(1, shift)).Pad(pad).Grad("dx").Moves(1, 1));
  c.Add(Input("w", {width}, Fill::Normal(0.1, 1)).Grad("dw"));
  c.Add(Input("b", {width}).Grad("db"));
  c.Add(Output("y", shape).Pad(pad).Seed("dy").Moves(1, 0));
  c.Add(Output("mean", {rows}).Type(OperandType::kMainGrad));
  c.Add(Output("rstd", {rows}).Type(OperandType::kMainGrad));
  c.Add(Input("dy", shape).Moves(0, 1));
  c.Add(GradOut("dx", shape, is_sum).Pad(pad).Moves(0, is_sum ? 2 : 1));
  c.Add(GradOut("dw", {width}, true).Type(OperandType::kMainGrad));
  c.Add(GradOut("db", {width}, true).Type(OperandType::kMainGrad));
  c.forward = [](Context& ctx, const CaseRun& t) {
    LayerNormForward(ctx, t["x"], t["w"], t["b"], kEps, t["y"], t["mean"], t["rstd"]);
  };
  c.backward = [write](Context& ctx, const CaseRun& t) {
    LayerNormBackward(ctx, t["dy"], t["x"], t["w"], t["mean"], t["rstd"], write, t["dx"], t["dw"],
                      t["db"]);
  };
  const auto elements = static_cast<double>(shape.num_elements());
  c.forward_flops = 8 * elements;
  c.backward_flops = 18 * elements;
  return c;
}

OpCase Bench(OpCase c, BenchOn on = BenchOn::kCpu) {
  c.bench_on = on;
  return c;
}

}  // namespace

void AddNormCases(std::vector<OpCase>* cases) {
  constexpr Write kSet = Write::kOverwrite, kSum = Write::kAccumulate;
  cases->push_back(RmsNormCase("T=1 D=1", {1, 1}, 0, kSet));
  cases->back().f32_abs = 1e-6;  // dx is almost 0
  cases->push_back(RmsNormCase("T=0 D=8", {0, 8}, 0, kSet));
  cases->push_back(RmsNormCase("T=5 D=7", {5, 7}, 0, kSum));
  cases->push_back(RmsNormCase("T=37 D=67 strided", {37, 67}, 5, kSet));
  cases->push_back(RmsNormCase("T=131 D=256", {131, 256}, 0, kSet));
  cases->push_back(RmsNormCase("T=9 H=3 K=16 strided", {9, 3, 16}, 16, kSet));
  cases->push_back(RmsNormCase("T=3 H=2 K=5 sum", {3, 2, 5}, 3, kSum));
  cases->push_back(RmsNormCase("T=4321 D=24 sum", {4321, 24}, 0, kSum));
  for (const int64_t width : {520, 1032, 4104}) {
    cases->push_back(RmsNormCase(fmt::format("T=3 D={}", width), {3, width}, 0, kSet));
  }
  cases->push_back(Bench(RmsNormCase("T=2048 D=256", {2048, 256}, 0, kSet)));
  cases->push_back(Bench(RmsNormCase("T=2048 D=2048", {2048, 2048}, 0, kSet)));
  cases->push_back(Bench(RmsNormCase("T=2048 H=16 K=128", {2048, 16, 128}, 2048, kSet)));
  for (const int64_t width : {1536, 3584}) {
    cases->push_back(Bench(RmsNormCase(fmt::format("T=8192 D={}", width), {8192, width}, 0, kSet),
                           BenchOn::kGpu));
  }
  cases->push_back(
      Bench(RmsNormCase("T=8192 H=32 K=128", {8192, 32, 128}, 0, kSet), BenchOn::kGpu));
  cases->push_back(Bench(RmsNormCase("T=8192 D=3584 sum", {8192, 3584}, 0, kSum), BenchOn::kGpu));

  cases->push_back(LayerNormCase("T=1 D=2", 1, 2, 0, kSet));
  cases->back().f32_abs = 1e-6;  // dx is almost 0
  cases->push_back(LayerNormCase("T=0 D=8", 0, 8, 0, kSet));
  cases->push_back(LayerNormCase("T=5 D=7 sum", 5, 7, 0, kSum));
  cases->push_back(LayerNormCase("T=37 D=67 strided", 37, 67, 5, kSet));
  cases->push_back(LayerNormCase("T=131 D=256", 131, 256, 0, kSet));
  cases->push_back(LayerNormCase("T=4321 D=24 sum", 4321, 24, 0, kSum));
  cases->push_back(LayerNormCase("T=700 D=2052", 700, 2052, 0, kSet));
  cases->push_back(Bench(LayerNormCase("T=2048 D=256", 2048, 256, 0, kSet)));
  cases->push_back(Bench(LayerNormCase("T=2048 D=1152", 2048, 1152, 0, kSet)));
  for (const Write write : {kSet, kSum}) {
    const char* suffix = write == kSum ? " sum" : "";
    cases->push_back(
        Bench(LayerNormCase(fmt::format("T=16384 D=1280{}", suffix), 16384, 1280, 0, write),
              BenchOn::kGpu));
  }
}

}  // namespace omnitrain
