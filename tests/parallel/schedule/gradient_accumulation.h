#pragma once

#include <utility>
#include <vector>

#include "core/base/check.h"
#include "parallel/schedule/schedule.h"

namespace omnitrain {

struct GradientAccumulationParams {
  int num_micro_batches = 1;
  /// In the order they run; names only tell them apart.
  std::vector<ScheduleModule> encoders;
  ScheduleModule llm = {"llm", false, true, 1};
  SchedulePurpose purpose = SchedulePurpose::kTrain;
};

// What builders and passes have to give for one rank, written down apart from them.
/// One rank without a pipeline: per micro-batch `vit:F RESHARD_F llm:F llm:B RESHARD_B vit:B`, at
/// the end `REDUCE_GRAD STEP`: activations of one micro-batch live at a time. Frozen modules lose
/// their part; without encoders there is no RESHARD; for evaluation the forward ops are left.
/// Errors: kSpec when a training schedule has nothing to train.
inline Schedule BuildGradientAccumulation(const GradientAccumulationParams& params) {
  OT_CHECK(params.num_micro_batches >= 1, "{} micro-batches", params.num_micro_batches);
  Schedule schedule;
  schedule.purpose = params.purpose;
  schedule.num_micro_batches = params.num_micro_batches;
  for (ScheduleModule encoder : params.encoders) {
    encoder.is_encoder = true;
    schedule.modules.push_back(encoder);
  }
  schedule.modules.push_back(params.llm);
  for (const ScheduleModule& m : schedule.modules) {
    OT_CHECK(m.num_stages == 1, "module {}: {} stages on one rank", m.name, m.num_stages);
  }
  const bool trains = params.purpose == SchedulePurpose::kTrain;
  const bool trains_encoders = schedule.trains_encoders();
  const ScheduleModule& llm = schedule.llm();
  OT_REQUIRE(!trains || llm.is_trained || trains_encoders, ErrorCode::kSpec,
             "train: every module is frozen, nothing is left to train");

  std::vector<Op> ops;
  const auto add = [&ops](OpKind kind, const std::string& module, int micro_batch) {
    Op op;
    op.kind = kind;
    op.module = module;
    op.micro_batch = micro_batch;
    ops.push_back(op);
  };
  for (int i = 0; i < params.num_micro_batches; ++i) {
    for (const ScheduleModule& encoder : params.encoders) add(OpKind::kForward, encoder.name, i);
    if (!params.encoders.empty()) add(OpKind::kReshardForward, "", i);
    add(OpKind::kForward, llm.name, i);
    if (!trains) continue;
    add(llm.is_trained ? OpKind::kBackward : OpKind::kInputGrad, llm.name, i);
    if (!trains_encoders) continue;
    add(OpKind::kReshardBackward, "", i);
    // Backwards, so that the encoder that ran last is the first to give up its activations.
    for (auto encoder = params.encoders.rbegin(); encoder != params.encoders.rend(); ++encoder) {
      if (encoder->is_trained) add(OpKind::kBackward, encoder->name, i);
    }
  }
  if (trains) {
    add(OpKind::kReduceGrad, "", -1);
    add(OpKind::kStep, "", -1);
  }
  schedule.ranks.push_back(std::move(ops));
  return schedule;
}

}  // namespace omnitrain
