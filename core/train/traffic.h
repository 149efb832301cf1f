#pragma once

#include <array>
#include <string>
#include <vector>

#include "core/train/step_plan.h"
#include "parallel/mesh/parallel_layout.h"

namespace omnitrain {

// The bytes that the ranks of a layout send each other in a training step, by arithmetic.
//
// Counted is what leaves a rank: an all-gather or reduce-scatter of S bytes over n ranks sends
// S (n - 1) / n from each rank to the next one of its group (a ring in the order of ranks, which
// NCCL may replace by another one of equal bytes), an all-reduce twice that, AllToAllV and Send
// what they are given, without what stays on the rank. Rows go to experts evenly. Left out are
// the few scalars of a step (loss, norm, notes of the trainer).

/// What travels, by the group of ranks that it stays in.
enum class TrafficAxis {
  kTp,     // rows of the residual, gathered and summed; ids and losses over the vocabulary
  kCp,     // keys, values and their gradients, or heads
  kSeats,  // tp x cp: encoder rows to where the LLM wants them; loads of experts
  kPp,     // activations, their gradients, features of deep-stack layers
  kEp,     // rows to experts and back
  // Gradients and new parameters, by ParamSharing and in its order.
  kSlice,
  kWhole,
  kKvHeads,
  kTied,
  kExperts,
};
constexpr int kNumTrafficAxes = 10;
/// "tp", "tp*cp", "gradients of whole parameters", ...
const char* TrafficAxisName(TrafficAxis axis);

/// What one rank sends in one group, in bytes.
struct SentBytes {
  double to_next = 0;      // to the rank after it, around
  double to_each = 0;      // to each of the others
  std::vector<double> to;  // by place in the group; empty: nothing else

  void Add(size_t place, double bytes);
  void Scale(double factor);
};
using RankTraffic = std::array<SentBytes, kNumTrafficAxes>;

/// Adds what the seat shape.seat of a pipeline rank sends in a step, without parameters but for
/// sharded layers, whose values are gathered and gradients reduced in each micro-batch. `model` is
/// placed on that pipeline rank, on any of its seats, its parameters planned; `plan` is of these
/// micro-batches.
void AddStepTraffic(const MultimodalModel& model, const ReplicaShape& shape, const StepPlan& plan,
                    const std::vector<MicroBatch>& batches, RankTraffic* traffic);

/// Adds the gradients that a rank reduces and the parameters that it hands out once a step, when
/// `params` is planned. Whole buckets travel, gaps included.
void AddParamTraffic(const ParamStore& params, const std::array<int, kNumParamSharings>& num_shards,
                     RankTraffic* traffic);

/// One axis of the whole world.
struct AxisTraffic {
  int num_ranks = 1;  // of a group
  double most = 0;    // bytes of the rank that sends most
  double total = 0;   // bytes of all ranks
  double across = 0;  // of total: to ranks of other nodes
};

/// Sums over the world, with rank r on node r / ranks_per_node. `replica[pp_rank * num_seats +
/// seat]`: what these ranks of a replica send; all replicas alike.
std::array<AxisTraffic, kNumTrafficAxes> SumTraffic(const ParallelLayout& layout,
                                                    const std::vector<RankTraffic>& replica,
                                                    int num_kv_heads, int ranks_per_node);

/// A table with a line for each axis that carries something; "" when none does.
std::string TrafficTable(const std::array<AxisTraffic, kNumTrafficAxes>& traffic);

}  // namespace omnitrain
