#pragma once

#include <vector>

#include "parallel/schedule/schedule.h"

namespace omnitrain {

enum class PipelineKind {
  /// Narayanan et al. 2019 (PipeDream-Flush): one forward, one backward. Takes vpp = 1.
  kOneFOneB,
  /// Narayanan et al. 2021, section 2.2: vpp chunks a rank, in groups of pp micro-batches.
  kInterleaved,
  /// Qi et al. 2023, section 2.1: I and W apart, W late enough to fill the cool-down. Takes vpp
  /// = 1.
  kZeroBubbleH1,
};

struct PipelineParams {
  PipelineKind kind = PipelineKind::kOneFOneB;
  int pp = 1;
  /// Chunks of the LLM on each rank.
  int vpp = 1;
  int num_micro_batches = 1;
  /// In the order they run, all on the rank of LLM stage 0; names only tell them apart.
  std::vector<ScheduleModule> encoders;
  /// Its num_stages is pp * vpp, whatever stands here.
  ScheduleModule llm = {"llm", false, true, 1};
  SchedulePurpose purpose = SchedulePurpose::kTrain;
};

/// The compute ops of a pipelined step, one list per pipeline rank; stage s is on rank s % pp.
/// AddCommunication puts SEND, RECV and RESHARD in: with pp = vpp = 1 the two together give
/// gradient accumulation, per micro-batch `vit:F RESHARD_F llm:F llm:B RESHARD_B vit:B`, where
/// activations of one micro-batch live at a time. The F of the encoders stand before `llm:F` of
/// their micro-batch, their B (the last encoder first) behind its gradient. Frozen modules lose
/// their part; for evaluation the forward ops are left. At the end of every rank that trains:
/// `REDUCE_GRAD STEP`. Micro-batches need not be a multiple of pp: the interleaved order is that of
/// the next multiple without the ops of micro-batches that are not there. Errors: kSpec when a
/// training schedule has nothing to train, or the kind takes no such vpp.
Schedule BuildPipeline(const PipelineParams& params);

/// What each rank of that schedule may hold at most, for Validate: until its input gradient pp -
/// rank micro-batches, interleaved 2 (pp - rank - 1) + (vpp - 1) pp + 1 chunks; until its weight
/// gradient the same, but pp for kZeroBubbleH1: what 1F1B holds on rank 0. Empty for evaluation.
std::vector<LiveLimit> LiveLimits(const PipelineParams& params);

}  // namespace omnitrain
