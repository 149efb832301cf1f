#pragma once

#include <string>
#include <vector>

#include "parallel/schedule/op.h"

namespace omnitrain {

/// A node of the schedule's graph: the LLM or an encoder.
struct ScheduleModule {
  std::string name;
  bool is_encoder = false;
  /// False for a frozen module: no weight gradients. A frozen encoder has no backward at all; a
  /// frozen LLM has input gradients only, and those only while some encoder is trained.
  bool is_trained = true;
  int num_stages = 1;

  bool operator==(const ScheduleModule& o) const;
};

enum class SchedulePurpose { kTrain, kEvaluate };

/// The ops of one step of one replica, as data: what every rank of the replica does, in order. The
/// same value goes to Validate, Execute, the simulator and the renderers; replicas of equal layout
/// have equal lists.
struct Schedule {
  SchedulePurpose purpose = SchedulePurpose::kTrain;
  int num_micro_batches = 0;
  /// Encoders in the order they run, and one LLM.
  std::vector<ScheduleModule> modules;
  /// Per rank of the replica.
  std::vector<std::vector<Op>> ranks;

  /// Null when there is no such module.
  const ScheduleModule* FindModule(const std::string& name) const;
  /// The module that is no encoder. Requires exactly one.
  const ScheduleModule& llm() const;
  /// Some encoder waits for gradients of its output.
  bool trains_encoders() const;
  bool operator==(const Schedule& o) const;
};

/// One line per fact, parsed back by ParseSchedule; lines that begin with # are comments:
///   schedule train micro_batches=2
///   module vit encoder trained stages=1
///   module llm llm trained stages=1
///   rank 0: vit:F0 RESHARD_F0 llm:F0 ...
std::string ToString(const Schedule& schedule);
/// Errors: kSpec naming the line or the token.
Schedule ParseSchedule(const std::string& text);

/// Activations of the LLM, counted in (stage, micro_batch), that a rank may hold at once.
struct LiveLimit {
  int until_input_grad = 0;   // from F to B or I
  int until_weight_grad = 0;  // from F to B or W
};

}  // namespace omnitrain
