#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/model/config.h"
#include "core/model/llm_place.h"
#include "core/optim/sharded_adamw.h"
#include "core/spec/job_spec.h"
#include "core/train/step_executor.h"
#include "parallel/mesh/parallel_layout.h"

namespace omnitrain {

/// The degrees of a spec's `parallel` section.
ParallelDegrees DegreesOf(const JobSpec& spec);

/// Refuses a spec whose degrees and stages the model does not split over.  Errors: kSpec.
void CheckSplit(const JobSpec& spec, const TextConfig& text);

/// Makes a communicator for tensors of the job's device; `has_messages`: Send and Recv will be
/// used.  Collective over `ranks`.
using NewGroup = std::function<std::unique_ptr<Communicator>(
    const std::string& name, const std::vector<int>& ranks, bool has_messages)>;

/// What a rank is given to run with: its device, the world, and how to make groups of it.
struct JobRuntime {
  Context* ctx = nullptr;
  Communicator* world = nullptr;
  ParallelLayout layout;
  NewGroup new_group;
};

/// A rank's place in a layout without any communicator: for plans and estimates.
LlmPlace PlaceOf(const ParallelLayout& layout, int rank, const JobSpec& spec);
ReplicaShape ShapeOf(const ParallelLayout& layout, int rank, const JobSpec& spec);

/// The ranks that share the experts of a layer with `rank`, in the order of what they hold. Pure.
std::vector<int> ExpertRanks(const ParallelLayout& layout, int rank);

/// The ranks that hold the same elements as `rank`, per class of parameters, in the order of ranks.
/// Pure. `num_kv_heads`: of the whole model.
std::vector<int> SharingRanks(const ParallelLayout& layout, int rank, ParamSharing sharing,
                              int num_kv_heads);
/// Their numbers, as ParamStore::AllocateOptions wants them.
std::array<int, kNumParamSharings> SharingSizes(const ParallelLayout& layout, int rank,
                                                int num_kv_heads);

/// How a spec stores parameters: dtype, frozen groups, and over how many ranks of each class, of
/// which this is which.
ParamStore::AllocateOptions ParamLayoutOf(const JobSpec& spec,
                                          const std::array<int, kNumParamSharings>& num_shards,
                                          const std::array<int, kNumParamSharings>& shard_idx = {});

/// The groups of one layout, and this rank's place in them. Outlives what uses them.
class LayoutGroups {
 public:
  /// Collective over the world: all ranks make the same groups in the same order.
  /// Errors: kSpec before any of them is made, for a model that does not split so.
  LayoutGroups(const JobRuntime& runtime, const JobSpec& spec, const TextConfig& text);

  const LlmPlace& place() const { return place_; }
  const ReplicaGroups& replica() const { return replica_; }
  const SharingGroups& sharing() const { return sharing_; }
  /// Which copy of the LLM this rank is a part of, and whether it speaks for it.
  int replica_idx() const { return replica_idx_; }
  int num_replicas() const { return num_replicas_; }
  bool leads_replica() const { return leads_replica_; }
  /// This rank holds all of the model and needs no other to run it.
  bool runs_alone() const { return runs_alone_; }

 private:
  Communicator* Make(const NewGroup& new_group, const std::string& name,
                     const std::vector<int>& ranks, bool has_messages = false);

  std::vector<std::unique_ptr<Communicator>> owned_;
  LlmPlace place_;
  ReplicaGroups replica_;
  SharingGroups sharing_;
  int replica_idx_ = 0, num_replicas_ = 1;
  bool leads_replica_ = true, runs_alone_ = true;
};

}  // namespace omnitrain
