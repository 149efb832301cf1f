#include "core/train/layout_groups.h"

#include <algorithm>
#include <numeric>

#include "core/model/check_place.h"
#include "core/train/compute_dtype.h"

namespace omnitrain {
namespace {

// The ranks of a stage, cut into groups that share the experts of a layer; the same order on all.
std::vector<int> StageRanks(const ParallelLayout& layout, int rank) {
  return layout.llm().Group(rank, {Axis::kTp, Axis::kCp, Axis::kDp});
}

AxisSeat SeatIn(const std::vector<int>& ranks, int rank) {
  AxisSeat seat;
  seat.size = static_cast<int>(ranks.size());
  seat.rank = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
  return seat;
}

std::optional<RecomputePlan> RecomputeOf(const TrainSpec& train) {
  RecomputePlan plan;
  plan.num_layers = train.recompute_layers.value_or(RecomputePlan::kAllLayers);
  switch (train.recompute) {
    case RecomputeChoice::kAuto:
      return std::nullopt;
    case RecomputeChoice::kNone:
      plan.kind = Recompute::kNone;
      break;
    case RecomputeChoice::kSelective:
      plan.kind = Recompute::kNormsAndActivations;
      break;
    case RecomputeChoice::kFull:
      plan.kind = Recompute::kFull;
      break;
  }
  return plan;
}

}  // namespace

ParallelDegrees DegreesOf(const JobSpec& spec) {
  const LlmParallelSpec& llm = spec.parallel.llm;
  ParallelDegrees degrees;
  degrees.tp = llm.tp;
  degrees.cp = llm.cp;
  degrees.pp = llm.pp;
  degrees.vpp = llm.vpp;
  degrees.ep = llm.ep;
  degrees.dp = llm.dp;
  degrees.encoder_ranks = spec.parallel.encoder.ranks;
  for (size_t i = 0; i < spec.parallel.order.size() && i < degrees.order.size(); ++i) {
    for (Axis axis : Mesh::kDefaultOrder) {
      if (spec.parallel.order[i] == AxisName(axis)) degrees.order[i] = axis;
    }
  }
  return degrees;
}

std::vector<int> ExpertRanks(const ParallelLayout& layout, int rank) {
  const std::vector<int> stage = StageRanks(layout, rank);
  const auto place = std::find(stage.begin(), stage.end(), rank) - stage.begin();
  const auto first = stage.begin() + place / layout.ep() * layout.ep();
  return {first, first + layout.ep()};
}

void CheckSplit(const JobSpec& spec, const TextConfig& text) {
  CheckPlace(text, DegreesOf(spec));
  const std::vector<int64_t>& layers = spec.parallel.llm.stage_layers;
  const int64_t num_layers = std::accumulate(layers.begin(), layers.end(), int64_t{0});
  OT_REQUIRE(layers.empty() || num_layers == text.num_layers, ErrorCode::kSpec,
             "parallel.llm.stage_layers: {} layers, the model has {}", num_layers, text.num_layers);
}

LlmPlace PlaceOf(const ParallelLayout& layout, int rank, const JobSpec& spec) {
  const Mesh& mesh = layout.llm();
  LlmPlace place;
  place.tp = SeatIn(mesh.Group(rank, Axis::kTp), rank);
  place.cp = SeatIn(mesh.Group(rank, Axis::kCp), rank);
  place.ep = SeatIn(ExpertRanks(layout, rank), rank);
  place.context_method = spec.parallel.llm.cp_method == CpMethod::kRing ? ContextMethod::kRing
                         : spec.parallel.llm.cp_method == CpMethod::kUlysses
                             ? ContextMethod::kUlysses
                             : ContextMethod::kAuto;
  const int pp = mesh.size(Axis::kPp);
  place.num_stages = pp * layout.vpp();
  place.stages.clear();
  for (int chunk = 0; chunk < layout.vpp(); ++chunk) {
    place.stages.push_back(chunk * pp + mesh.Coordinate(rank, Axis::kPp));
  }
  for (int64_t n : spec.parallel.llm.stage_layers)
    place.stage_layers.push_back(static_cast<int>(n));
  return place;
}

ReplicaShape ShapeOf(const ParallelLayout& layout, int rank, const JobSpec& spec) {
  const Mesh& mesh = layout.llm();
  ReplicaShape shape;
  shape.pp = mesh.size(Axis::kPp);
  shape.pp_rank = mesh.Coordinate(rank, Axis::kPp);
  shape.vpp = layout.vpp();
  shape.pipeline = shape.vpp > 1 ? PipelineKind::kInterleaved
                   : spec.parallel.llm.schedule == PipelineSchedule::kZeroBubble
                       ? PipelineKind::kZeroBubbleH1
                       : PipelineKind::kOneFOneB;
  const std::vector<int> seats = mesh.Group(rank, {Axis::kTp, Axis::kCp});
  shape.seats.clear();
  for (int r : seats) {
    shape.seats.push_back({mesh.Coordinate(r, Axis::kCp), mesh.Coordinate(r, Axis::kTp)});
  }
  shape.seat = SeatIn(seats, rank).rank;
  shape.recompute = RecomputeOf(spec.train);
  return shape;
}

std::vector<int> SharingRanks(const ParallelLayout& layout, int rank, ParamSharing sharing,
                              int num_kv_heads) {
  const Mesh& mesh = layout.llm();
  const std::vector<int> stage = StageRanks(layout, rank);
  std::vector<int> ranks;
  switch (sharing) {
    case ParamSharing::kSlice:
      return mesh.Group(rank, {Axis::kCp, Axis::kDp});
    case ParamSharing::kWhole:
      return stage;
    case ParamSharing::kKvHeads: {
      const int per_head = std::max(1, mesh.size(Axis::kTp) / std::max(1, num_kv_heads));
      const int head = mesh.Coordinate(rank, Axis::kTp) / per_head;
      for (int r : stage) {
        if (mesh.Coordinate(r, Axis::kTp) / per_head == head) ranks.push_back(r);
      }
      return ranks;
    }
    case ParamSharing::kTied: {
      const int last = mesh.size(Axis::kPp) - 1;
      for (int r : mesh.Group(rank, {Axis::kCp, Axis::kDp, Axis::kPp})) {
        const int pp = mesh.Coordinate(r, Axis::kPp);
        if (pp == 0 || pp == last) ranks.push_back(r);
      }
      return ranks;
    }
    case ParamSharing::kExperts: {
      const int mine = SeatIn(ExpertRanks(layout, rank), rank).rank;
      for (size_t i = 0; i < stage.size(); ++i) {
        if (static_cast<int>(i) % layout.ep() == mine) ranks.push_back(stage[i]);
      }
      return ranks;
    }
  }
  return {rank};
}

std::array<int, kNumParamSharings> SharingSizes(const ParallelLayout& layout, int rank,
                                                int num_kv_heads) {
  std::array<int, kNumParamSharings> sizes{};
  for (int i = 0; i < kNumParamSharings; ++i) {
    const auto sharing = static_cast<ParamSharing>(i);
    sizes[static_cast<size_t>(i)] =
        static_cast<int>(SharingRanks(layout, rank, sharing, num_kv_heads).size());
  }
  return sizes;
}

ParamStore::AllocateOptions ParamLayoutOf(const JobSpec& spec,
                                          const std::array<int, kNumParamSharings>& num_shards,
                                          const std::array<int, kNumParamSharings>& shard_idx) {
  ParamStore::AllocateOptions options;
  options.dtype = ComputeDType(spec.precision);
  options.num_shards = num_shards;
  options.shard_idx = shard_idx;
  if (spec.parallel.llm.zero_stage == 3) options.sharded_stack = "llm";
  options.frozen[static_cast<int>(ParamGroup::kVision)] = spec.train.vision.freeze;
  options.frozen[static_cast<int>(ParamGroup::kProjector)] = spec.train.projector.freeze;
  options.frozen[static_cast<int>(ParamGroup::kLlm)] = spec.train.llm.freeze;
  return options;
}

Communicator* LayoutGroups::Make(const NewGroup& new_group, const std::string& name,
                                 const std::vector<int>& ranks, bool has_messages) {
  if (ranks.size() == 1) return nullptr;
  owned_.push_back(new_group(name, ranks, has_messages));
  return owned_.back().get();
}

LayoutGroups::LayoutGroups(const JobRuntime& runtime, const JobSpec& spec, const TextConfig& text) {
  CheckSplit(spec, text);
  const ParallelLayout& layout = runtime.layout;
  const NewGroup& new_group = runtime.new_group;
  const Mesh& mesh = layout.llm();
  const int rank = runtime.world->global_rank();
  place_ = PlaceOf(layout, rank, spec);
  replica_.shape = ShapeOf(layout, rank, spec);
  place_.tp.comm = Make(new_group, "llm.tp", mesh.Group(rank, Axis::kTp));
  place_.cp.comm = Make(new_group, "llm.cp", mesh.Group(rank, Axis::kCp), true);
  place_.ep.comm = Make(new_group, "llm.ep", ExpertRanks(layout, rank));
  replica_.stage = place_.cp.size == 1 ? place_.tp.comm
                   : place_.tp.size == 1
                       ? place_.cp.comm
                       : Make(new_group, "llm.tp_cp", mesh.Group(rank, {Axis::kTp, Axis::kCp}));
  place_.rows = replica_.stage;
  replica_.pipeline = Make(new_group, "llm.pp", mesh.Group(rank, Axis::kPp), true);
  // For host values alone: no NCCL of its own.
  const NewGroup on_host = [&](const std::string& name, const std::vector<int>& ranks, bool) {
    return runtime.world->NewGroup(name, ranks);
  };
  replica_.replica = Make(on_host, "llm.replica", layout.ReplicaRanks(rank));
  if (layout.ep() > 1) replica_.experts = runtime.world;

  // Groups of the same ranks are one.
  std::vector<std::pair<std::vector<int>, Communicator*>> made;
  constexpr const char* kNames[] = {"params.slice", "params.whole", "params.kv_heads",
                                    "params.tied", "params.experts"};
  const bool has_tied = text.tie_word_embeddings && place_.num_stages > 1 &&
                        (place_.has_first_stage() || place_.has_last_stage());
  for (int i = 0; i < kNumParamSharings; ++i) {
    const auto sharing = static_cast<ParamSharing>(i);
    if (sharing == ParamSharing::kTied && !has_tied) continue;
    if (sharing == ParamSharing::kKvHeads && text.num_kv_heads >= place_.tp.size) continue;
    if (sharing == ParamSharing::kExperts && text.num_experts == 0) continue;
    const std::vector<int> ranks = SharingRanks(layout, rank, sharing, text.num_kv_heads);
    const auto known = std::find_if(made.begin(), made.end(),
                                    [&](const auto& group) { return group.first == ranks; });
    Communicator* group = known != made.end() ? known->second : Make(new_group, kNames[i], ranks);
    if (known == made.end()) made.emplace_back(ranks, group);
    sharing_.of_class[static_cast<size_t>(i)] = group;
  }
  sharing_.world = runtime.world;
  replica_.sharing = sharing_;
  replica_idx_ = layout.ReplicaOf(rank);
  num_replicas_ = layout.num_replicas();
  leads_replica_ = layout.ReplicaRanks(rank).front() == rank;
  const bool shares_layers = spec.parallel.llm.zero_stage == 3 && runtime.world->size() > 1;
  runs_alone_ = layout.ReplicaRanks(rank).size() == 1 && layout.ep() == 1 && !shares_layers;
}

}  // namespace omnitrain
