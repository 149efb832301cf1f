#include "parallel/schedule/pipeline.h"

#include <algorithm>

#include "core/base/check.h"

namespace omnitrain {
namespace {

/// Writes the list of one rank.
class RankList {
 public:
  RankList(const Schedule& schedule, bool splits_gradients)
      : schedule_(schedule),
        llm_(schedule.llm()),
        trains_(schedule.purpose == SchedulePurpose::kTrain),
        trains_encoders_(schedule.trains_encoders()),
        splits_(splits_gradients && llm_.is_trained) {}

  void Forward(int stage, int micro_batch) {
    if (micro_batch >= schedule_.num_micro_batches) return;
    if (stage == 0) {
      for (const ScheduleModule& module : schedule_.modules) {
        if (module.is_encoder) Add(OpKind::kForward, module.name, 0, micro_batch);
      }
    }
    Add(OpKind::kForward, llm_.name, stage, micro_batch);
  }
  /// B, or I where the weight gradient is apart or there is none.
  void Backward(int stage, int micro_batch) {
    if (!trains_ || micro_batch >= schedule_.num_micro_batches) return;
    const bool is_whole = llm_.is_trained && !splits_;
    Add(is_whole ? OpKind::kBackward : OpKind::kInputGrad, llm_.name, stage, micro_batch);
    if (stage > 0 || !trains_encoders_) return;
    // Backwards, so that the encoder that ran last is the first to give up its activations.
    for (auto m = schedule_.modules.rbegin(); m != schedule_.modules.rend(); ++m) {
      if (m->is_encoder && m->is_trained) Add(OpKind::kBackward, m->name, 0, micro_batch);
    }
  }
  void WeightGrad(int stage, int micro_batch) {
    if (!trains_ || !splits_ || micro_batch < 0) return;
    Add(OpKind::kWeightGrad, llm_.name, stage, micro_batch);
  }
  std::vector<Op> Finish() {
    if (trains_) {
      Add(OpKind::kReduceGrad, "", 0, -1);
      Add(OpKind::kStep, "", 0, -1);
    }
    return std::move(ops_);
  }

 private:
  void Add(OpKind kind, const std::string& module, int stage, int micro_batch) {
    Op op;
    op.kind = kind;
    op.module = module;
    op.stage = stage;
    op.micro_batch = micro_batch;
    ops_.push_back(op);
  }

  const Schedule& schedule_;
  const ScheduleModule& llm_;
  const bool trains_, trains_encoders_, splits_;
  std::vector<Op> ops_;
};

void FillOneFOneB(const PipelineParams& params, int rank, RankList* list) {
  const int m = params.num_micro_batches;
  const int num_warmup = std::min(m, params.pp - rank - 1);
  for (int i = 0; i < num_warmup; ++i) list->Forward(rank, i);
  for (int i = 0; i < m; ++i) {
    list->Forward(rank, i + num_warmup);
    list->Backward(rank, i);
    // Rank r holds r inputs more for W than 1F1B would: pp on every rank, which is what rank 0
    // holds anyway, and r weight gradients are left to fill the cool-down.
    list->WeightGrad(rank, i - rank);
  }
  for (int i = std::max(0, m - rank); i < m; ++i) list->WeightGrad(rank, i);
}

int NumInterleavedWarmup(const PipelineParams& params, int rank) {
  return 2 * (params.pp - rank - 1) + (params.vpp - 1) * params.pp;
}

void FillInterleaved(const PipelineParams& params, int rank, RankList* list) {
  const int pp = params.pp, vpp = params.vpp;
  const int num_groups = (params.num_micro_batches + pp - 1) / pp;
  const int total = num_groups * pp * vpp;
  // The k-th chunk: pp micro-batches through one chunk, then through the next, then the next group.
  // Micro-batches past the last are left out of an order that works with them, and what is left
  // works: nothing waits for another micro-batch.
  const auto forward = [&](int k) {
    list->Forward(k / pp % vpp * pp + rank, k / (pp * vpp) * pp + k % pp);
  };
  const auto backward = [&](int k) {
    list->Backward((vpp - 1 - k / pp % vpp) * pp + rank, k / (pp * vpp) * pp + k % pp);
  };
  const int num_warmup = std::min(total, NumInterleavedWarmup(params, rank));
  for (int k = 0; k < num_warmup; ++k) forward(k);
  for (int k = 0; k < total; ++k) {
    if (k + num_warmup < total) forward(k + num_warmup);
    backward(k);
  }
}

void Check(const PipelineParams& params) {
  OT_CHECK(params.pp >= 1 && params.vpp >= 1, "pp={} vpp={}", params.pp, params.vpp);
  OT_CHECK(params.num_micro_batches >= 1, "{} micro-batches", params.num_micro_batches);
  OT_REQUIRE(params.vpp == 1 || params.kind == PipelineKind::kInterleaved, ErrorCode::kSpec,
             "parallel.llm.vpp: {} chunks a rank need the interleaved schedule", params.vpp);
  for (const ScheduleModule& encoder : params.encoders) {
    OT_CHECK(encoder.num_stages == 1, "encoder {}: {} stages on one rank", encoder.name,
             encoder.num_stages);
  }
}

}  // namespace

Schedule BuildPipeline(const PipelineParams& params) {
  Check(params);
  Schedule schedule;
  schedule.purpose = params.purpose;
  schedule.num_micro_batches = params.num_micro_batches;
  for (ScheduleModule encoder : params.encoders) {
    encoder.is_encoder = true;
    schedule.modules.push_back(encoder);
  }
  schedule.modules.push_back(params.llm);
  schedule.modules.back().num_stages = params.pp * params.vpp;
  OT_REQUIRE(params.purpose != SchedulePurpose::kTrain || schedule.llm().is_trained ||
                 schedule.trains_encoders(),
             ErrorCode::kSpec, "train: every module is frozen, nothing is left to train");
  // One rank has no gap that a weight gradient could fill.
  const bool splits = params.kind == PipelineKind::kZeroBubbleH1 && params.pp > 1;
  for (int rank = 0; rank < params.pp; ++rank) {
    RankList list(schedule, splits);
    if (params.vpp > 1) {
      FillInterleaved(params, rank, &list);
    } else {
      FillOneFOneB(params, rank, &list);
    }
    schedule.ranks.push_back(list.Finish());
  }
  return schedule;
}

std::vector<LiveLimit> LiveLimits(const PipelineParams& params) {
  Check(params);
  std::vector<LiveLimit> limits;
  if (params.purpose != SchedulePurpose::kTrain) return limits;
  for (int rank = 0; rank < params.pp; ++rank) {
    const int live = params.vpp > 1 ? NumInterleavedWarmup(params, rank) + 1 : params.pp - rank;
    limits.push_back({live, params.kind == PipelineKind::kZeroBubbleH1 ? params.pp : live});
  }
  return limits;
}

}  // namespace omnitrain
