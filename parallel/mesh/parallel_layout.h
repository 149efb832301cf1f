#pragma once

#include <optional>
#include <string>

#include "parallel/mesh/mesh.h"

namespace omnitrain {

/// The degrees that a job asks for, as in its `parallel` section.
struct ParallelDegrees {
  int tp = 1, cp = 1, pp = 1;
  int vpp = 1;            // chunks (local stages) per rank of the pipeline
  int ep = 1;             // ranks that share the experts of a layer
  std::optional<int> dp;  // inferred from the world when not given
  int encoder_ranks = 0;  // ranks of encoders alone (`disaggregated`), behind those of the LLM
  Mesh::Order order = Mesh::kDefaultOrder;
};

/// Who holds what: the LLM's mesh, and the ranks that may encode, over one world. A value.
/// Unless encoders have ranks of their own, they share the LLM's; which of these encode is a matter
/// of the placement.
class ParallelLayout {
 public:
  /// One rank.
  ParallelLayout() = default;
  /// Errors: kSpec naming the key and its arithmetic,
  /// `parallel.llm.dp: world of 6 ranks is not tp*cp*pp*dp = 4`.
  static ParallelLayout Build(const ParallelDegrees& degrees, int world_size);

  int world_size() const { return world_size_; }
  const Mesh& llm() const { return llm_; }
  const Mesh& encoder() const { return encoder_; }
  bool is_disaggregated() const { return encoder_.first_rank() != llm_.first_rank(); }
  int vpp() const { return vpp_; }
  int ep() const { return ep_; }

  /// Copies of the LLM, and which of them `rank` belongs to. Requires llm().Contains(rank).
  int num_replicas() const { return llm_.size(Axis::kDp); }
  int ReplicaOf(int rank) const { return llm_.Coordinate(rank, Axis::kDp); }
  /// The tp x cp x pp ranks of the replica that `rank` belongs to, ascending.
  std::vector<int> ReplicaRanks(int rank) const;
  /// For logs: "world 8: llm ranks 0-7: tp=2 ... vpp=1 ep=1", and encoders that are apart.
  std::string ToString() const;

 private:
  int world_size_ = 1;
  Mesh llm_, encoder_;
  int vpp_ = 1, ep_ = 1;
};

}  // namespace omnitrain
