#include <array>

#include "kernels/cases/op_groups.h"
#include "kernels/gemm/gemm.h"

namespace omnitrain {
namespace {

enum class Bias { kAbsent, kPresent };

OpCase LinearCase(int64_t rows, int64_t in, int64_t out, int64_t pad, Bias bias, Write write) {
  const bool is_sum = write == Write::kAccumulate, has_bias = bias == Bias::kPresent;
  OpCase c;
  c.op = "linear";
  c.label = fmt::format("T={} I={} O={}{}{}{}", rows, in, out, has_bias ? " bias" : "",
                        is_sum ? " sum" : "", pad ? " strided" : "");
  c.is_thread_invariant = false;  // the libraries split sums by thread
  c.Add(Input("x", {rows, in}).Pad(pad).Grad("dx").Moves(1, 1));
  c.Add(Input("w", {out, in}).Grad("dw").Moves(1, 1));
  if (has_bias) c.Add(Input("bias", {out}).Grad("dbias"));
  c.Add(is_sum ? InOut("y", {rows, out}) : Output("y", {rows, out}))
      .Pad(pad)
      .Seed("dy")
      .Moves(is_sum ? 2 : 1, 0);
  c.Add(Input("dy", {rows, out}).Pad(pad).Moves(0, 2));
  c.Add(GradOut("dx", {rows, in}, is_sum).Pad(pad).Moves(0, is_sum ? 2 : 1));
  c.Add(GradOut("dw", {out, in}, true).Type(OperandType::kMainGrad).Moves(0, 2));
  if (has_bias) c.Add(GradOut("dbias", {out}, true).Type(OperandType::kMainGrad));
  c.forward = [has_bias, write](Context& ctx, const CaseRun& t) {
    LinearForward(ctx, t["x"], t["w"], has_bias ? t["bias"] : Tensor(), write, t["y"]);
  };
  c.backward = [has_bias, write](Context& ctx, const CaseRun& t) {
    LinearInputGrad(ctx, t["dy"], t["w"], write, t["dx"]);
    LinearWeightGrad(ctx, t["x"], t["dy"], t["dw"], has_bias ? t["dbias"] : Tensor());
  };
  c.forward_flops = 2 * static_cast<double>(rows) * static_cast<double>(in * out);
  c.backward_flops = 2 * c.forward_flops;
  return c;
}

}  // namespace

void AddGemmCases(std::vector<OpCase>* cases) {
  constexpr Write kSet = Write::kOverwrite, kSum = Write::kAccumulate;
  cases->push_back(LinearCase(1, 1, 1, 0, Bias::kPresent, kSet));
  cases->push_back(LinearCase(0, 5, 3, 0, Bias::kPresent, kSet));
  cases->push_back(LinearCase(7, 13, 5, 3, Bias::kPresent, kSum));
  cases->push_back(LinearCase(33, 17, 70, 0, Bias::kAbsent, kSum));
  cases->push_back(LinearCase(65, 40, 31, 5, Bias::kAbsent, kSet));
  for (const int64_t out : {768, 1024, 1536, 4096}) {
    cases->push_back(LinearCase(2048, 256, out, 0, Bias::kPresent, kSet));
    cases->back().bench_on = BenchOn::kCpu;
  }
  // Qwen2-VL-2B: qkv, gate and up, down; the encoder's.
  const std::vector<std::array<int64_t, 3>> large = {
      {8192, 1536, 2048}, {8192, 1536, 17920}, {8192, 8960, 1536}, {16384, 1280, 5120}};
  for (const auto& [rows, in, out] : large) {
    cases->push_back(LinearCase(rows, in, out, 0, Bias::kPresent, kSet));
    cases->back().bench_on = BenchOn::kGpu;
  }
}

void AddRandomGemmCases(RandomShapes& draw, std::vector<OpCase>* cases) {
  const int64_t rows = draw.Rows(700), in = draw.Size(1, 400), out = draw.Size(1, 400);
  const Write write = draw.Coin() ? Write::kAccumulate : Write::kOverwrite;
  const Bias bias = draw.Coin() ? Bias::kPresent : Bias::kAbsent;
  cases->push_back(LinearCase(rows, in, out, draw.Pad(), bias, write));
}

}  // namespace omnitrain
