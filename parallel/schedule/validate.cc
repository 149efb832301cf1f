#include "parallel/schedule/validate.h"

#include "core/base/check.h"
#include "parallel/schedule/op_graph.h"
#include "parallel/schedule/validate_rank.h"

namespace omnitrain {
namespace {

void RequireAllForwards(const OpIndex& index) {
  const Schedule& schedule = index.schedule();
  for (const ScheduleModule& module : schedule.modules) {
    for (int stage = 0; stage < module.num_stages; ++stage) {
      for (int i = 0; i < schedule.num_micro_batches; ++i) {
        if (!index.Find(OpKind::kForward, module.name, stage, i).empty()) continue;
        Op missing;
        missing.module = module.name;
        missing.stage = stage;
        missing.micro_batch = i;
        Fail(ErrorCode::kInternal, "schedule: no rank has {}", ToString(missing));
      }
    }
  }
}

/// Deep-stack features that one micro-batch gets and another does not would be another model.
void RequireEvenReshards(const OpIndex& index) {
  const Schedule& schedule = index.schedule();
  for (int id = 0; id < index.num_ops(); ++id) {
    const Op& op = index.op(id);
    if (op.kind != OpKind::kReshardForward) continue;
    for (int i = 0; i < schedule.num_micro_batches; ++i) {
      bool is_found = !index.Find(op.kind, "", op.stage, i).empty();
      for (const ScheduleModule& m : schedule.modules) {
        if (is_found) break;
        is_found = !index.Find(op.kind, m.name, op.stage, i).empty();
      }
      if (!is_found) index.Refuse(id, fmt::format("but none of micro-batch {}", i));
    }
  }
}

void RequireWithin(const OpIndex& index, const std::vector<LiveLimit>& limits) {
  const Schedule& schedule = index.schedule();
  OT_CHECK(limits.size() == schedule.ranks.size(), "{} limits for {} ranks", limits.size(),
           schedule.ranks.size());
  const ScheduleModule& llm = schedule.llm();
  int until_input_grad = 0, until_weight_grad = 0;
  for (int id = 0; id < index.num_ops(); ++id) {
    if (index.position(id) == 0) until_input_grad = until_weight_grad = 0;
    const Op& op = index.op(id);
    if (op.module != llm.name) continue;
    const bool has_weight_grad = op.kind == OpKind::kInputGrad && llm.is_trained;
    if (op.kind == OpKind::kForward) {
      ++until_input_grad;
      ++until_weight_grad;
    } else if (op.kind == OpKind::kWeightGrad) {
      --until_weight_grad;
    } else if (op.kind == OpKind::kBackward || op.kind == OpKind::kInputGrad) {
      --until_input_grad;
      if (!has_weight_grad) --until_weight_grad;
    }
    const LiveLimit& limit = limits[static_cast<size_t>(index.rank(id))];
    if (until_input_grad > limit.until_input_grad) {
      index.Refuse(id, fmt::format("{} activations wait for their input gradient, limit {}",
                                   until_input_grad, limit.until_input_grad));
    }
    if (until_weight_grad > limit.until_weight_grad) {
      index.Refuse(id, fmt::format("{} activations wait for their weight gradient, limit {}",
                                   until_weight_grad, limit.until_weight_grad));
    }
  }
}

}  // namespace

void Validate(const Schedule& schedule, const std::vector<LiveLimit>& limits) {
  OT_CHECK(schedule.num_micro_batches >= 0, "{} micro-batches", schedule.num_micro_batches);
  OT_CHECK(!schedule.ranks.empty(), "a schedule without ranks");
  const OpIndex index(schedule);
  for (size_t r = 0; r < schedule.ranks.size(); ++r) ValidateRank(index, static_cast<int>(r));
  RequireAllForwards(index);
  RequireEvenReshards(index);
  OpGraph(index).Order();
  if (!limits.empty()) RequireWithin(index, limits);
}

}  // namespace omnitrain
