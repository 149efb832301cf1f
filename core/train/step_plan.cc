#include "core/train/step_plan.h"

#include <algorithm>
#include <numeric>

#include "parallel/schedule/add_communication.h"
#include "parallel/schedule/memory_plan.h"
#include "parallel/schedule/validate.h"

namespace omnitrain {
namespace {

/// Which seat encodes which items: the largest first, each to the seat with the least so far.
std::vector<std::vector<int>> DealItems(const ItemBatch& batch, size_t num_seats) {
  std::vector<int> order(static_cast<size_t>(batch.num_items()));
  std::iota(order.begin(), order.end(), 0);
  const auto patches = [&](int i) { return batch.grids[static_cast<size_t>(i)].num_patches(); };
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return patches(a) > patches(b); });
  std::vector<std::vector<int>> dealt(num_seats);
  std::vector<int64_t> load(num_seats, 0);
  for (int item : order) {
    const auto seat =
        static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
    dealt[seat].push_back(item);
    load[seat] += patches(item);
  }
  for (auto& items : dealt) std::sort(items.begin(), items.end());
  return dealt;
}

/// The stages that take rows of the encoder, ascending; 0 among them.
std::vector<int> ConsumerStages(const MultimodalModel& model) {
  std::vector<int> stages;
  for (int stage = 0; stage < model.llm().place().num_stages; ++stage) {
    for (int k = 0; k < model.num_features(); ++k) {
      if (!model.llm().TakesFeature(stage, k)) continue;
      stages.push_back(stage);
      break;
    }
  }
  return stages;
}

}  // namespace

std::shared_ptr<const Schedule> BuildStepSchedule(const MultimodalModel& model,
                                                  const ReplicaShape& shape, int num_micro_batches,
                                                  SchedulePurpose purpose) {
  const ParamStore& params = model.params();
  PipelineParams p;
  p.kind = shape.pipeline;
  p.pp = shape.pp;
  p.vpp = shape.vpp;
  p.num_micro_batches = num_micro_batches;
  p.purpose = purpose;
  // The mergers belong to the encoder's node: it is trained when either is.
  p.encoders = {{kVisionModule, true,
                 !params.is_group_frozen(ParamGroup::kVision) ||
                     !params.is_group_frozen(ParamGroup::kProjector),
                 1}};
  p.llm = {kLlmModule, false, !params.is_group_frozen(ParamGroup::kLlm), 1};
  CommunicationParams communication;
  communication.consumer_stages = ConsumerStages(model);
  auto schedule =
      std::make_shared<const Schedule>(AddCommunication(BuildPipeline(p), communication));
  Validate(*schedule, LiveLimits(p));
  return schedule;
}

bool CanRecompute(const ReplicaShape& shape) {
  return shape.pipeline != PipelineKind::kZeroBubbleH1;
}

bool FitsActivations(int64_t bytes, int64_t available) {
  return bytes <= std::max<int64_t>(0, available - kReservedBytes);
}

int64_t NumMergedRows(const ItemBatch& batch, const std::vector<int>& items) {
  int64_t patches = 0;
  for (int i : items) patches += batch.grids[static_cast<size_t>(i)].num_patches();
  return patches / (int64_t{batch.merge_size} * batch.merge_size);
}

FeatureRows FeatureRowsOf(const MultimodalModel& model, const ReplicaShape& shape,
                          const MicroBatch& batch, const std::vector<std::vector<int>>& items) {
  const std::vector<int64_t> begins = batch.items.PatchBegins();
  const int64_t per_row = int64_t{batch.items.merge_size} * batch.items.merge_size;
  FeatureRows rows;
  for (size_t s = 0; s < shape.seats.size(); ++s) {
    rows.held.emplace_back();
    for (int item : items[s]) {
      const auto i = static_cast<size_t>(item);
      for (int64_t row = begins[i] / per_row; row < begins[i + 1] / per_row; ++row) {
        rows.held.back().push_back(static_cast<int32_t>(row));
      }
    }
    rows.wanted.push_back(
        model.llm().ItemsAt(batch, shape.seats[s].cp, shape.seats[s].tp).encoder_rows);
  }
  return rows;
}

std::vector<Tensor> CarveEncoded(Carver& carver, const MultimodalModel& model, int64_t num_rows) {
  std::vector<Tensor> features;
  for (int k = 0; k < model.num_features(); ++k) {
    features.push_back(
        carver.Take(model.params().dtype(), {num_rows, model.config().vision.out_width}));
  }
  return features;
}

FeatureBlock CarveFeatureBlock(Carver& carver, const MultimodalModel& model,
                               const ReplicaShape& shape, const MicroBatch& batch,
                               const std::vector<std::vector<int>>& items, int stage) {
  FeatureBlock block;
  const DType dtype = model.params().dtype();
  const int64_t D = model.config().vision.out_width;
  const ReplicaShape::Seat& seat = shape.seats[static_cast<size_t>(shape.seat)];
  const int64_t rows =
      static_cast<int64_t>(model.llm().ItemsAt(batch, seat.cp, seat.tp).rows.size());
  for (int k = 0; k < model.num_features(); ++k) {
    const bool is_here = stage == 0 || model.llm().TakesFeature(stage, k);
    block.features.push_back(is_here ? carver.Take(dtype, {rows, D}) : Tensor());
  }
  if (stage != 0 || shape.seats.size() == 1) return block;
  const int64_t held = NumMergedRows(batch.items, items[static_cast<size_t>(shape.seat)]);
  block.packed = carver.Take(dtype, {held, D});
  block.arrived = carver.Take(dtype, {rows, D});
  block.send_rows = carver.Take(DType::kI32, {held});
  block.recv_rows = carver.Take(DType::kI32, {rows});
  return block;
}

StepPlan PlanStep(const MultimodalModel& model, const ReplicaShape& shape,
                  std::shared_ptr<const Schedule> shared_schedule,
                  const std::vector<MicroBatch>& batches, const RecomputePlan& recompute,
                  DeviceKind device) {
  const Schedule& schedule = *shared_schedule;
  OT_CHECK(schedule.num_micro_batches == static_cast<int>(batches.size()),
           "{} micro-batches for a schedule of {}", batches.size(), schedule.num_micro_batches);
  StepPlan plan;
  plan.schedule = std::move(shared_schedule);
  plan.recompute = recompute;
  const bool trains = schedule.purpose == SchedulePurpose::kTrain;
  const bool trains_encoder = trains && schedule.trains_encoders();
  const LossMode mode = trains ? LossMode::kGradients : LossMode::kLoss;
  const LanguageModel& llm = model.llm();
  const std::vector<int> consumers = ConsumerStages(model);
  const bool splits = shape.pipeline == PipelineKind::kZeroBubbleH1 && schedule.llm().is_trained;

  std::vector<BlockRule> rules;
  std::vector<std::tuple<StepBlock, int, int>> keys;
  const auto share = [&](const Carver& scratch) {
    plan.scratch.bytes = std::max(plan.scratch.bytes, scratch.used());
  };
  for (size_t i = 0; i < batches.size(); ++i) {
    const MicroBatch& batch = batches[i];
    plan.items.push_back(DealItems(batch.items, shape.seats.size()));
    const std::vector<std::vector<int>>& dealt = plan.items.back();
    const auto add = [&](StepBlock block, int stage, const char* module, BlockLifetime life,
                         auto carve) {
      Carver carver(device);
      carve(carver);
      if (carver.used() == 0) return;
      Op key;
      key.module = module;
      key.stage = stage;
      key.micro_batch = static_cast<int>(i);
      rules.push_back({key, fmt::format("{}.{}.{}.{}", module, stage, i, static_cast<int>(block)),
                       carver.used(), life});
      keys.emplace_back(block, stage, static_cast<int>(i));
    };
    if (model.has_vision()) {
      const VisionTower& vision = model.vision();
      const ItemBatch mine =
          SelectItems(batch.items, dealt[static_cast<size_t>(shape.seat)], Pixels::kLeaveOut);
      const auto encoded = [&](Carver& c) { CarveEncoded(c, model, mine.num_merged_rows()); };
      add(StepBlock::kVisionActs, 0, kVisionModule, BlockLifetime::kForWeightGrad, [&](Carver& c) {
        Carver scratch(device);
        vision.Carve(c, mine, recompute, &scratch);
        share(scratch);
      });
      add(StepBlock::kEncoded, 0, kVisionModule, BlockLifetime::kOutput, encoded);
      if (trains_encoder) {
        add(StepBlock::kEncodedGrads, 0, kVisionModule, BlockLifetime::kOutputGrad, encoded);
        add(StepBlock::kVisionTemp, 0, kVisionModule, BlockLifetime::kBackward,
            [&](Carver& c) { vision.CarveTemporaries(c, mine.num_patches()); });
      }
    }
    for (int stage : llm.place().stages) {
      const bool consumes = std::find(consumers.begin(), consumers.end(), stage) != consumers.end();
      const auto features = [&](Carver& c) {
        CarveFeatureBlock(c, model, shape, batch, dealt, stage);
      };
      int64_t rows = 0;  // Tl
      if (consumes)
        add(StepBlock::kInjected, stage, kLlmModule, BlockLifetime::kInjected, features);
      add(StepBlock::kLlmActs, stage, kLlmModule, BlockLifetime::kForWeightGrad, [&](Carver& c) {
        Carver scratch(device);
        rows = llm.Carve(c, batch, stage, mode, recompute, &scratch).num_rows;
        share(scratch);
      });
      const bool has_backward = trains && (schedule.llm().is_trained || trains_encoder);
      if (!has_backward) continue;
      add(StepBlock::kStageGrad, stage, kLlmModule, BlockLifetime::kStageGrad, [&](Carver& c) {
        c.Take(model.params().dtype(), {rows, model.config().text.width});
      });
      add(StepBlock::kLlmGrads, stage, kLlmModule,
          splits ? BlockLifetime::kInputGradToWeightGrad : BlockLifetime::kBackward,
          [&](Carver& c) {
            llm.CarveGradients(c, batch, stage,
                               splits ? BackwardPart::kInput : BackwardPart::kBoth);
          });
      if (consumes && trains_encoder) {
        add(StepBlock::kInjectedGrads, stage, kLlmModule, BlockLifetime::kInjectedGrad, features);
      }
    }
  }
  const std::vector<BlockRequest> requests = DeriveRequests(schedule, shape.pp_rank, rules);
  const ArenaPlan arena = PlanArena(requests);
  for (size_t r = 0; r < requests.size(); ++r) {
    plan.places[keys[r]] = {arena.offsets[r], requests[r].bytes};
  }
  constexpr size_t kAlignment = ArenaPlan::kAlignment;
  plan.scratch.offset = (arena.arena_bytes + kAlignment - 1) / kAlignment * kAlignment;
  plan.arena_bytes = plan.scratch.offset + plan.scratch.bytes;
  return plan;
}

}  // namespace omnitrain
