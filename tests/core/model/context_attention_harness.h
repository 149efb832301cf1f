#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "core/model/context_attention.h"
#include "parallel/comm/communicator.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {

// Attention over the ranks of any communicator, beside the kernel that sees all rows, in f64.

constexpr int64_t kHeadDim = 8;

/// Inputs, outputs and gradients of all rows, dense.
struct Whole {
  Whole(const RowLayout& layout, const AttentionHeads& heads, uint64_t seed)
      : T(layout.num_rows),
        H(heads.query),
        G(heads.kv),
        q(Array::Random(DType::kF64, {T, H, kHeadDim}, seed + 1)),
        k(Array::Random(DType::kF64, {T, G, kHeadDim}, seed + 2)),
        v(Array::Random(DType::kF64, {T, G, kHeadDim}, seed + 3)),
        d_o(Array::Random(DType::kF64, {T, H, kHeadDim}, seed + 4)),
        o(DType::kF64, {T, H, kHeadDim}),
        lse(DType::kF64, {H, T}),
        d_q(DType::kF64, {T, H, kHeadDim}),
        d_k(DType::kF64, {T, G, kHeadDim}),
        d_v(DType::kF64, {T, G, kHeadDim}) {}

  int64_t T, H, G;
  Array q, k, v, d_o, o, lse, d_q, d_k, d_v;
};

inline AttentionParams Causal(const std::vector<int32_t>& cu_seqlens) {
  AttentionParams params{true, 1 / std::sqrt(static_cast<double>(kHeadDim)), 0};
  for (size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    params.max_seqlen = std::max<int64_t>(params.max_seqlen, cu_seqlens[i + 1] - cu_seqlens[i]);
  }
  return params;
}

/// The outputs and gradients by the kernel that sees all rows.
inline void RunOneRank(const RowLayout& layout, Whole* w) {
  CpuContext cpu(1);
  const Array cu = Array::Ints(layout.cu_seqlens);
  const AttentionParams params = Causal(layout.cu_seqlens);
  AttentionForward(cpu.ctx, *w->q, *w->k, *w->v, *cu, params, *w->o, *w->lse);
  AttentionBackward(cpu.ctx, *w->d_o, *w->q, *w->k, *w->v, *w->o, *w->lse, *cu, params, *w->d_q,
                    *w->d_k, *w->d_v);
}

/// Rows of `whole` that `runs` list, to or from `part`, row after row.
inline void CopyRows(const Tensor& whole, const RowRuns& runs, const Tensor& part,
                     bool is_to_part) {
  int64_t i = 0;
  for (const RowRun& run : runs) {
    for (int64_t r = run.begin; r < run.end(); ++r, ++i) {
      double *a = whole.row<double>(r), *b = part.row<double>(i);
      for (int64_t d = 0; d < whole.shape.row_elements(); ++d) {
        (is_to_part ? b[d] : a[d]) = is_to_part ? a[d] : b[d];
      }
    }
  }
}

/// One micro-batch on one rank: its rows of q, k, v are columns of one tensor, and so are their
/// gradients.
class Share {
 public:
  Share(ContextAttention* attention, CpuContext* cpu, const RowLayout& layout, int rank,
        const Whole& inputs)
      : attention_(*attention),
        cpu_(*cpu),
        rows_(layout.CpRows(rank)),
        params_(Causal(layout.cu_seqlens)),
        H_(inputs.H),
        G_(inputs.G),
        rank_(rank),
        qkv_(DType::kF64, {NumRows(rows_), (inputs.H + 2 * inputs.G) * kHeadDim}, 3),
        d_qkv_(DType::kF64, {NumRows(rows_), (inputs.H + 2 * inputs.G) * kHeadDim}, 5),
        o_(DType::kF64, {NumRows(rows_), inputs.H, kHeadDim}, 1),
        d_o_(DType::kF64, {NumRows(rows_), inputs.H, kHeadDim}, 2),
        lse_(DType::kF64, {inputs.H, NumRows(rows_)}) {
    CopyRows(*inputs.q, rows_, Queries(qkv_), true);
    CopyRows(*inputs.k, rows_, Keys(qkv_, 0), true);
    CopyRows(*inputs.v, rows_, Keys(qkv_, 1), true);
    CopyRows(*inputs.d_o, rows_, *d_o_, true);
    Carver count;
    attention_.Carve(count, layout);
    memory_ = Buffer(*cpu_.device, count.used());
    Carver carver(memory_.data(), memory_.bytes(), DeviceKind::kCpu);
    tables_ = attention_.Carve(carver, layout);
    attention_.Upload(cpu_.ctx, tables_);
  }

  void Forward() {
    attention_.Forward(cpu_.ctx, tables_, Queries(qkv_), Keys(qkv_, 0), Keys(qkv_, 1), params_, *o_,
                       *lse_);
  }
  void Backward() {
    attention_.Backward(cpu_.ctx, tables_, *d_o_, Queries(qkv_), Keys(qkv_, 0), Keys(qkv_, 1), *o_,
                        *lse_, params_, Queries(d_qkv_), Keys(d_qkv_, 0), Keys(d_qkv_, 1));
  }
  /// This rank's part of the results; ranks write different elements.
  void Collect(Whole* w) const {
    CopyRows(*w->o, rows_, *o_, false);
    CopyRows(*w->d_q, rows_, Queries(d_qkv_), false);
    CopyRows(*w->d_k, rows_, Keys(d_qkv_, 0), false);
    CopyRows(*w->d_v, rows_, Keys(d_qkv_, 1), false);
    if (tables_.layout.method == ContextMethod::kUlysses) {
      const int64_t share = lse_.Values().size();
      for (int64_t i = 0; i < share; ++i) w->lse.at(rank_ * share + i, lse_.at(i));
      return;
    }
    int64_t i = 0;
    for (const RowRun& run : rows_) {
      for (int64_t r = run.begin; r < run.end(); ++r, ++i) {
        for (int64_t h = 0; h < H_; ++h) w->lse.at(h * w->T + r, lse_.at(h * NumRows(rows_) + i));
      }
    }
  }

 private:
  Tensor Queries(const Array& qkv) const {
    return (*qkv).Columns(0, H_ * kHeadDim).View({NumRows(rows_), H_, kHeadDim});
  }
  Tensor Keys(const Array& qkv, int64_t i) const {
    return (*qkv)
        .Columns((H_ + i * G_) * kHeadDim, G_ * kHeadDim)
        .View({NumRows(rows_), G_, kHeadDim});
  }

  ContextAttention& attention_;
  CpuContext& cpu_;
  RowRuns rows_;
  AttentionParams params_;
  int64_t H_, G_;
  int rank_;
  Array qkv_, d_qkv_, o_, d_o_, lse_;
  Buffer memory_;
  ContextTables tables_;
};

/// All micro-batches forward, then all backward, on one rank of `comm`; its rows go to `wholes`.
inline void RunRank(Communicator& comm, const std::vector<RowLayout>& layouts,
                    const AttentionHeads& heads, std::vector<Whole>* wholes) {
  CpuContext cpu(1);
  ContextAttention attention({comm.size(), comm.rank(), &comm}, heads, DType::kF64);
  std::vector<std::unique_ptr<Share>> shares;
  for (size_t i = 0; i < layouts.size(); ++i) {
    shares.push_back(
        std::make_unique<Share>(&attention, &cpu, layouts[i], comm.rank(), (*wholes)[i]));
  }
  for (auto& share : shares) share->Forward();
  for (auto& share : shares) share->Backward();
  for (size_t i = 0; i < layouts.size(); ++i) shares[i]->Collect(&(*wholes)[i]);
}

inline std::vector<int32_t> Borders(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> cu_seqlens{0};
  for (const int32_t n : lengths) cu_seqlens.push_back(cu_seqlens.back() + n);
  return cu_seqlens;
}

/// Sequences for n ranks whose runs are 8 rows, if not said otherwise.
inline std::vector<std::vector<int32_t>> Sequences(int n) {
  std::vector<std::vector<int32_t>> sequences = {
      {16 * n},                               // one document over all ranks
      {5 * n * 16 - 3},                       // and padding
      std::vector<int32_t>(16 * n, 1),        // single rows
      std::vector<int32_t>(2 * n, 8),         // documents that end where runs end
      {8, 16 * n - 16, 8},                    // borders of the first and last run
      {1},                                    // padding nearly alone
      {0, 8 * n - 1, 2, 0, 8 * n - 1, 0, 0},  // over the middle, empty ones
      {8 * n, 8 * n},
  };
  uint64_t draw = 0;
  for (int round = 0; round < 6; ++round) {
    std::vector<int32_t> lengths;
    const int32_t longest = round % 2 == 0 ? 9 : 70;
    for (int i = 0; i < 3 + 2 * round; ++i) {
      const auto range = static_cast<uint64_t>(longest);
      lengths.push_back(
          static_cast<int32_t>(RandomBits(5, static_cast<uint64_t>(n), draw++) % range));
    }
    sequences.push_back(lengths);
  }
  return sequences;
}

inline std::vector<RowLayout> Layouts(int n, const AttentionHeads& heads, ContextMethod method) {
  LlmPlace place;
  place.cp.size = n;
  place.context_method = method;
  std::vector<RowLayout> layouts;
  for (const std::vector<int32_t>& lengths : Sequences(n)) {
    const std::vector<int32_t> cu_seqlens = Borders(lengths);
    place.tp.size = 1 + static_cast<int>(layouts.size() % 2);
    layouts.push_back(MakeRowLayout(cu_seqlens.back(), cu_seqlens, place, heads));
  }
  return layouts;
}

inline std::vector<Whole> Inputs(const std::vector<RowLayout>& layouts,
                                 const AttentionHeads& heads) {
  std::vector<Whole> wholes;
  for (size_t i = 0; i < layouts.size(); ++i) wholes.emplace_back(layouts[i], heads, 10 * i);
  return wholes;
}

/// Against the kernel that sees all rows.
inline void CheckResults(const RowLayout& layout, const Whole& got, Whole want) {
  RunOneRank(layout, &want);
  const Bound bound{1e-12, 1e-12, 1e-12};
  CHECK(Compare(*got.o, *want.o, bound));
  CHECK(Compare(*got.lse, *want.lse, bound));
  CHECK(Compare(*got.d_q, *want.d_q, bound));
  CHECK(Compare(*got.d_k, *want.d_k, bound));
  CHECK(Compare(*got.d_v, *want.d_v, bound));
  if (layout.cp_size > 1) return;
  CHECK(got.o == want.o);
  CHECK(got.lse == want.lse);
  CHECK(got.d_q == want.d_q);
  CHECK(got.d_k == want.d_k);
  CHECK(got.d_v == want.d_v);
}

}  // namespace omnitrain
