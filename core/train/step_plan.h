#pragma once

#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "core/model/multimodal_model.h"
#include "parallel/schedule/pipeline.h"
#include "parallel/schedule/schedule.h"

namespace omnitrain {

/// How the ranks of a replica share its work, and what they make again rather than keep, as far as
/// a plan needs to know: no communicators.
struct ReplicaShape {
  PipelineKind pipeline = PipelineKind::kOneFOneB;
  int pp = 1, pp_rank = 0, vpp = 1;
  /// The seats (cp rank, tp rank) of the ranks that hold one stage, in the order of their group.
  struct Seat {
    int cp = 0, tp = 0;
  };
  std::vector<Seat> seats = {{0, 0}};
  int seat = 0;  // of this rank
  /// Of every stage and of the encoder; absent: as little as the memory of the ranks allows.
  std::optional<RecomputePlan> recompute;
};

/// What a rank holds in the arena, each with a life of its own. Features exist as the encoder made
/// them (rows of this rank's items) and as a stage takes them (rows of its part of the sequence);
/// between the two, and between their gradients, is RESHARD.
enum class StepBlock {
  kVisionActs,
  kEncoded,
  kEncodedGrads,
  kVisionTemp,
  kInjected,
  kInjectedGrads,
  kLlmActs,
  kStageGrad,  // d [Tl, D]
  kLlmGrads,
};

/// What follows of a step from the sizes of its samples: who encodes what, and where everything
/// lies in memory. A pure function: every rank of a replica can make those of the others.
struct StepPlan {
  std::shared_ptr<const Schedule> schedule;
  RecomputePlan recompute;
  /// Per micro-batch and seat: the items that it encodes, ascending.
  std::vector<std::vector<std::vector<int>>> items;

  struct Place {
    size_t offset = 0, bytes = 0;
  };
  /// By block, stage and micro-batch; blocks without bytes are left out.
  std::map<std::tuple<StepBlock, int, int>, Place> places;
  /// What recomputed layers share, of whichever forward or backward runs: ops follow one another.
  Place scratch;
  size_t arena_bytes = 0;
};

/// Who does what in which order, communication included; validated. Sizes have no part in it, so
/// steps of as many micro-batches share one.
/// Errors: kSpec when there is nothing to train.  Requires: each stage of the pipeline has layers.
std::shared_ptr<const Schedule> BuildStepSchedule(const MultimodalModel& model,
                                                  const ReplicaShape& shape, int num_micro_batches,
                                                  SchedulePurpose purpose);

/// The plan of a step over that schedule's micro-batches.
StepPlan PlanStep(const MultimodalModel& model, const ReplicaShape& shape,
                  std::shared_ptr<const Schedule> schedule,
                  const std::vector<MicroBatch>& micro_batches, const RecomputePlan& recompute,
                  DeviceKind device);

/// What a device keeps free of activations: for scratch of ops, and what the libraries take for
/// themselves.
constexpr int64_t kReservedBytes = int64_t{3} << 30;
/// Whether a run may recompute at all: a split backward keeps all that it needs.
bool CanRecompute(const ReplicaShape& shape);
/// Whether activations fit a device with `available` bytes beside what it holds already, and leave
/// it enough for the scratch of ops and what libraries take for themselves: else they are
/// recomputed.
bool FitsActivations(int64_t bytes, int64_t available);

/// Rows of encoder features as seats want them, [num_features] of [rows, D] each, and what their
/// exchange needs beside: the same carving for the plan and for the run.
struct FeatureBlock {
  std::vector<Tensor> features;  // those that the stage takes; of stage 0 all
  Tensor packed, arrived;        // [rows sent, D], [rows received, D]; with several seats only
  Tensor send_rows, recv_rows;   // int32
};
FeatureBlock CarveFeatureBlock(Carver& carver, const MultimodalModel& model,
                               const ReplicaShape& shape, const MicroBatch& batch,
                               const std::vector<std::vector<int>>& items, int stage);

/// The encoder's own rows: [num_features] of [rows of these items, D].
std::vector<Tensor> CarveEncoded(Carver& carver, const MultimodalModel& model, int64_t num_rows);

/// Rows of a micro-batch's features (as in MicroBatch::item_rows), by seat: those that it encodes
/// and those that its part of the sequence takes.
struct FeatureRows {
  std::vector<std::vector<int32_t>> held, wanted;
};
FeatureRows FeatureRowsOf(const MultimodalModel& model, const ReplicaShape& shape,
                          const MicroBatch& batch, const std::vector<std::vector<int>>& items);

/// Merged rows of some items.
int64_t NumMergedRows(const ItemBatch& batch, const std::vector<int>& items);

/// Names of the modules in schedules.
inline constexpr char kVisionModule[] = "vit", kLlmModule[] = "llm";

}  // namespace omnitrain
