#pragma once

#include <vector>

#include "core/model/llm_place.h"
#include "core/runtime/block_pool.h"
#include "core/runtime/context.h"

namespace omnitrain {

/// Which rows of a layer go where among the ranks of the ep axis: those that this rank sends, in
/// the order of experts and so of ranks, and those that it receives, R in all.
struct ExpertRoute {
  std::vector<int64_t> expert_rows;  // [E] rows that this rank sends to each expert
  std::vector<int64_t> sent;         // [ep] rows that it sends to each rank
  std::vector<int64_t> received;     // [ep] rows that it receives from each rank
  std::vector<int64_t> offsets;      // [experts here + 1] received rows sorted by expert
  int64_t num_received() const { return offsets.back(); }

  // Rows arrive in the order of ranks, then experts. Absent with one rank, or no rows.
  Tensor arrival_of;    // [R] int32: where a row in the order of experts arrived
  Tensor sorted_of;     // [R] int32: the inverse
  PooledTensor orders;  // both
};

/// Moves rows from tokens to the ranks that hold their experts and back. Rank r of the ep axis
/// holds experts [r E / ep, (r + 1) E / ep). Nothing is dropped and nothing padded.
/// Collective: all ranks of the axis make the same calls in the same order, also those without
/// rows. With one rank nothing is communicated. Deterministic.
class ExpertExchange {
 public:
  ExpertExchange() = default;
  /// Errors: kSpec where ep does not divide the experts.
  ExpertExchange(const AxisSeat& ep, int64_t num_experts);

  bool is_alone() const { return ep_.size == 1; }
  int64_t num_experts_here() const { return num_experts_ / ep_.size; }
  int64_t first_expert() const { return num_experts_here() * ep_.rank; }

  /// counts [E] int32: rows of each expert on this rank (MoePlan).
  /// Cost: one exchange of E counts. The host waits once for the stream: sizes and offsets of
  /// everything that follows are its own.
  ExpertRoute Plan(Context& ctx, BlockPool& pool, const Tensor& counts) const;

  /// experts [R, D], sorted by expert, = tokens [rows sent, D] of all ranks. Two or more ranks.
  /// Cost: R D elements of `pool` while it runs.
  void ToExperts(Context& ctx, BlockPool& pool, const ExpertRoute& route, const Tensor& tokens,
                 Tensor experts) const;
  /// The way back: tokens [rows sent, D] = experts [R, D] of all ranks.
  void FromExperts(Context& ctx, BlockPool& pool, const ExpertRoute& route, const Tensor& experts,
                   Tensor tokens) const;

 private:
  AxisSeat ep_;
  int64_t num_experts_ = 0;
};

}  // namespace omnitrain
