#include "parallel/schedule/validate.h"

#include <functional>
#include <set>
#include <tuple>

#include "core/base/check.h"

namespace omnitrain {
namespace {

bool IsGradient(OpKind kind) {
  return kind == OpKind::kBackward || kind == OpKind::kInputGrad || kind == OpKind::kWeightGrad;
}

bool IsBackward(OpKind kind) {
  return IsGradient(kind) || kind == OpKind::kSendBackward || kind == OpKind::kRecvBackward ||
         kind == OpKind::kReshardBackward || kind == OpKind::kReduceGrad || kind == OpKind::kStep;
}

bool SameKey(const Op& a, const Op& b) {
  return a.module == b.module && a.stage == b.stage && a.micro_batch == b.micro_batch &&
         a.slice == b.slice;
}

class RankValidator {
 public:
  RankValidator(const Schedule& schedule, size_t rank)
      : schedule_(schedule),
        rank_(rank),
        ops_(schedule.ranks[rank]),
        llm_(schedule.llm()),
        trains_(schedule.purpose == SchedulePurpose::kTrain) {}

  void Run() {
    for (at_ = 0; at_ < ops_.size(); ++at_) {
      const Op& op = ops_[at_];
      CheckFields(op);
      Require(seen_.insert(ToString(op)).second, op, "stands twice");
      CheckOrder(op);
    }
    CheckComplete();
  }

 private:
  using Match = std::function<bool(const Op&)>;

  [[noreturn]] void Refuse(const Op& op, const std::string& what) const {
    Fail(ErrorCode::kInternal, "schedule rank {} op {} {}: {}", rank_, at_, ToString(op), what);
  }
  void Require(bool condition, const Op& op, const std::string& what) const {
    if (!condition) Refuse(op, what);
  }
  bool IsBefore(const Match& match) const {
    for (size_t i = 0; i < at_; ++i) {
      if (match(ops_[i])) return true;
    }
    return false;
  }
  /// No op that matches may follow the current one.
  void RequireNoneLater(const Op& op, const std::string& why, const Match& match) const {
    for (size_t i = at_ + 1; i < ops_.size(); ++i) {
      if (match(ops_[i])) {
        Refuse(op, fmt::format("{} at op {} comes later, {}", ToString(ops_[i]), i, why));
      }
    }
  }
  void RequireBefore(const Op& op, const Op& needed) const {
    Require(IsBefore([&](const Op& o) { return o == needed; }), op,
            fmt::format("no {} before it", ToString(needed)));
  }
  /// Whether ops of `module` are meant by an op that names `named` (empty: all of its sort).
  static bool Covers(const std::string& named, const std::string& module) {
    return named.empty() || named == module;
  }
  bool IsEncoder(const Op& op) const {
    const ScheduleModule* module = schedule_.FindModule(op.module);
    return module != nullptr && module->is_encoder;
  }

  void CheckFields(const Op& op) const {
    const bool is_reshard =
        op.kind == OpKind::kReshardForward || op.kind == OpKind::kReshardBackward;
    if (!op.module.empty()) {
      const ScheduleModule* module = schedule_.FindModule(op.module);
      Require(module != nullptr, op, "the schedule has no module " + op.module);
      const int num_stages = is_reshard ? llm_.num_stages : module->num_stages;
      Require(op.stage < num_stages, op, fmt::format("{} stages", num_stages));
      Require(!is_reshard || module->is_encoder, op, "only encoders are resharded");
    } else {
      Require(is_reshard || op.kind == OpKind::kReduceGrad || op.kind == OpKind::kStep, op,
              "it names no module");
      Require(op.stage < llm_.num_stages, op, fmt::format("{} stages", llm_.num_stages));
    }
    Require(op.micro_batch < schedule_.num_micro_batches, op,
            fmt::format("{} micro-batches", schedule_.num_micro_batches));
    Require(trains_ || !IsBackward(op.kind), op, "an evaluation has no backward");
  }

  void CheckOrder(const Op& op) const {
    switch (op.kind) {
      case OpKind::kForward:
        return CheckForward(op);
      case OpKind::kBackward:
      case OpKind::kInputGrad:
        return CheckInputGrad(op);
      case OpKind::kWeightGrad:
        return RequireSame(op, {OpKind::kInputGrad});
      case OpKind::kSendForward:
        return RequireSame(op, {OpKind::kForward});
      case OpKind::kSendBackward:
        return RequireSame(op, {OpKind::kBackward, OpKind::kInputGrad});
      case OpKind::kRecvForward:
        return RequireNotYet(op, {OpKind::kForward});
      case OpKind::kRecvBackward:
        return RequireNotYet(op, {OpKind::kBackward, OpKind::kInputGrad});
      case OpKind::kReshardForward:
        return RequireNoneLater(op, "its rows are missing", [&](const Op& o) {
          return o.kind == OpKind::kForward && IsEncoder(o) && Covers(op.module, o.module) &&
                 o.micro_batch == op.micro_batch;
        });
      case OpKind::kReshardBackward:
        return CheckReshardBackward(op);
      case OpKind::kReduceGrad:
        return RequireNoneLater(op, "its weight gradient is missing", [&](const Op& o) {
          return IsGradient(o.kind) && Covers(op.module, o.module) && op.slice < 0;
        });
      case OpKind::kStep:
        Require(IsBefore([](const Op& o) { return o.kind == OpKind::kReduceGrad; }), op,
                "no REDUCE_GRAD before it");
        return RequireNoneLater(op, "but STEP is last",
                                [](const Op& o) { return o.kind != OpKind::kFree; });
      case OpKind::kFree:
        Require(IsBefore([&](const Op& o) { return o.kind == OpKind::kForward && SameKey(o, op); }),
                op, "nothing to free yet");
        return RequireNoneLater(op, "which uses what it frees", [&](const Op& o) {
          const bool is_reshard = o.kind == OpKind::kReshardForward && IsEncoder(op) &&
                                  Covers(o.module, op.module) && o.micro_batch == op.micro_batch;
          return is_reshard || (o.kind != OpKind::kFree && SameKey(o, op));
        });
    }
  }

  void CheckForward(const Op& op) const {
    RequireNoneLater(op, "but stages run upwards", [&](const Op& o) {
      return o.kind == OpKind::kForward && o.module == op.module &&
             o.micro_batch == op.micro_batch && o.stage < op.stage;
    });
    RequireNoneLater(op, "but it needs what is received",
                     [&](const Op& o) { return o.kind == OpKind::kRecvForward && SameKey(o, op); });
    if (IsEncoder(op)) return;
    RequireNoneLater(op, "but it needs those rows", [&](const Op& o) {
      return o.kind == OpKind::kReshardForward && o.stage == op.stage &&
             o.micro_batch == op.micro_batch;
    });
    if (op.stage > 0) return;
    for (const ScheduleModule& encoder : schedule_.modules) {
      if (!encoder.is_encoder) continue;
      Require(IsBefore([&](const Op& o) {
                return o.kind == OpKind::kReshardForward && Covers(o.module, encoder.name) &&
                       o.stage == 0 && o.micro_batch == op.micro_batch;
              }),
              op, fmt::format("no RESHARD_F{} of {} before it", op.micro_batch, encoder.name));
    }
  }

  void CheckInputGrad(const Op& op) const {
    const ScheduleModule* module = schedule_.FindModule(op.module);
    Require(module->is_trained || op.kind == OpKind::kInputGrad, op,
            op.module + " is frozen: it has no weight gradients");
    Require(!module->is_encoder || module->is_trained, op, op.module + " is frozen");
    Op forward = op;
    forward.kind = OpKind::kForward;
    RequireBefore(op, forward);
    Op other = op;
    other.kind = op.kind == OpKind::kBackward ? OpKind::kInputGrad : OpKind::kBackward;
    Require(!IsBefore([&](const Op& o) { return o == other; }), op,
            "a second gradient after " + ToString(other));
    RequireNoneLater(op, "but stages run downwards", [&](const Op& o) {
      return (o.kind == OpKind::kBackward || o.kind == OpKind::kInputGrad) &&
             o.module == op.module && o.micro_batch == op.micro_batch && o.stage > op.stage;
    });
    RequireNoneLater(op, "but it needs what is received", [&](const Op& o) {
      return o.kind == OpKind::kRecvBackward && SameKey(o, op);
    });
    if (!module->is_encoder) return;
    Require(IsBefore([&](const Op& o) {
              return o.kind == OpKind::kReshardBackward && Covers(o.module, op.module) &&
                     o.micro_batch == op.micro_batch;
            }),
            op, fmt::format("no RESHARD_B{} before it", op.micro_batch));
    RequireNoneLater(op, "but it needs those gradients", [&](const Op& o) {
      return o.kind == OpKind::kReshardBackward && Covers(o.module, op.module) &&
             o.micro_batch == op.micro_batch;
    });
  }

  void CheckReshardBackward(const Op& op) const {
    Require(schedule_.trains_encoders(), op, "every encoder is frozen");
    Op llm_grad;
    llm_grad.kind = llm_.is_trained ? OpKind::kBackward : OpKind::kInputGrad;
    llm_grad.module = llm_.name;
    llm_grad.stage = op.stage;
    llm_grad.micro_batch = op.micro_batch;
    const auto is_grad = [&](const Op& o) {
      return (o.kind == OpKind::kBackward || o.kind == OpKind::kInputGrad) &&
             o.module == llm_.name && o.stage == op.stage && o.micro_batch == op.micro_batch;
    };
    // A rank that only encodes has no LLM op of its own to wait for.
    bool holds_stage = schedule_.ranks.size() == 1;
    for (const Op& o : ops_) {
      holds_stage = holds_stage || (o.kind == OpKind::kForward && o.module == llm_.name &&
                                    o.stage == op.stage && o.micro_batch == op.micro_batch);
    }
    Require(!holds_stage || IsBefore(is_grad), op,
            fmt::format("no {} before it", ToString(llm_grad)));
    RequireNoneLater(op, "but it sends that gradient", is_grad);
  }

  /// One of `kinds` with this key must stand before.
  void RequireSame(const Op& op, std::vector<OpKind> kinds) const {
    const bool is_found = IsBefore([&](const Op& o) {
      for (OpKind kind : kinds) {
        if (o.kind == kind && SameKey(o, op)) return true;
      }
      return false;
    });
    Require(is_found, op, fmt::format("no {} of its own before it", OpKindName(kinds[0])));
  }

  /// None of `kinds` with this key may stand before.
  void RequireNotYet(const Op& op, std::vector<OpKind> kinds) const {
    const bool is_found = IsBefore([&](const Op& o) {
      for (OpKind kind : kinds) {
        if (o.kind == kind && SameKey(o, op)) return true;
      }
      return false;
    });
    Require(!is_found, op, "what needs it stands before it");
  }

  void CheckComplete() {
    for (at_ = 0; trains_ && at_ < ops_.size(); ++at_) {
      const Op& op = ops_[at_];
      if (op.kind != OpKind::kForward && op.kind != OpKind::kInputGrad) continue;
      const ScheduleModule* module = schedule_.FindModule(op.module);
      if (op.kind == OpKind::kInputGrad) {
        if (!module->is_trained) continue;
        Op weight = op;
        weight.kind = OpKind::kWeightGrad;
        Require(seen_.count(ToString(weight)) > 0, op, "no " + ToString(weight) + " after it");
        continue;
      }
      const bool wants_gradient =
          module->is_trained || (!module->is_encoder && schedule_.trains_encoders());
      Op backward = op, input = op;
      backward.kind = OpKind::kBackward;
      input.kind = OpKind::kInputGrad;
      Require(!wants_gradient || seen_.count(ToString(backward)) || seen_.count(ToString(input)),
              op, fmt::format("neither {} nor {} after it", ToString(backward), ToString(input)));
    }
    if (!trains_) return;
    const auto count = [&](OpKind kind) {
      int n = 0;
      for (const Op& op : ops_) n += op.kind == kind;
      return n;
    };
    OT_REQUIRE(count(OpKind::kStep) == 1, ErrorCode::kInternal, "schedule rank {}: {} STEP ops",
               rank_, count(OpKind::kStep));
    for (const ScheduleModule& module : schedule_.modules) {
      if (!module.is_trained) continue;
      bool is_reduced = false;
      for (const Op& op : ops_) {
        is_reduced =
            is_reduced || (op.kind == OpKind::kReduceGrad && Covers(op.module, module.name));
      }
      OT_REQUIRE(is_reduced, ErrorCode::kInternal, "schedule rank {}: no REDUCE_GRAD of {}", rank_,
                 module.name);
    }
  }

  const Schedule& schedule_;
  const size_t rank_;
  const std::vector<Op>& ops_;
  const ScheduleModule& llm_;
  const bool trains_;
  size_t at_ = 0;
  std::set<std::string> seen_;
};

}  // namespace

void Validate(const Schedule& schedule) {
  OT_CHECK(schedule.num_micro_batches >= 0, "{} micro-batches", schedule.num_micro_batches);
  OT_CHECK(!schedule.ranks.empty(), "a schedule without ranks");
  for (size_t r = 0; r < schedule.ranks.size(); ++r) RankValidator(schedule, r).Run();
  std::set<std::tuple<std::string, int, int>> forwards;
  for (const std::vector<Op>& ops : schedule.ranks) {
    for (const Op& op : ops) {
      if (op.kind == OpKind::kForward) forwards.insert({op.module, op.stage, op.micro_batch});
    }
  }
  for (const ScheduleModule& module : schedule.modules) {
    for (int stage = 0; stage < module.num_stages; ++stage) {
      for (int i = 0; i < schedule.num_micro_batches; ++i) {
        Op missing;
        missing.module = module.name;
        missing.stage = stage;
        missing.micro_batch = i;
        OT_REQUIRE(forwards.count({module.name, stage, i}) > 0, ErrorCode::kInternal,
                   "schedule: no rank has {}", ToString(missing));
      }
    }
  }
}

}  // namespace omnitrain
