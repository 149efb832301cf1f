#pragma once

#include <cstdint>
#include <vector>

#include "core/model/llm_place.h"
#include "core/model/ring_blocks.h"
#include "core/model/row_layout.h"
#include "core/runtime/carver.h"
#include "core/runtime/context.h"
#include "kernels/attention/attention.h"

namespace omnitrain {

/// What attention needs to know of one micro-batch on one cp rank.
struct ContextTables {
  struct Block {
    SeenBlock rows;
    AttentionSegments segments;
  };
  RowLayout layout;
  AttentionSegments own;  // ring: this rank's documents, cut at its runs; else all documents
  // The ring, by step s: what this rank sees of the keys of cp rank - s (step 0: of its own, over
  // the border of two runs), and its own keys that cp rank + s sees (step 0: none).
  std::vector<Block> seen;
  std::vector<RowRun> shown;
  std::vector<int32_t> host;  // the values of `device`
  Tensor device;
};

/// Causal attention of one layer over the cp ranks, all layers of a stack alike. On one cp rank it
/// is AttentionForward and -Backward, nothing else.
///
/// Ring: a rank's own documents first, then step by step the keys that it sees of each other rank;
/// parts are joined by AttentionMerge. At step s a rank sends what cp rank + s sees of its keys
/// straight to it, while both compute step s - 1: as many bytes as blocks that pass from
/// neighbour to neighbour, fewer where documents are short. In the backward gradients of keys go
/// back the same way and are added up where the keys live, in the order of steps.
/// Source: Liu et al. 2023 (ring attention); zigzag rows as in ring_blocks.h.
/// Ulysses: AllToAllV turns rows / cp of all heads into all rows of heads / cp, and back; kv heads
/// fewer than cp are sent to several ranks, their gradients added up in rank order.
/// Source: Jacobs et al. 2023 (DeepSpeed-Ulysses).
///
/// Dtype: sums over parts in that of lse (f32 for bf16); what is sent is of the compute dtype.
/// Collective over cp, the same layout on each rank; messages of a pair come in one order, so tags
/// are not needed.  Deterministic.  Async: nothing waits on the host but Reserve.
class ContextAttention {
 public:
  /// `heads` of this tp rank. To run, cp needs its communicator, which must live as long as this
  /// and carry messages for the ring.
  ContextAttention(const AxisSeat& cp, const AttentionHeads& heads, DType dtype);

  /// Lays out the tables of a micro-batch.
  ContextTables Carve(Carver& carver, const RowLayout& layout) const;
  /// Fills carved tables and makes the workspace large enough for them.
  void Upload(Context& ctx, const ContextTables& tables);

  /// Bytes that Forward and Backward need beside their operands: one block for all layers and
  /// micro-batches. In elements, with Tc rows here, at most: the ring (H + 14 G) Tc K, H Tc of lse,
  /// and in bf16 (H + 4 G) Tc K in f32; Ulysses 8 (H + G') Tc K, G' = max(G, cp), and in bf16
  /// (2 G + 1) Tc K in f32 where kv heads are on several ranks.
  size_t WorkspaceBytes(const ContextTables& tables) const;
  /// Grows the workspace to `bytes`; waits for the stream when it does.
  void Reserve(Context& ctx, size_t bytes);

  /// o, lse of this rank's rows.
  /// Shapes: q, o [Tc, H, K]; k, v [Tc, G, K], dim 0 may be strided; lse [H, Tc] dense. The ring
  /// leaves in lse the statistics of these rows; Ulysses [H / cp, T], those of all rows for this
  /// rank's heads: for Backward only.  `params`: is_causal, softmax_scale.
  void Forward(Context& ctx, const ContextTables& tables, const Tensor& q, const Tensor& k,
               const Tensor& v, const AttentionParams& params, Tensor o, Tensor lse);
  /// d_q, d_k, d_v = gradients; shapes as above.
  void Backward(Context& ctx, const ContextTables& tables, const Tensor& d_o, const Tensor& q,
                const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
                const AttentionParams& params, Tensor d_q, Tensor d_k, Tensor d_v);

 private:
  AxisSeat cp_;
  AttentionHeads heads_;
  DType dtype_;
  Buffer workspace_;
};

}  // namespace omnitrain
