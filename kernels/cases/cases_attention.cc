#include <algorithm>
#include <cmath>

#include "kernels/attention/attention.h"
#include "kernels/cases/op_groups.h"

namespace omnitrain {
namespace {

struct Heads {
  int64_t query, kv, dim;
};

OpCase AttentionCase(const std::string& label, const std::vector<int64_t>& lengths, Heads heads,
                     bool is_causal, int64_t pad = 0) {
  AttentionParams params;
  params.is_causal = is_causal;
  params.softmax_scale = 1 / std::sqrt(static_cast<double>(heads.dim));
  std::vector<double> cu_seqlens{0};
  double pairs = 0;
  for (const int64_t length : lengths) {
    const auto n = static_cast<double>(length);
    cu_seqlens.push_back(cu_seqlens.back() + n);
    params.max_seqlen = std::max(params.max_seqlen, length);
    pairs += is_causal ? n * (n + 1) / 2 : n * n;
  }
  const auto tokens = static_cast<int64_t>(cu_seqlens.back());
  const auto num_sequences = static_cast<int64_t>(lengths.size());
  const Shape rows{tokens, heads.query, heads.dim}, kv_rows{tokens, heads.kv, heads.dim};
  OpCase c;
  c.op = "attention";
  c.label = fmt::format("{} H={} G={} K={} {}{}", label, heads.query, heads.kv, heads.dim,
                        is_causal ? "causal" : "full", pad ? " strided" : "");
  c.Add(Input("q", rows).Pad(pad).Grad("dq").Moves(1, 1));
  c.Add(Input("k", kv_rows).Pad(pad).Grad("dk").Moves(1, 1));
  c.Add(Input("v", kv_rows).Pad(2 * pad).Grad("dv").Moves(1, 1));
  c.Add(Input("cu_seqlens", {num_sequences + 1}, Fill::List(cu_seqlens)).Type(OperandType::kInt32));
  c.Add(Output("o", rows).Pad(pad).Seed("d_o").Moves(1, 1));
  c.Add(Output("lse", {heads.query, tokens}).Type(OperandType::kMainGrad));
  c.Add(Input("d_o", rows).Pad(pad).Moves(0, 1));
  c.Add(GradOut("dq", rows, false).Pad(pad).Moves(0, 1));
  c.Add(GradOut("dk", kv_rows, false).Pad(pad).Moves(0, 1));
  c.Add(GradOut("dv", kv_rows, false).Pad(pad).Moves(0, 1));
  c.forward = [params](Context& ctx, const CaseRun& t) {
    AttentionForward(ctx, t["q"], t["k"], t["v"], t["cu_seqlens"], params, t["o"], t["lse"]);
  };
  c.backward = [params](Context& ctx, const CaseRun& t) {
    AttentionBackward(ctx, t["d_o"], t["q"], t["k"], t["v"], t["o"], t["lse"], t["cu_seqlens"],
                      params, t["dq"], t["dk"], t["dv"]);
  };
  // Two products of [length, K] x [K, length] in the forward, five in the backward; a causal model
  // counts what it sees.
  c.forward_flops = 4 * pairs * static_cast<double>(heads.query * heads.dim);
  c.backward_flops = 2.5 * c.forward_flops;
  return c;
}

std::vector<double> Borders(const std::vector<int64_t>& lengths) {
  std::vector<double> cu_seqlens{0};
  for (const int64_t n : lengths) cu_seqlens.push_back(cu_seqlens.back() + static_cast<double>(n));
  return cu_seqlens;
}

int64_t Longest(const std::vector<int64_t>& lengths) {
  return *std::max_element(lengths.begin(), lengths.end());
}

/// Queries and keys of different rows; gradients are written, or added in the dtype of sums.
OpCase RectangleCase(const std::vector<int64_t>& queries, const std::vector<int64_t>& keys,
                     Heads heads, bool adds, int64_t pad = 0) {
  AttentionParams params;
  params.softmax_scale = 1 / std::sqrt(static_cast<double>(heads.dim));
  const std::vector<double> q_borders = Borders(queries), k_borders = Borders(keys);
  const auto num_queries = static_cast<int64_t>(q_borders.back());
  const auto num_keys = static_cast<int64_t>(k_borders.back());
  const auto num_borders = static_cast<int64_t>(q_borders.size());
  const Shape rows{num_queries, heads.query, heads.dim}, kv_rows{num_keys, heads.kv, heads.dim};
  const OperandType grad_type = adds ? OperandType::kMainGrad : OperandType::kCompute;
  OpCase c;
  c.op = "attention";
  c.label = fmt::format("{} x {} H={} G={} K={}{}{}", num_queries, num_keys, heads.query, heads.kv,
                        heads.dim, adds ? " sum" : "", pad ? " strided" : "");
  c.Add(Input("q", rows).Pad(pad).Grad("dq").Moves(1, 1));
  c.Add(Input("k", kv_rows).Pad(pad).Grad("dk").Moves(1, 1));
  c.Add(Input("v", kv_rows).Pad(pad).Grad("dv").Moves(1, 1));
  c.Add(Input("q_segments", {num_borders}, Fill::List(q_borders)).Type(OperandType::kInt32));
  c.Add(Input("k_segments", {num_borders}, Fill::List(k_borders)).Type(OperandType::kInt32));
  c.Add(Output("o", rows).Pad(pad).Seed("d_o").Moves(1, 1));
  c.Add(Output("lse", {heads.query, num_queries}).Pad(pad).Type(OperandType::kMainGrad));
  c.Add(Input("d_o", rows).Pad(pad).Moves(0, 1));
  c.Add(GradOut("dq", rows, adds).Pad(pad).Type(grad_type).Moves(0, 1));
  c.Add(GradOut("dk", kv_rows, adds).Pad(pad).Type(grad_type).Moves(0, 1));
  c.Add(GradOut("dv", kv_rows, adds).Pad(pad).Type(grad_type).Moves(0, 1));
  const auto segments = [max_q = Longest(queries), max_k = Longest(keys)](const CaseRun& t) {
    return AttentionSegments{t["q_segments"], t["k_segments"], max_q, max_k};
  };
  c.forward = [params, segments](Context& ctx, const CaseRun& t) {
    AttentionForward(ctx, t["q"], t["k"], t["v"], segments(t), params, t["o"], t["lse"]);
  };
  c.backward = [params, segments, adds](Context& ctx, const CaseRun& t) {
    const Write write = adds ? Write::kAccumulate : Write::kOverwrite;
    AttentionBackward(ctx, t["d_o"], t["q"], t["k"], t["v"], t["o"], t["lse"], segments(t), params,
                      {t["dq"], t["dk"], t["dv"], write, write});
  };
  for (size_t s = 0; s < queries.size(); ++s) {
    c.forward_flops += 4 * static_cast<double>(queries[s] * keys[s] * heads.query * heads.dim);
  }
  c.backward_flops = 2.5 * c.forward_flops;
  return c;
}

OpCase MergeCase(int64_t tokens, int64_t num_heads, int64_t head_dim, OperandType sum_type,
                 int64_t pad = 0) {
  const Shape rows{tokens, num_heads, head_dim};
  OpCase c;
  c.op = "attention_merge";
  c.label = fmt::format("T={} H={} K={}{}{}", tokens, num_heads, head_dim,
                        sum_type == OperandType::kMainGrad ? " sum" : "", pad ? " strided" : "");
  c.Add(Input("o_part", rows).Pad(pad).Moves(1, 0));
  c.Add(Input("lse_part", {num_heads, tokens}, Fill::Normal(2))
            .Pad(pad)
            .Type(OperandType::kMainGrad)
            .Moves(1, 0));
  c.Add(InOut("o", rows).Pad(pad).Type(sum_type).Moves(2, 0));
  c.Add(InOut("lse", {num_heads, tokens}, Fill::Normal(2))
            .Pad(pad)
            .Type(OperandType::kMainGrad)
            .Moves(2, 0));
  c.forward = [](Context& ctx, const CaseRun& t) {
    AttentionMerge(ctx, t["o_part"], t["lse_part"], t["o"], t["lse"]);
  };
  return c;
}

OpCase Bench(OpCase c, BenchOn on = BenchOn::kCpu) {
  c.bench_on = on;
  return c;
}

}  // namespace

void AddAttentionCases(std::vector<OpCase>* cases) {
  const auto add = [&](OpCase c) { cases->push_back(std::move(c)); };
  add(AttentionCase("1", {1}, {1, 1, 1}, true));
  cases->back().f32_abs = 1e-6;  // dq and dk are 0
  add(AttentionCase("none", {0}, {2, 1, 4}, true));
  add(AttentionCase("5,0,1,7", {5, 0, 1, 7}, {4, 2, 6}, true, 3));
  add(AttentionCase("5,0,1,7", {5, 0, 1, 7}, {2, 2, 9}, false, 5));
  add(AttentionCase("40,23", {40, 23}, {6, 2, 20}, true));
  add(AttentionCase("200", {200}, {2, 1, 8}, true));
  add(AttentionCase("197", {197}, {1, 1, 72}, false));
  add(RectangleCase({1}, {3}, {1, 1, 1}, false));
  add(RectangleCase({0}, {0}, {2, 1, 4}, true));
  add(RectangleCase({2, 0, 70, 1}, {40, 0, 1, 5}, {4, 2, 6}, false, 3));
  add(RectangleCase({2, 0, 70, 1}, {40, 0, 1, 5}, {4, 1, 8}, true, 8));
  add(RectangleCase({37, 5}, {197, 13}, {2, 2, 20}, true));
  add(RectangleCase({150}, {33}, {4, 2, 64}, true));
  // Of several tiles, whose borders they miss.
  add(AttentionCase("300,1,64,129", {300, 1, 64, 129}, {4, 2, 128}, true, 8));
  add(AttentionCase("300,1,64,129", {300, 1, 64, 129}, {2, 2, 80}, false));
  add(AttentionCase("131,257", {131, 257}, {4, 1, 56}, true));
  add(AttentionCase("131,257", {131, 257}, {3, 1, 96}, true));
  add(RectangleCase({300, 70}, {200, 513}, {4, 2, 128}, true, 8));
  add(RectangleCase({90, 257}, {385, 65}, {2, 1, 80}, false));
  add(MergeCase(1, 1, 1, OperandType::kCompute));
  add(MergeCase(0, 2, 4, OperandType::kMainGrad));
  add(MergeCase(13, 3, 7, OperandType::kCompute, 5));
  add(MergeCase(50, 4, 72, OperandType::kMainGrad));
  add(Bench(AttentionCase("8 x 256", std::vector<int64_t>(8, 256), {4, 4, 32}, false)));
  const std::vector<int64_t> mixed{50, 147, 244, 90, 187, 284, 130, 227, 73, 170, 267, 113};
  add(Bench(AttentionCase("12 x 50..284", mixed, {8, 4, 32}, true)));
  add(Bench(AttentionCase("12 x 50..284", mixed, {8, 4, 64}, true)));
  add(Bench(AttentionCase("1800", {1800}, {8, 4, 64}, true)));
  add(Bench(AttentionCase("1024", {1024}, {4, 4, 72}, false)));
  // Qwen2-VL-2B's LLM and encoder, a 7B's LLM, windows of Qwen2.5-VL.
  const std::vector<int64_t> documents{735, 1620, 402, 288, 2310, 951, 1130, 756};
  add(Bench(AttentionCase("8 x 288..2310", documents, {12, 2, 128}, true), BenchOn::kGpu));
  add(Bench(AttentionCase("8 x 288..2310", documents, {16, 16, 80}, false), BenchOn::kGpu));
  add(Bench(AttentionCase("8192", {8192}, {28, 4, 128}, true), BenchOn::kGpu));
  add(Bench(RectangleCase({4096}, {8192}, {12, 2, 128}, true), BenchOn::kGpu));
  add(Bench(MergeCase(8192, 12, 128, OperandType::kMainGrad), BenchOn::kGpu));
  add(Bench(AttentionCase("128 x 64", std::vector<int64_t>(128, 64), {16, 16, 80}, false),
            BenchOn::kGpu));
}

}  // namespace omnitrain
