#include "kernels/cases/op_groups.h"
#include "kernels/elementwise/elementwise.h"

namespace omnitrain {
namespace {

OpCase CastCase(const char* name, OperandType to, int64_t rows, int64_t width, int64_t pad) {
  OpCase c;
  c.op = name;
  c.label = fmt::format("T={} D={}{}", rows, width, pad ? " strided" : "");
  c.Add(Input("src", {rows, width})).Pad(pad).Moves(1, 0);
  c.Add(Output("dst", {rows, width})).Type(to).Pad(pad).Moves(1, 0);
  c.forward = [](Context& ctx, const CaseRun& t) { Cast(ctx, t["src"], t["dst"]); };
  return c;
}

OpCase AddIntoCase(int64_t rows, int64_t width, int64_t pad) {
  OpCase c;
  c.op = "add_into";
  c.label = fmt::format("T={} D={}{}", rows, width, pad ? " strided" : "");
  c.Add(Input("x", {rows, width})).Pad(pad).Moves(1, 0);
  c.Add(InOut("y", {rows, width})).Moves(2, 0);
  c.forward = [](Context& ctx, const CaseRun& t) { AddInto(ctx, t["x"], t["y"]); };
  c.forward_flops = static_cast<double>(rows * width);
  return c;
}

OpCase ZeroCase(int64_t rows, int64_t width, int64_t pad) {
  OpCase c;
  c.op = "zero";
  c.label = fmt::format("T={} D={}{}", rows, width, pad ? " strided" : "");
  c.Add(Output("y", {rows, width})).Pad(pad).Moves(1, 0);
  c.forward = [](Context& ctx, const CaseRun& t) { Zero(ctx, t["y"]); };
  return c;
}

OpCase ScaleCase(int64_t rows, int64_t width) {
  OpCase c;
  c.op = "scale";
  c.label = fmt::format("T={} D={}", rows, width);
  c.Add(InOut("y", {rows, width})).Moves(2, 0);
  c.forward = [](Context& ctx, const CaseRun& t) { Scale(ctx, -0.75, t["y"]); };
  c.forward_flops = static_cast<double>(rows * width);
  return c;
}

/// All ops of this file on one shape.
void AddShape(int64_t rows, int64_t width, int64_t pad, std::vector<OpCase>* cases) {
  cases->push_back(CastCase("cast", OperandType::kCompute, rows, width, pad));
  cases->push_back(CastCase("cast_f64", OperandType::kF64, rows, width, pad));
  cases->push_back(CastCase("cast_f32", OperandType::kF32, rows, width, pad));
  cases->push_back(CastCase("cast_bf16", OperandType::kBF16, rows, width, pad));
  cases->push_back(CastCase("cast_f16", OperandType::kF16, rows, width, pad));
  cases->push_back(AddIntoCase(rows, width, pad));
  cases->push_back(ZeroCase(rows, width, pad));
  if (pad == 0) cases->push_back(ScaleCase(rows, width));
}

}  // namespace

void AddElementwiseCases(std::vector<OpCase>* cases) {
  AddShape(1, 1, 0, cases);
  AddShape(0, 5, 0, cases);
  AddShape(7, 13, 4, cases);
  AddShape(131, 257, 0, cases);
  const auto add_bench = [&](int64_t rows, int64_t width, BenchOn on) {
    const size_t first = cases->size();
    AddShape(rows, width, 0, cases);
    for (size_t i = first; i < cases->size(); ++i) (*cases)[i].bench_on = on;
  };
  add_bench(2048, 768, BenchOn::kCpu);
  add_bench(8192, 8192, BenchOn::kGpu);
}

}  // namespace omnitrain
