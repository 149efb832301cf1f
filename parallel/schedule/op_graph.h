#pragma once

#include <utility>
#include <vector>

#include "parallel/schedule/op_index.h"

namespace omnitrain {

/// Which communication ops of a rank wait for each other.
enum class TransferOrder {
  /// Every launched one blocks all later ones of its rank: what a schedule must survive.
  kStrict,
  /// One blocks the later ones between the same two ranks in the same direction, as links of
  /// communicators do; a RESHARD that stays on its rank is a copy in line with the compute ops.
  kByLink,
};

struct OpGraphOptions {
  /// True: data goes from stage to stage, and from encoders to these LLM stages, without SEND, RECV
  /// and RESHARD, which must not be there. False: by them, wherever ranks differ.
  bool is_direct = false;
  std::vector<int> consumer_stages;
  TransferOrder order = TransferOrder::kStrict;
};

/// What waits for what in a schedule. A node is one compute op, or all ops of one rendezvous: a
/// SEND with its RECV, a RESHARD on all its ranks. Its edges are
/// - data: F upwards through the stages, gradients downwards, W behind I, RESHARD between encoders
///   and the LLM;
/// - order: on each rank, compute ops one after the other, and communication ops as options.order
///   says; the two do not block each other.
/// REDUCE_GRAD, STEP and FREE count as compute.
/// Errors: kInternal, naming rank and op, where an op or its partner is missing.
class OpGraph {
 public:
  explicit OpGraph(const OpIndex& index, OpGraphOptions options = {});

  int num_nodes() const { return static_cast<int>(ops_.size()); }
  int NodeOf(int id) const { return node_[static_cast<size_t>(id)]; }
  /// Ids of the ops of the node, one a rank.
  const std::vector<int>& ops(int node) const { return ops_[static_cast<size_t>(node)]; }
  const std::vector<int>& successors(int node) const {
    return successors_[static_cast<size_t>(node)];
  }
  /// Nodes behind all that they wait for. Deterministic.
  /// Errors: kInternal when there is a cycle: a deadlock; names all ops around it.
  std::vector<int> Order() const;

 private:
  void MakeNodes();
  void MakeSendNode(int send);
  void MakeReshardNode(int id);
  void AddNode(std::vector<int> ids);
  void AddEdge(int from_id, int to_id);
  void AddLaneEdges();
  /// What ops of a rank take in turn: its compute {-1, -1}, all its communication {-2, -2}, or a
  /// link {from, to}.
  using Lane = std::pair<int, int>;
  std::vector<Lane> LanesOf(int id) const;
  void AddDataEdges(int id);
  /// From the stage next to that of `id` in the direction of its data.
  void AddStageEdges(int id, const std::vector<OpKind>& kinds, int neighbour, OpKind recv);
  /// From all ops of `kinds` with these fields on the rank of `id`, or on any when direct.
  int AddEdgesFrom(int id, const std::vector<OpKind>& kinds, const std::string& module, int stage,
                   int slice);
  void AddReshardEdges(int id, OpKind reshard);
  [[noreturn]] void RefuseCycle(const std::vector<int>& num_waits) const;

  const OpIndex& index_;
  const OpGraphOptions options_;
  std::vector<int> node_;              // by op
  std::vector<std::vector<int>> ops_;  // by node
  std::vector<std::vector<int>> successors_;
};

}  // namespace omnitrain
