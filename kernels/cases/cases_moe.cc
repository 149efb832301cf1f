#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/rng.h"
#include "kernels/cases/op_groups.h"
#include "kernels/gemm/gemm.h"
#include "kernels/moe/grouped_linear.h"
#include "kernels/moe/moe_balance.h"
#include "kernels/moe/moe_permute.h"
#include "kernels/moe/moe_route.h"

namespace omnitrain {
namespace {

using Offsets = std::vector<int64_t>;

/// How the K experts of a token are drawn.
enum class Load { kEven, kSkewed, kOneExpert };

const char* Name(Load load) {
  return load == Load::kEven ? "" : load == Load::kSkewed ? " skewed" : " one expert";
}

/// [T, E] logits, a permutation of equally spaced values in each row: bf16 holds them, no two are
/// near each other (choices are the same in every dtype), and no step of a central difference
/// changes their order. With kTies, pairs of them are equal.
enum class Ties { kNone, kPairs };
std::vector<double> Logits(int64_t num_tokens, int64_t num_experts, Ties ties) {
  double step = 1;
  while (step * static_cast<double>(num_experts) > 8) step /= 2;
  std::vector<double> logits;
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t e = 0; e < num_experts; ++e) {
      const uint64_t place =
          RandomPermute(5, static_cast<uint64_t>(t), static_cast<uint64_t>(num_experts),
                        static_cast<uint64_t>(e));
      logits.push_back(step * static_cast<double>(ties == Ties::kPairs ? place / 2 : place));
    }
  }
  return logits;
}

/// [T, K] distinct experts of each token (all the first K for kOneExpert, which with K = 1 is one).
std::vector<double> ExpertIds(int64_t num_tokens, int64_t num_experts, int64_t top_k, Load load) {
  std::vector<double> ids;
  for (int64_t t = 0; t < num_tokens; ++t) {
    // Skewed: most tokens share the choices of the first.
    const int64_t like = load == Load::kEven ? t : load == Load::kSkewed && t % 4 == 3 ? t : 0;
    for (int64_t k = 0; k < top_k; ++k) {
      ids.push_back(load == Load::kOneExpert
                        ? static_cast<double>(k)
                        : static_cast<double>(RandomPermute(7, static_cast<uint64_t>(like),
                                                            static_cast<uint64_t>(num_experts),
                                                            static_cast<uint64_t>(k))));
    }
  }
  return ids;
}

/// The plan of those ids, by sorting.
struct Plan {
  std::vector<double> row_of, token_of;
};
Plan PlanOf(const std::vector<double>& ids, int64_t top_k) {
  std::vector<size_t> order(ids.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return ids[a] < ids[b]; });
  Plan plan{std::vector<double>(ids.size()), {}};
  for (size_t r = 0; r < order.size(); ++r) {
    plan.row_of[order[r]] = static_cast<double>(r);
    plan.token_of.push_back(static_cast<double>(static_cast<int64_t>(order[r]) / top_k));
  }
  return plan;
}

OpCase RouteCase(int64_t num_tokens, int64_t num_experts, int64_t top_k, int64_t pad,
                 MoeWeights kind, Ties ties) {
  OpCase c;
  c.op = "moe_route";
  c.label = fmt::format("T={} E={} K={}{}{}{}", num_tokens, num_experts, top_k,
                        kind == MoeWeights::kNormalized ? " normalized" : "",
                        ties == Ties::kPairs ? " ties" : "", pad ? " strided" : "");
  // Absolute, so that ids and counts are held to the last digit; sums of probabilities are about
  // T / E.
  c.f32_abs = 1e-5 + 1e-6 * static_cast<double>(num_tokens) / static_cast<double>(num_experts);
  c.Add(
      Input("logits", {num_tokens, num_experts}, Fill::List(Logits(num_tokens, num_experts, ties)))
          .Pad(pad)
          .Moves(1, 0));
  c.Add(Output("probs", {num_tokens, num_experts}).Type(OperandType::kMainGrad).Moves(2, 1));
  c.Add(Output("expert_ids", {num_tokens, top_k}).Type(OperandType::kInt32).Moves(2, 1));
  c.Add(Output("weights", {num_tokens, top_k}).Type(OperandType::kMainGrad).Moves(1, 1));
  c.Add(InOut("counts", {num_experts}, Fill::Constant(3)).Type(OperandType::kInt32));
  c.Add(InOut("prob_sums", {num_experts})).Type(OperandType::kMainGrad);
  c.forward = [kind](Context& ctx, const CaseRun& t) {
    MoeRouteForward(ctx, t["logits"], kind, t["probs"], t["expert_ids"], t["weights"]);
    MoeLoadSums(ctx, t["probs"], t["expert_ids"], t["counts"], t["prob_sums"]);
  };
  if (ties == Ties::kPairs) return c;  // no derivative where a step changes the choice
  for (Operand& o : c.operands) {
    if (o.name == "logits") o.Grad("d_logits");
    if (o.name == "weights") o.Seed("d_weights");
    if (o.name == "prob_sums") o.Seed("d_probs");
  }
  c.Add(Input("d_weights", {num_tokens, top_k}).Type(OperandType::kMainGrad).Moves(0, 1));
  c.Add(Input("d_probs", {num_experts}).Type(OperandType::kMainGrad).Moves(0, 1));
  c.Add(GradOut("d_logits", {num_tokens, num_experts}, false)).Pad(pad).Moves(0, 1);
  c.backward = [kind](Context& ctx, const CaseRun& t) {
    MoeRouteBackward(ctx, t["probs"], t["expert_ids"], t["weights"], t["d_weights"], t["d_probs"],
                     kind, t["d_logits"]);
  };
  return c;
}

/// The gradient is of prob_sums: what MoeBalanceLoss gives for each row's probabilities.
OpCase BalanceCase(int64_t num_experts, int64_t num_tokens) {
  OpCase c;
  c.op = "moe_balance";
  c.label = fmt::format("E={} N={}", num_experts, num_tokens);
  std::vector<double> counts;
  for (int64_t e = 0; e < num_experts; ++e) counts.push_back(static_cast<double>(e * 5 % 7));
  c.Add(Input("counts", {num_experts}, Fill::List(counts)).Type(OperandType::kInt32));
  c.Add(Input("prob_sums", {num_experts}).Type(OperandType::kMainGrad).Grad("d_probs"));
  c.Add(InOut("loss_sum", {1})).Type(OperandType::kF64).Seed("d_loss");
  c.Add(Input("d_loss", {1}, Fill::Constant(1))).Type(OperandType::kF64);
  c.Add(GradOut("d_probs", {num_experts}, false)).Type(OperandType::kMainGrad);
  c.forward = [num_tokens](Context& ctx, const CaseRun& t) {
    MoeBalanceLoss(ctx, t["counts"], t["prob_sums"], num_tokens, 0.25, t["loss_sum"], Tensor());
  };
  c.backward = [num_tokens](Context& ctx, const CaseRun& t) {
    MoeBalanceLoss(ctx, t["counts"], t["prob_sums"], num_tokens, 0.25, t["loss_sum"], t["d_probs"]);
  };
  return c;
}

OpCase PlanCase(int64_t num_tokens, int64_t num_experts, int64_t top_k, Load load) {
  OpCase c;
  c.op = "moe_plan";
  c.label = fmt::format("T={} E={} K={}{}", num_tokens, num_experts, top_k, Name(load));
  c.f32_abs = 1e-3;  // integers: equal
  c.Add(Input("expert_ids", {num_tokens, top_k},
              Fill::List(ExpertIds(num_tokens, num_experts, top_k, load)))
            .Type(OperandType::kInt32)
            .Moves(1, 0));
  c.Add(Output("counts", {num_experts}).Type(OperandType::kInt32).Moves(1, 0));
  c.Add(Output("row_of", {num_tokens, top_k}).Type(OperandType::kInt32).Moves(1, 0));
  c.Add(Output("token_of", {num_tokens * top_k}).Type(OperandType::kInt32).Moves(1, 0));
  c.forward = [](Context& ctx, const CaseRun& t) {
    MoePlan(ctx, t["expert_ids"], t["counts"], t["row_of"], t["token_of"]);
  };
  return c;
}

struct PermuteShape {
  int64_t num_tokens, num_experts, top_k, width;

  std::string Label(Load load, int64_t pad, Write write) const {
    return fmt::format("T={} E={} K={} D={}{}{}{}", num_tokens, num_experts, top_k, width,
                       Name(load), pad ? " strided" : "",
                       write == Write::kAccumulate ? " sum" : "");
  }
};

OpCase GatherCase(PermuteShape s, Load load, int64_t pad, Write write) {
  const bool is_sum = write == Write::kAccumulate;
  const Plan plan = PlanOf(ExpertIds(s.num_tokens, s.num_experts, s.top_k, load), s.top_k);
  const int64_t num_rows = s.num_tokens * s.top_k;
  OpCase c;
  c.op = "moe_gather";
  c.label = s.Label(load, pad, write);
  c.Add(Input("x", {s.num_tokens, s.width}).Pad(pad).Grad("dx").Moves(1, 0));
  c.Add(Input("token_of", {num_rows}, Fill::List(plan.token_of)))
      .Type(OperandType::kInt32)
      .Moves(1, 0);
  c.Add(Input("row_of", {s.num_tokens, s.top_k}, Fill::List(plan.row_of)))
      .Type(OperandType::kInt32)
      .Moves(0, 1);
  c.Add(Output("sorted", {num_rows, s.width})).Pad(pad).Seed("d_sorted").Moves(1, 0);
  c.Add(Input("d_sorted", {num_rows, s.width})).Pad(pad).Moves(0, 1);
  c.Add(GradOut("dx", {s.num_tokens, s.width}, is_sum)).Pad(pad).Moves(0, is_sum ? 2 : 1);
  c.forward = [](Context& ctx, const CaseRun& t) {
    MoeGatherForward(ctx, t["x"], t["token_of"], t["sorted"]);
  };
  c.backward = [write](Context& ctx, const CaseRun& t) {
    MoeGatherBackward(ctx, t["d_sorted"], t["row_of"], write, t["dx"]);
  };
  c.backward_flops = static_cast<double>(num_rows * s.width);
  return c;
}

OpCase CombineCase(PermuteShape s, Load load, int64_t pad, Write write) {
  const bool is_sum = write == Write::kAccumulate;
  const Plan plan = PlanOf(ExpertIds(s.num_tokens, s.num_experts, s.top_k, load), s.top_k);
  const int64_t num_rows = s.num_tokens * s.top_k;
  const Shape per_slot = {s.num_tokens, s.top_k};
  OpCase c;
  c.op = "moe_combine";
  c.label = s.Label(load, pad, write);
  c.Add(Input("sorted", {num_rows, s.width}).Pad(pad).Grad("d_sorted").Moves(1, 1));
  c.Add(Input("row_of", per_slot, Fill::List(plan.row_of))).Type(OperandType::kInt32).Moves(1, 1);
  c.Add(Input("weights", per_slot).Type(OperandType::kMainGrad).Grad("d_weights").Moves(1, 1));
  c.Add(is_sum ? InOut("y", {s.num_tokens, s.width}) : Output("y", {s.num_tokens, s.width}))
      .Pad(pad)
      .Seed("dy")
      .Moves(is_sum ? 2 : 1, 0);
  c.Add(Input("dy", {s.num_tokens, s.width})).Pad(pad).Moves(0, 1);
  c.Add(GradOut("d_sorted", {num_rows, s.width}, false)).Pad(pad).Moves(0, 1);
  c.Add(GradOut("d_weights", per_slot, false)).Type(OperandType::kMainGrad).Moves(0, 1);
  c.forward = [write](Context& ctx, const CaseRun& t) {
    MoeCombineForward(ctx, t["sorted"], t["row_of"], t["weights"], write, t["y"]);
  };
  c.backward = [](Context& ctx, const CaseRun& t) {
    MoeCombineBackward(ctx, t["sorted"], t["row_of"], t["weights"], t["dy"], t["d_sorted"],
                       t["d_weights"]);
  };
  c.forward_flops = 2 * static_cast<double>(num_rows * s.width);
  c.backward_flops = 3 * static_cast<double>(num_rows * s.width);
  return c;
}

OpCase GroupedCase(const Offsets& offsets, int64_t in, int64_t out, int64_t pad, Write write) {
  const bool is_sum = write == Write::kAccumulate;
  const int64_t rows = offsets.back(), num_experts = static_cast<int64_t>(offsets.size()) - 1;
  int64_t largest = 0;
  for (size_t e = 0; e + 1 < offsets.size(); ++e) {
    largest = std::max(largest, offsets[e + 1] - offsets[e]);
  }
  OpCase c;
  c.op = "grouped_linear";
  c.label = fmt::format("R={} E={} largest={} I={} O={}{}{}", rows, num_experts, largest, in, out,
                        is_sum ? " sum" : "", pad ? " strided" : "");
  c.is_thread_invariant = false;  // as the products themselves
  c.Add(Input("x", {rows, in}).Pad(pad).Grad("dx").Moves(1, 1));
  c.Add(Input("w", {num_experts, out, in}).Grad("dw").Moves(1, 1));
  c.Add(is_sum ? InOut("y", {rows, out}) : Output("y", {rows, out}))
      .Pad(pad)
      .Seed("dy")
      .Moves(is_sum ? 2 : 1, 0);
  c.Add(Input("dy", {rows, out})).Pad(pad).Moves(0, 2);
  c.Add(GradOut("dx", {rows, in}, is_sum)).Pad(pad).Moves(0, is_sum ? 2 : 1);
  c.Add(GradOut("dw", {num_experts, out, in}, true)).Type(OperandType::kMainGrad).Moves(0, 2);
  c.forward = [offsets, write](Context& ctx, const CaseRun& t) {
    GroupedLinearForward(ctx, t["x"], t["w"], offsets, write, t["y"]);
  };
  c.backward = [offsets, write](Context& ctx, const CaseRun& t) {
    GroupedLinearInputGrad(ctx, t["dy"], t["w"], offsets, write, t["dx"]);
    GroupedLinearWeightGrad(ctx, t["x"], t["dy"], offsets, t["dw"]);
  };
  c.forward_flops = 2 * static_cast<double>(rows) * static_cast<double>(in * out);
  c.backward_flops = 2 * c.forward_flops;
  return c;
}

/// One of the three products, beside a loop over the experts that asks kernels/gemm for each.
enum class Product { kForward, kInputGrad, kWeightGrad };
OpCase ProductCase(Product product, const Offsets& offsets, int64_t in, int64_t out) {
  const OpCase whole = GroupedCase(offsets, in, out, 0, Write::kOverwrite);
  const int64_t rows = offsets.back(), num_experts = static_cast<int64_t>(offsets.size()) - 1;
  int64_t num_used = 0;  // experts with rows: others are neither read nor written
  for (size_t e = 0; e + 1 < offsets.size(); ++e) num_used += offsets[e] < offsets[e + 1];
  const double used = static_cast<double>(num_used) / static_cast<double>(num_experts);
  OpCase c;
  c.label = whole.label;
  c.forward_flops = whole.forward_flops;
  c.baseline_name = "a product per expert";
  const Operand x = Input("x", {rows, in}).Moves(1, 0), dy = Input("dy", {rows, out}).Moves(1, 0),
                w = Input("w", {num_experts, out, in}).Moves(used, 0);
  using Body = std::function<void(Context&, const CaseRun&, int64_t e, int64_t first, int64_t n)>;
  const auto for_experts = [offsets](const Body& body) {
    return [offsets, body](Context& ctx, const CaseRun& t) {
      for (size_t e = 0; e + 1 < offsets.size(); ++e) {
        const int64_t n = offsets[e + 1] - offsets[e];
        if (n > 0) body(ctx, t, static_cast<int64_t>(e), offsets[e], n);
      }
    };
  };
  const auto expert = [=](const Tensor& t, int64_t e) { return t.Rows(e, 1).View({out, in}); };
  constexpr Write kSet = Write::kOverwrite;
  switch (product) {
    case Product::kForward:
      c.op = "grouped_linear_forward";
      c.operands = {x, w, Output("y", {rows, out}).Moves(1, 0)};
      c.forward = [offsets](Context& ctx, const CaseRun& t) {
        GroupedLinearForward(ctx, t["x"], t["w"], offsets, kSet, t["y"]);
      };
      c.baseline = for_experts([=](Context& ctx, const CaseRun& t, int64_t e, int64_t r,
                                   int64_t n) {
        LinearForward(ctx, t["x"].Rows(r, n), expert(t["w"], e), Tensor(), kSet, t["y"].Rows(r, n));
      });
      break;
    case Product::kInputGrad:
      c.op = "grouped_linear_input_grad";
      c.operands = {dy, w, Output("dx", {rows, in}).Moves(1, 0)};
      c.forward = [offsets](Context& ctx, const CaseRun& t) {
        GroupedLinearInputGrad(ctx, t["dy"], t["w"], offsets, kSet, t["dx"]);
      };
      c.baseline =
          for_experts([=](Context& ctx, const CaseRun& t, int64_t e, int64_t r, int64_t n) {
            LinearInputGrad(ctx, t["dy"].Rows(r, n), expert(t["w"], e), kSet, t["dx"].Rows(r, n));
          });
      break;
    case Product::kWeightGrad:
      c.op = "grouped_linear_weight_grad";
      c.operands = {
          x, dy,
          InOut("dw", {num_experts, out, in}).Type(OperandType::kMainGrad).Moves(2 * used, 0)};
      c.forward = [offsets](Context& ctx, const CaseRun& t) {
        GroupedLinearWeightGrad(ctx, t["x"], t["dy"], offsets, t["dw"]);
      };
      c.baseline = for_experts([=](Context& ctx, const CaseRun& t, int64_t e, int64_t r,
                                   int64_t n) {
        LinearWeightGrad(ctx, t["x"].Rows(r, n), t["dy"].Rows(r, n), expert(t["dw"], e), Tensor());
      });
      break;
  }
  return c;
}

/// Offsets of experts with about equal rows, as an even load gives.
Offsets EvenOffsets(int64_t rows, int64_t num_experts) {
  Offsets offsets;
  for (int64_t e = 0; e <= num_experts; ++e) offsets.push_back(rows * e / num_experts);
  return offsets;
}

/// As routing gives them before it is balanced: log-normal, one expert in 20 without rows.
Offsets UnevenOffsets(int64_t rows, int64_t num_experts) {
  std::vector<double> load;
  for (int64_t e = 0; e < num_experts; ++e) {
    load.push_back(e % 20 == 3 ? 0 : std::exp(RandomNormal(11, 0, static_cast<uint64_t>(e))));
  }
  const double total = std::accumulate(load.begin(), load.end(), 0.0);
  Offsets offsets = {0};
  double sum = 0;
  for (const double l : load) {
    sum += l;
    offsets.push_back(std::llround(sum / total * static_cast<double>(rows)));
  }
  return offsets;
}

}  // namespace

void AddMoeCases(std::vector<OpCase>* cases) {
  constexpr Write kSet = Write::kOverwrite, kSum = Write::kAccumulate;
  constexpr MoeWeights kPlain = MoeWeights::kPlain, kNormalized = MoeWeights::kNormalized;
  for (const MoeWeights kind : {kPlain, kNormalized}) {
    cases->push_back(RouteCase(1, 1, 1, 0, kind, Ties::kNone));
    cases->push_back(RouteCase(0, 4, 2, 0, kind, Ties::kNone));
    cases->push_back(RouteCase(5, 7, 1, 0, kind, Ties::kNone));
    cases->push_back(RouteCase(5, 7, 7, 3, kind, Ties::kNone));  // K = E
    cases->push_back(RouteCase(37, 33, 4, 5, kind, Ties::kNone));
    cases->push_back(RouteCase(70, 128, 8, 0, kind, Ties::kNone));
  }
  cases->push_back(RouteCase(9, 40, 35, 0, kNormalized, Ties::kNone));  // K above a warp
  cases->push_back(RouteCase(23, 61, 8, 0, kNormalized, Ties::kPairs));
  cases->push_back(BalanceCase(1, 1));
  cases->push_back(BalanceCase(7, 0));
  cases->push_back(BalanceCase(129, 77));

  for (const Load load : {Load::kEven, Load::kSkewed, Load::kOneExpert}) {
    cases->push_back(PlanCase(1, 1, 1, load));
    cases->push_back(PlanCase(0, 5, 2, load));
    cases->push_back(PlanCase(23, 5, 1, load));
    cases->push_back(PlanCase(13, 6, 6, load));  // K = E
    cases->push_back(PlanCase(301, 128, 8, load));
  }
  for (const auto make : {GatherCase, CombineCase}) {
    cases->push_back(make({1, 1, 1, 1}, Load::kEven, 0, kSet));
    cases->push_back(make({0, 3, 2, 8}, Load::kEven, 0, kSet));
    cases->push_back(make({7, 5, 1, 13}, Load::kOneExpert, 0, kSet));
    cases->push_back(make({11, 4, 4, 67}, Load::kEven, 3, kSum));  // K = E
    cases->push_back(make({40, 16, 3, 64}, Load::kSkewed, 8, kSet));
    cases->push_back(make({40, 16, 3, 64}, Load::kSkewed, 8, kSum));
    cases->push_back(make({19, 9, 2, 1032}, Load::kEven, 0, kSet));  // a block a row on the GPU
  }
  for (const Write write : {kSet, kSum}) {
    cases->push_back(GroupedCase({0, 1}, 1, 1, 0, write));
    cases->push_back(GroupedCase({0, 0, 0, 0}, 5, 3, 0, write));
    cases->push_back(GroupedCase({0, 0, 9, 9}, 7, 5, 3, write));  // all to one expert
    cases->push_back(GroupedCase({0, 1, 1, 18, 23, 60}, 13, 9, 0, write));
    cases->push_back(GroupedCase({0, 33, 40, 40, 64}, 32, 24, 8, write));
    cases->push_back(GroupedCase({0, 130, 130, 131, 330}, 72, 272, 0, write));  // several tiles
  }
  cases->push_back(
      GroupedCase(UnevenOffsets(400, 300), 8, 16, 0, kSet));  // more than a launch takes

  const auto bench = [&](BenchOn on, OpCase c) {
    c.bench_on = on;
    cases->push_back(std::move(c));
  };
  bench(BenchOn::kCpu, RouteCase(2048, 16, 4, 0, kNormalized, Ties::kNone));
  bench(BenchOn::kCpu, PlanCase(2048, 16, 4, Load::kEven));
  bench(BenchOn::kCpu, GatherCase({2048, 16, 4, 256}, Load::kEven, 0, kSet));
  bench(BenchOn::kCpu, CombineCase({2048, 16, 4, 256}, Load::kEven, 0, kSum));
  bench(BenchOn::kCpu, GroupedCase(EvenOffsets(2048, 16), 256, 384, 0, kSet));
  // Qwen3-30B-A3B: 128 experts, 8 a token; gate and up, down.
  bench(BenchOn::kGpu, RouteCase(8192, 128, 8, 0, kNormalized, Ties::kNone));
  bench(BenchOn::kGpu, PlanCase(8192, 128, 8, Load::kEven));
  bench(BenchOn::kGpu, GatherCase({8192, 128, 8, 2048}, Load::kEven, 0, kSet));
  bench(BenchOn::kGpu, CombineCase({8192, 128, 8, 2048}, Load::kEven, 0, kSum));
  for (const Product product : {Product::kForward, Product::kInputGrad, Product::kWeightGrad}) {
    for (const auto offsets : {EvenOffsets, UnevenOffsets}) {
      for (const int64_t rows : {4096, 16384, 65536}) {
        bench(BenchOn::kGpu, ProductCase(product, offsets(rows, 128), 2048, 1536));
      }
      bench(BenchOn::kGpu, ProductCase(product, offsets(65536, 128), 768, 2048));
    }
    // A rank's share of the experts, of 8 ranks.
    bench(BenchOn::kGpu, ProductCase(product, UnevenOffsets(65536, 16), 2048, 1536));
  }
}

void AddRandomMoeCases(RandomShapes& draw, std::vector<OpCase>* cases) {
  const auto coin = [&] { return draw.Coin() ? Write::kAccumulate : Write::kOverwrite; };
  const int64_t num_experts = draw.Size(1, 128),
                top_k = draw.Size(1, std::min<int64_t>(num_experts, 9));
  const int64_t num_tokens = draw.Rows(300);
  const Load load = draw.Coin() ? Load::kEven : Load::kSkewed;
  const PermuteShape shape = {num_tokens, num_experts, top_k, draw.Size(1, 1500)};
  cases->push_back(RouteCase(num_tokens, num_experts, top_k, draw.Pad(),
                             draw.Coin() ? MoeWeights::kNormalized : MoeWeights::kPlain,
                             Ties::kNone));
  cases->push_back(PlanCase(num_tokens, num_experts, top_k, load));
  cases->push_back(GatherCase(shape, load, draw.Pad(), coin()));
  cases->push_back(CombineCase(shape, load, draw.Pad(), coin()));
  Offsets offsets = {0};
  for (int64_t e = draw.Size(1, 9); e > 0; --e) offsets.push_back(offsets.back() + draw.Rows(90));
  if (draw.Coin()) {  // multiples of 16 bytes in bf16
    const int64_t in = 8 * draw.Size(1, 40), out = 8 * draw.Size(1, 40);
    cases->push_back(GroupedCase(offsets, in, out, 8 * draw.Size(0, 3), coin()));
  } else {
    const int64_t in = draw.Size(1, 200), out = draw.Size(1, 200);
    cases->push_back(GroupedCase(offsets, in, out, draw.Pad(), coin()));
  }
}

}  // namespace omnitrain
