#include "core/base/rng.h"
#include "kernels/cases/op_groups.h"
#include "kernels/rows/rows.h"

namespace omnitrain {
namespace {

/// Indices below `size`, repeated or not; every fifth one (but not the first) is -1.
std::vector<double> Indices(int64_t count, int64_t size, bool is_distinct) {
  std::vector<double> indices;
  for (int64_t i = 0; i < count; ++i) {
    const auto position = static_cast<uint64_t>(i), range = static_cast<uint64_t>(size);
    const uint64_t index =
        is_distinct ? RandomPermute(3, 1, range, position) : RandomBits(3, 2, position) % range;
    indices.push_back(i % 5 == 4 ? -1.0 : static_cast<double>(index));
  }
  return indices;
}

double Fraction(int64_t part, int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(whole, 1));
}

std::string Label(int64_t size, int64_t count, int64_t width, int64_t pad, Write write) {
  return fmt::format("S={} N={} D={}{}{}", size, count, width, pad ? " strided" : "",
                     write == Write::kAccumulate ? " sum" : "");
}

/// Embedding lookup and its gradient.
OpCase GatherCase(int64_t size, int64_t count, int64_t width, int64_t pad, Write write) {
  const bool is_sum = write == Write::kAccumulate;
  const double picked = Fraction(count, size);
  OpCase c;
  c.op = "gather_rows";
  c.label = Label(size, count, width, pad, write);
  c.Add(Input("src", {size, width}).Pad(pad).Grad("dsrc").Moves(picked, 0));
  c.Add(Input("index", {count}, Fill::List(Indices(count, size, false)))
            .Type(OperandType::kInt32)
            .Moves(1, 1));
  c.Add(is_sum ? InOut("dst", {count, width}) : Output("dst", {count, width}))
      .Pad(pad)
      .Seed("ddst")
      .Moves(is_sum ? 2 : 1, 0);
  c.Add(Input("ddst", {count, width}).Moves(0, 1));
  c.Add(GradOut("dsrc", {size, width}, true))
      .Pad(pad)
      .Type(OperandType::kMainGrad)
      .Moves(0, 2 * picked);
  c.forward = [write](Context& ctx, const CaseRun& t) {
    GatherRows(ctx, t["src"], t["index"], write, t["dst"]);
  };
  c.backward = [](Context& ctx, const CaseRun& t) {
    ScatterAddRows(ctx, t["ddst"], t["index"], t["dsrc"]);
  };
  return c;
}

/// Encoder rows into the LLM's rows, and the gather that is its gradient.
OpCase ScatterCase(int64_t count, int64_t size, int64_t width, int64_t pad, Write write) {
  OpCase c;
  c.op = "scatter_rows";
  c.label = Label(size, count, width, pad, write);
  c.Add(Input("src", {count, width}).Pad(pad).Grad("dsrc").Moves(1, 0));
  c.Add(Input("index", {count}, Fill::List(Indices(count, size, true)))
            .Type(OperandType::kInt32)
            .Moves(1, 1));
  c.Add(InOut("dst", {size, width}))
      .Pad(pad)
      .Seed("ddst")
      .Moves(Fraction(count, size) * (write == Write::kAccumulate ? 2 : 1), 0);
  c.Add(Input("ddst", {size, width}).Moves(0, Fraction(count, size)));
  c.Add(GradOut("dsrc", {count, width}, false)).Pad(pad).Moves(0, 1);
  c.forward = [write](Context& ctx, const CaseRun& t) {
    ScatterRows(ctx, t["src"], t["index"], write, t["dst"]);
  };
  c.backward = [](Context& ctx, const CaseRun& t) {
    GatherRows(ctx, t["ddst"], t["index"], Write::kOverwrite, t["dsrc"]);
  };
  return c;
}

OpCase InterpolateCase(int64_t size, int64_t count, int64_t width, int64_t pad, Write write) {
  const bool is_sum = write == Write::kAccumulate;
  OpCase c;
  c.op = "interpolate_rows";
  c.label = Label(size, count, width, pad, write);
  c.Add(Input("table", {size, width}).Pad(pad).Grad("dtable").Moves(1, 0));
  c.Add(Input("index", {count, 4}, Fill::List(Indices(4 * count, size, false)))
            .Type(OperandType::kInt32)
            .Moves(1, 1));
  c.Add(Input("weight", {count, 4})).Moves(1, 1);
  c.Add(is_sum ? InOut("dst", {count, width}) : Output("dst", {count, width}))
      .Pad(pad)
      .Seed("ddst")
      .Moves(is_sum ? 2 : 1, 0);
  c.Add(Input("ddst", {count, width})).Moves(0, 1);
  c.Add(GradOut("dtable", {size, width}, true)).Type(OperandType::kMainGrad).Moves(0, 2);
  c.forward = [write](Context& ctx, const CaseRun& t) {
    InterpolateRows(ctx, t["table"], t["index"], t["weight"], write, t["dst"]);
  };
  c.backward = [](Context& ctx, const CaseRun& t) {
    InterpolateRowsBackward(ctx, t["ddst"], t["index"], t["weight"], t["dtable"]);
  };
  c.forward_flops = c.backward_flops = 8 * static_cast<double>(count * width);
  return c;
}

}  // namespace

void AddRowsCases(std::vector<OpCase>* cases) {
  constexpr Write kSet = Write::kOverwrite, kSum = Write::kAccumulate;
  for (const auto make : {GatherCase, InterpolateCase}) {
    cases->push_back(make(1, 1, 1, 0, kSet));
    cases->push_back(make(3, 0, 4, 0, kSet));
    cases->push_back(make(5, 23, 67, 3, kSet));
    cases->push_back(make(5, 23, 67, 3, kSum));
    cases->push_back(make(300, 190, 131, 0, kSet));
  }
  cases->push_back(ScatterCase(1, 1, 1, 0, kSet));
  cases->push_back(ScatterCase(0, 3, 4, 0, kSet));
  cases->push_back(ScatterCase(11, 23, 67, 3, kSet));
  cases->push_back(ScatterCase(11, 23, 67, 3, kSum));
  cases->push_back(ScatterCase(200, 301, 131, 0, kSum));

  cases->push_back(GatherCase(8192, 2048, 256, 0, kSet));
  cases->back().bench_on = BenchOn::kCpu;
  cases->push_back(ScatterCase(1024, 2048, 256, 0, kSet));
  cases->back().bench_on = BenchOn::kCpu;
  cases->push_back(InterpolateCase(2304, 2048, 768, 0, kSum));
  cases->back().bench_on = BenchOn::kCpu;
  cases->push_back(GatherCase(151936, 8192, 1536, 0, kSet));
  cases->back().bench_on = BenchOn::kGpu;
  cases->push_back(ScatterCase(4096, 8192, 1536, 0, kSet));
  cases->back().bench_on = BenchOn::kGpu;
  cases->push_back(InterpolateCase(2304, 16384, 1152, 0, kSum));
  cases->back().bench_on = BenchOn::kGpu;
}

}  // namespace omnitrain
