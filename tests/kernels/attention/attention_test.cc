#include "kernels/attention/attention.h"

#include <cmath>
#include <vector>

#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

struct Case {
  std::vector<int32_t> lengths;
  int64_t heads, kv_heads, head_dim;
  bool is_causal;
  int64_t gap = 0;
};

/// Inputs, outputs and gradients of one attention call.
struct Problem {
  Problem(const Case& c, DType dtype) : spec(c) {
    std::vector<int32_t> cu{0};
    for (const int32_t n : c.lengths) {
      cu.push_back(cu.back() + n);
      params.max_seqlen = std::max<int64_t>(params.max_seqlen, n);
    }
    tokens = cu.back();
    cu_seqlens = Array::Ints(cu);
    params.is_causal = c.is_causal;
    params.softmax_scale = 1.3 / std::sqrt(static_cast<double>(c.head_dim));
    const Shape rows{tokens, c.heads, c.head_dim}, kv_rows{tokens, c.kv_heads, c.head_dim};
    q = Array::Random(dtype, rows, 1, c.gap);
    k = Array::Random(dtype, kv_rows, 2, c.gap);
    v = Array::Random(dtype, kv_rows, 3, 2 * c.gap);
    d_o = Array::Random(dtype, rows, 4, c.gap);
    o = Array(dtype, rows, c.gap);
    dq = Array(dtype, rows, c.gap);
    dk = Array(dtype, kv_rows, c.gap);
    dv = Array(dtype, kv_rows, 3 * c.gap);
    lse = Array(dtype, {c.heads, tokens});
  }

  void Forward(Context& ctx) { AttentionForward(ctx, *q, *k, *v, *cu_seqlens, params, *o, *lse); }
  void Backward(Context& ctx) {
    AttentionBackward(ctx, *d_o, *q, *k, *v, *o, *lse, *cu_seqlens, params, *dq, *dk, *dv);
  }

  Case spec;
  AttentionParams params;
  int64_t tokens = 0;
  Array cu_seqlens = Array::Ints({0});
  Array q{DType::kF32, {0}}, k = q, v = q, d_o = q, o = q, dq = q, dk = q, dv = q, lse = q;
};

double Dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// y += factor x.
void Add(double factor, const double* x, int64_t n, double* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

/// By definition, one row of scores at a time, in f64.
void ReferenceAttention(Problem* p) {
  const int64_t heads = p->spec.heads, kv_heads = p->spec.kv_heads, dim = p->spec.head_dim;
  const double scale = p->params.softmax_scale;
  const std::vector<double> q = p->q.Values(), k = p->k.Values(), v = p->v.Values();
  const std::vector<double> d_o = p->d_o.Values();
  std::vector<double> o(q.size()), dq(q.size()), dk(k.size()), dv(k.size());
  int64_t first = 0;
  for (const int64_t length : p->spec.lengths) {
    for (int64_t row = first * heads; row < (first + length) * heads; ++row) {
      const int64_t i = row / heads, h = row % heads, g = h * kv_heads / heads;
      const int64_t end = p->spec.is_causal ? i + 1 : first + length;
      const double *q_row = &q[row * dim], *d_o_row = &d_o[row * dim];
      std::vector<double> s;
      double max = -INFINITY, sum = 0;
      for (int64_t j = first; j < end; ++j) {
        s.push_back(scale * Dot(q_row, &k[(j * kv_heads + g) * dim], dim));
        max = std::max(max, s.back());
      }
      for (const double x : s) sum += std::exp(x - max);
      p->lse.at(h * p->tokens + i, max + std::log(sum));
      for (int64_t j = first; j < end; ++j) {
        double& x = s[j - first];
        x = std::exp(x - max) / sum;
        Add(x, &v[(j * kv_heads + g) * dim], dim, &o[row * dim]);
      }
      const double delta = Dot(d_o_row, &o[row * dim], dim);
      for (int64_t j = first; j < end; ++j) {
        const int64_t kv = (j * kv_heads + g) * dim;
        const double ds = scale * s[j - first] * (Dot(d_o_row, &v[kv], dim) - delta);
        Add(ds, &k[kv], dim, &dq[row * dim]);
        Add(ds, q_row, dim, &dk[kv]);
        Add(s[j - first], d_o_row, dim, &dv[kv]);
      }
    }
    first += length;
  }
  p->o.SetValues(o);
  p->dq.SetValues(dq);
  p->dk.SetValues(dk);
  p->dv.SetValues(dv);
}

const Case kCases[] = {
    {{1}, 1, 1, 1, true},
    {{5, 0, 1, 7}, 2, 1, 8, true, 3},
    {{5, 0, 1, 7}, 2, 2, 8, false},
    {{0}, 2, 2, 4, true},
    {{50, 37, 0, 61}, 8, 4, 32, true},
    {{64, 1, 33}, 4, 4, 32, false, 5},
    {{193, 192, 191}, 2, 1, 64, true},
    {{200, 17}, 3, 3, 72, false, 8},
    {{97}, 6, 1, 80, true, 1},
    {{23, 40}, 14, 2, 7, true},
    {{30}, 2, 1, 256, true},
    {{400}, 2, 2, 20, true},
    {{391}, 2, 2, 20, false},
};

TEST_CASE("attention is softmax(scale q k^T) v, and its gradients are exact") {
  CpuContext cpu(2);
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    for (const Case& c : kCases) {
      Problem got(c, dtype), want(c, DType::kF64);
      got.Forward(cpu.ctx);
      got.Backward(cpu.ctx);
      ReferenceAttention(&want);
      INFO(DTypeName(dtype) << " first length " << c.lengths[0] << " heads " << c.heads << "/"
                            << c.kv_heads << " dim " << c.head_dim << " causal " << c.is_causal);
      // Relative to the whole tensor, and per element to the size of its terms.
      const double eps = dtype == DType::kF32 ? 0x1p-23 : 0x1p-52;
      const Bound out{20 * eps, 20 * eps, 6 * eps}, grad{300 * eps, 60 * eps, 12 * eps};
      CHECK(Compare(*got.o, *want.o, out));
      CHECK(Compare(*got.lse, *want.lse, out));
      CHECK(Compare(*got.dq, *want.dq, grad));
      CHECK(Compare(*got.dk, *want.dk, grad));
      CHECK(Compare(*got.dv, *want.dv, grad));
    }
  }
}

TEST_CASE("attention is the same bit for bit, whatever the number of threads") {
  const Case c{{301, 77, 12, 0, 150}, 8, 4, 32, true};
  Problem first(c, DType::kF32);
  {
    CpuContext cpu(1);
    first.Forward(cpu.ctx);
    first.Backward(cpu.ctx);
  }
  for (const int threads : {1, 2, 5}) {
    CpuContext cpu(threads);
    Problem p(c, DType::kF32);
    p.Forward(cpu.ctx);
    p.Backward(cpu.ctx);
    CHECK(p.o == first.o);
    CHECK(p.lse == first.lse);
    CHECK(p.dq == first.dq);
    CHECK(p.dk == first.dk);
    CHECK(p.dv == first.dv);
  }
}

TEST_CASE("a query does not see keys behind it or of other sequences") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const Case c{{20, 30}, 2, 1, 16, true};
    Problem p(c, dtype);
    p.Forward(cpu.ctx);
    Problem changed(c, dtype);
    for (int64_t i = 35 * 16; i < 50 * 16; ++i) changed.k.at(i, 1e4), changed.v.at(i, -1e4);
    changed.Forward(cpu.ctx);
    for (int64_t i = 0; i < 35 * 2 * 16; ++i) REQUIRE(changed.o.at(i) == p.o.at(i));
    CHECK(changed.o.at(35 * 2 * 16) != p.o.at(35 * 2 * 16));
  }
}

TEST_CASE("large scores neither overflow nor lose the sum") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    Problem got({{70}, 2, 2, 16, true}, dtype), want({{70}, 2, 2, 16, true}, DType::kF64);
    for (Problem* p : {&got, &want}) p->params.softmax_scale = 64;
    got.Forward(cpu.ctx);
    ReferenceAttention(&want);
    CHECK(Compare(*got.o, *want.o, {dtype == DType::kF32 ? 2e-3 : 1e-11}));
  }
}

TEST_CASE("NaN in the input is NaN in the output and in the gradients") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const int which : {0, 1, 2}) {
      Problem p({{40}, 2, 2, 16, true}, dtype);
      Array* input = which == 0 ? &p.q : which == 1 ? &p.k : &p.v;
      input->at(20 * 32 + 3, std::nan(""));
      p.Forward(cpu.ctx);
      p.Backward(cpu.ctx);
      CHECK(std::isnan(p.o.at(20 * 32 + 3)));
      CHECK(std::isnan(p.dq.at(20 * 32 + 3)));
      CHECK(std::isnan(p.dk.at(20 * 32 + 3)));
    }
  }
}

TEST_CASE("parts over disjoint keys make the whole, forward and backward") {
  CpuContext cpu;
  // 70 rows of one sequence, cut behind row 27: two causal squares and a rectangle.
  constexpr int64_t kRows = 70, kCut = 27, kHeads = 4, kLater = kRows - kCut;
  Problem whole({{kRows}, kHeads, 2, 16, true}, DType::kF64);
  whole.Forward(cpu.ctx);
  whole.Backward(cpu.ctx);

  Problem got({{kRows}, kHeads, 2, 16, true, 3}, DType::kF64);
  const Array squares = Array::Ints({0, kCut, kRows});
  const AttentionSegments causal{*squares, *squares, kLater, kLater};
  const Array queries = Array::Ints({0, kLater}), keys = Array::Ints({0, kCut});
  const AttentionSegments rectangle{*queries, *keys, kLater, kCut};
  AttentionParams full = got.params;
  full.is_causal = false;
  const auto earlier = [](const Array& a) { return (*a).Rows(0, kCut); };
  const auto later = [](const Array& a) { return (*a).Rows(kCut, kLater); };
  Array o_part(DType::kF64, {kLater, kHeads, 16}, 1), lse_part(DType::kF64, {kHeads, kLater}, 2);
  const Tensor lse = (*got.lse).Columns(kCut, kLater);
  AttentionForward(cpu.ctx, *got.q, *got.k, *got.v, causal, got.params, *got.o, *got.lse);
  AttentionForward(cpu.ctx, later(got.q), earlier(got.k), earlier(got.v), rectangle, full, *o_part,
                   *lse_part);
  AttentionMerge(cpu.ctx, *o_part, *lse_part, later(got.o), lse);
  const Bound bound{1e-13, 1e-13, 1e-14};
  CHECK(Compare(*got.o, *whole.o, bound));
  CHECK(Compare(*got.lse, *whole.lse, bound));

  AttentionBackward(cpu.ctx, *got.d_o, *got.q, *got.k, *got.v, *got.o, *got.lse, causal, got.params,
                    {*got.dq, *got.dk, *got.dv});
  AttentionBackward(
      cpu.ctx, later(got.d_o), later(got.q), earlier(got.k), earlier(got.v), later(got.o), lse,
      rectangle, full,
      {later(got.dq), earlier(got.dk), earlier(got.dv), Write::kAccumulate, Write::kAccumulate});
  CHECK(Compare(*got.dq, *whole.dq, bound));
  CHECK(Compare(*got.dk, *whole.dk, bound));
  CHECK(Compare(*got.dv, *whole.dv, bound));
}

TEST_CASE("a part without keys changes nothing, and a whole without keys becomes the part") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    const Array a = Array::Random(dtype, {5, 2, 3}, 1), lse = Array::Random(dtype, {2, 5}, 2);
    const Array zero = Array::Filled(dtype, {5, 2, 3}, 0);
    const Array none = Array::Filled(dtype, {2, 5}, -INFINITY);
    Array o = a, o_lse = lse;
    AttentionMerge(cpu.ctx, *zero, *none, *o, *o_lse);
    CHECK(o == a);
    CHECK(o_lse == lse);
    o = zero, o_lse = none;
    AttentionMerge(cpu.ctx, *zero, *none, *o, *o_lse);
    CHECK(o == zero);
    CHECK(o_lse == none);
    AttentionMerge(cpu.ctx, *a, *lse, *o, *o_lse);
    CHECK(o == a);
    CHECK(o_lse == lse);
  }
}

TEST_CASE("attention refuses what does not fit") {
  CpuContext cpu;
  Problem p({{4, 6}, 4, 2, 8, true}, DType::kF32);
  p.params.max_seqlen = 5;
  CHECK_THROWS_WITH(p.Forward(cpu.ctx),
                    Catch::Contains("sequence 1 has 6 tokens, max_seqlen is 5"));
  p.params.max_seqlen = 6;
  p.cu_seqlens = Array::Ints({0, 4, 9});
  CHECK_THROWS_WITH(p.Forward(cpu.ctx), Catch::Contains("runs from 0 to 9, expected 0 to 10"));
  p.cu_seqlens = Array::Ints({0, 11, 10});
  CHECK_THROWS_WITH(p.Forward(cpu.ctx), Catch::Contains("sequence 0 has 11 tokens"));
  const Array queries = Array::Ints({0, 4, 10}), keys = Array::Ints({0, 0, 10});
  CHECK_THROWS_WITH(
      AttentionForward(cpu.ctx, *p.q, *p.k, *p.v, {*queries, *keys, 6, 10}, p.params, *p.o, *p.lse),
      Catch::Contains("segment 0 has 4 queries and 0 keys"));
  Problem uneven({{4}, 5, 2, 8, true}, DType::kF32);
  CHECK_THROWS_WITH(uneven.Forward(cpu.ctx), Catch::Contains("5 query heads over 2 kv heads"));
}

}  // namespace
}  // namespace omnitrain
