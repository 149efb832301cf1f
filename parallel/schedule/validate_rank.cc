#include "parallel/schedule/validate_rank.h"

#include <functional>

#include "core/base/check.h"

namespace omnitrain {
namespace {

using Kinds = std::vector<OpKind>;

bool IsBackward(OpKind kind) {
  return IsGradient(kind) || kind == OpKind::kSendBackward || kind == OpKind::kRecvBackward ||
         kind == OpKind::kReshardBackward || kind == OpKind::kReduceGrad || kind == OpKind::kStep;
}

class RankValidator {
 public:
  RankValidator(const OpIndex& index, int rank)
      : index_(index),
        schedule_(index.schedule()),
        rank_(rank),
        ops_(schedule_.ranks[static_cast<size_t>(rank)]),
        llm_(schedule_.llm()),
        trains_(schedule_.purpose == SchedulePurpose::kTrain) {}

  void Run() {
    for (at_ = 0; at_ < static_cast<int>(ops_.size()); ++at_) {
      const Op& op = Here();
      CheckFields(op);
      Require(!IsBefore(Same({op.kind}, op), [&](const Op& o) { return o == op; }), "stands twice");
      CheckOrder(op);
    }
    CheckComplete();
  }

 private:
  using Match = std::function<bool(const Op&)>;
  using Ids = std::vector<int>;

  const Op& Here() const { return ops_[static_cast<size_t>(at_)]; }
  [[noreturn]] void Refuse(const std::string& what) const {
    index_.Refuse(index_.IdOf(rank_, at_), what);
  }
  void Require(bool condition, const char* what) const {
    if (!condition) Refuse(what);
  }

  /// Ops of `kinds` with the module, stage and micro-batch of `key`, on all ranks.
  Ids Same(const Kinds& kinds, const Op& key) const {
    Ids ids;
    for (OpKind kind : kinds) {
      const Ids some = index_.Find(kind, key.module, key.stage, key.micro_batch);
      ids.insert(ids.end(), some.begin(), some.end());
    }
    return ids;
  }
  /// Ops of `kinds` with the module and micro-batch of `key`, of all stages, on all ranks.
  Ids AllStages(const Kinds& kinds, const Op& key) const {
    Ids ids;
    for (OpKind kind : kinds) {
      const Ids some = index_.FindAnyStage(kind, key.module, key.micro_batch);
      ids.insert(ids.end(), some.begin(), some.end());
    }
    return ids;
  }
  /// RESHARDs of the micro-batch that `module` takes part in ("": of all).
  Ids Reshards(OpKind kind, const std::string& module, int micro_batch) const {
    Op key;
    key.micro_batch = micro_batch;
    Ids ids = AllStages({kind}, key);
    for (const ScheduleModule& m : schedule_.modules) {
      if (!module.empty() && m.name != module) continue;
      key.module = m.name;
      const Ids some = AllStages({kind}, key);
      ids.insert(ids.end(), some.begin(), some.end());
    }
    return ids;
  }
  bool IsBefore(const Ids& ids, const Match& match) const {
    for (int id : ids) {
      if (index_.rank(id) == rank_ && index_.position(id) < at_ && match(index_.op(id))) {
        return true;
      }
    }
    return false;
  }
  /// No op that matches may follow the current one.
  void RequireNoneLater(const Ids& ids, const std::string& why, const Match& match) const {
    int first = -1;
    for (int id : ids) {
      if (index_.rank(id) != rank_ || index_.position(id) <= at_ || !match(index_.op(id))) continue;
      if (first < 0 || id < first) first = id;
    }
    if (first < 0) return;
    Refuse(fmt::format("{} at op {} comes later, {}", ToString(index_.op(first)),
                       index_.position(first), why));
  }
  void RequireNoneLater(const std::string& why, const Match& match) const {
    Ids ids;
    for (size_t i = 0; i < ops_.size(); ++i) {
      ids.push_back(index_.IdOf(rank_, static_cast<int>(i)));
    }
    RequireNoneLater(ids, why, match);
  }
  static bool Any(const Op& /*op*/) { return true; }
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
      if (module == nullptr) Refuse("the schedule has no module " + op.module);
      const int num_stages = is_reshard ? llm_.num_stages : module->num_stages;
      if (op.stage >= num_stages) Refuse(fmt::format("{} stages", num_stages));
      Require(!is_reshard || module->is_encoder, "only encoders are resharded");
    } else {
      Require(is_reshard || op.kind == OpKind::kReduceGrad || op.kind == OpKind::kStep,
              "it names no module");
      if (op.stage >= llm_.num_stages) Refuse(fmt::format("{} stages", llm_.num_stages));
    }
    if (op.micro_batch >= schedule_.num_micro_batches) {
      Refuse(fmt::format("{} micro-batches", schedule_.num_micro_batches));
    }
    Require(trains_ || !IsBackward(op.kind), "an evaluation has no backward");
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
        for (const ScheduleModule& m : schedule_.modules) {
          if (!m.is_encoder || !Covers(op.module, m.name)) continue;
          RequireNoneLater(index_.FindAnyStage(OpKind::kForward, m.name, op.micro_batch),
                           "its rows are missing", Any);
        }
        return;
      case OpKind::kReshardBackward:
        return CheckReshardBackward(op);
      case OpKind::kReduceGrad:
        return RequireNoneLater("its weight gradient is missing", [&](const Op& o) {
          return IsGradient(o.kind) && Covers(op.module, o.module) && op.slice < 0;
        });
      case OpKind::kStep: {
        bool is_reduced = false;
        for (int i = 0; i < at_; ++i) {
          is_reduced = is_reduced || ops_[static_cast<size_t>(i)].kind == OpKind::kReduceGrad;
        }
        Require(is_reduced, "no REDUCE_GRAD before it");
        return RequireNoneLater("but STEP is last",
                                [](const Op& o) { return o.kind != OpKind::kFree; });
      }
      case OpKind::kFree:
        return CheckFree(op);
    }
  }

  void CheckFree(const Op& op) const {
    const auto is_same = [&](const Op& o) { return o.slice == op.slice; };
    Require(IsBefore(Same({OpKind::kForward}, op), is_same), "nothing to free yet");
    const std::string why = "which uses what it frees";
    if (IsEncoder(op)) {
      RequireNoneLater(Reshards(OpKind::kReshardForward, op.module, op.micro_batch), why, Any);
    }
    RequireNoneLater(
        Same({OpKind::kForward, OpKind::kBackward, OpKind::kInputGrad, OpKind::kWeightGrad,
              OpKind::kSendForward, OpKind::kRecvForward, OpKind::kSendBackward,
              OpKind::kRecvBackward, OpKind::kReshardForward, OpKind::kReshardBackward},
             op),
        why, is_same);
  }

  void CheckForward(const Op& op) const {
    RequireNoneLater(AllStages({OpKind::kForward}, op), "but stages run upwards",
                     [&](const Op& o) { return o.stage < op.stage; });
    RequireNoneLater(Same({OpKind::kRecvForward}, op), "but it needs what is received",
                     [&](const Op& o) { return o.slice == op.slice; });
    if (IsEncoder(op)) return;
    const Ids reshards = Reshards(OpKind::kReshardForward, "", op.micro_batch);
    RequireNoneLater(reshards, "but it needs those rows",
                     [&](const Op& o) { return o.stage == op.stage; });
    if (op.stage > 0) return;
    for (const ScheduleModule& encoder : schedule_.modules) {
      if (!encoder.is_encoder) continue;
      const bool is_there = IsBefore(
          reshards, [&](const Op& o) { return Covers(o.module, encoder.name) && o.stage == 0; });
      if (!is_there) {
        Refuse(fmt::format("no RESHARD_F{} of {} before it", op.micro_batch, encoder.name));
      }
    }
  }

  void CheckInputGrad(const Op& op) const {
    const ScheduleModule* module = schedule_.FindModule(op.module);
    if (!module->is_trained && op.kind != OpKind::kInputGrad) {
      Refuse(op.module + " is frozen: it has no weight gradients");
    }
    if (module->is_encoder && !module->is_trained) Refuse(op.module + " is frozen");
    Op forward = op;
    forward.kind = OpKind::kForward;
    if (!IsBefore(Same({OpKind::kForward}, op), [&](const Op& o) { return o == forward; })) {
      Refuse(fmt::format("no {} before it", ToString(forward)));
    }
    Op other = op;
    other.kind = op.kind == OpKind::kBackward ? OpKind::kInputGrad : OpKind::kBackward;
    if (IsBefore(Same({other.kind}, op), [&](const Op& o) { return o == other; })) {
      Refuse("a second gradient after " + ToString(other));
    }
    RequireNoneLater(AllStages({OpKind::kBackward, OpKind::kInputGrad}, op),
                     "but stages run downwards", [&](const Op& o) { return o.stage > op.stage; });
    RequireNoneLater(Same({OpKind::kRecvBackward}, op), "but it needs what is received",
                     [&](const Op& o) { return o.slice == op.slice; });
    if (!module->is_encoder) return;
    const Ids reshards = Reshards(OpKind::kReshardBackward, op.module, op.micro_batch);
    if (!IsBefore(reshards, Any)) {
      Refuse(fmt::format("no RESHARD_B{} before it", op.micro_batch));
    }
    RequireNoneLater(reshards, "but it needs those gradients", Any);
  }

  void CheckReshardBackward(const Op& op) const {
    Require(schedule_.trains_encoders(), "every encoder is frozen");
    Op llm_grad;
    llm_grad.kind = llm_.is_trained ? OpKind::kBackward : OpKind::kInputGrad;
    llm_grad.module = llm_.name;
    llm_grad.stage = op.stage;
    llm_grad.micro_batch = op.micro_batch;
    // A rank that only encodes has no LLM op of its own to wait for.
    bool holds_stage = schedule_.ranks.size() == 1;
    for (int id : Same({OpKind::kForward}, llm_grad)) {
      holds_stage = holds_stage || index_.rank(id) == rank_;
    }
    const Ids gradients = Same({OpKind::kBackward, OpKind::kInputGrad}, llm_grad);
    if (holds_stage && !IsBefore(gradients, Any)) {
      Refuse(fmt::format("no {} before it", ToString(llm_grad)));
    }
    RequireNoneLater(gradients, "but it sends that gradient", Any);
  }

  /// One of `kinds` with this key must stand before.
  void RequireSame(const Op& op, const Kinds& kinds) const {
    if (IsBefore(Same(kinds, op), [&](const Op& o) { return o.slice == op.slice; })) return;
    Refuse(fmt::format("no {} of its own before it", OpKindName(kinds[0])));
  }
  /// None of `kinds` with this key may stand before.
  void RequireNotYet(const Op& op, const Kinds& kinds) const {
    if (!IsBefore(Same(kinds, op), [&](const Op& o) { return o.slice == op.slice; })) return;
    Refuse("what needs it stands before it");
  }

  /// Whether this rank has the op of this kind, all else as in `op`.
  bool Has(OpKind kind, const Op& op) const {
    Op wanted = op;
    wanted.kind = kind;
    for (int id : Same({kind}, op)) {
      if (index_.rank(id) == rank_ && index_.op(id) == wanted) return true;
    }
    return false;
  }

  void CheckComplete() {
    if (!trains_) return;
    const auto text = [](OpKind kind, Op op) {
      op.kind = kind;
      return ToString(op);
    };
    for (at_ = 0; at_ < static_cast<int>(ops_.size()); ++at_) {
      const Op& op = Here();
      if (op.kind == OpKind::kReshardForward) {
        CheckReshardComplete(op);
        continue;
      }
      if (op.kind != OpKind::kForward && op.kind != OpKind::kInputGrad) continue;
      const ScheduleModule* module = schedule_.FindModule(op.module);
      if (op.kind == OpKind::kInputGrad) {
        if (!module->is_trained || Has(OpKind::kWeightGrad, op)) continue;
        Refuse(fmt::format("no {} after it", text(OpKind::kWeightGrad, op)));
      }
      const bool wants_gradient =
          module->is_trained || (!module->is_encoder && schedule_.trains_encoders());
      if (!wants_gradient || Has(OpKind::kBackward, op) || Has(OpKind::kInputGrad, op)) continue;
      Refuse(fmt::format("neither {} nor {} after it", text(OpKind::kBackward, op),
                         text(OpKind::kInputGrad, op)));
    }
    int num_steps = 0;
    for (const Op& op : ops_) num_steps += op.kind == OpKind::kStep;
    OT_REQUIRE(num_steps == 1, ErrorCode::kInternal, "schedule rank {}: {} STEP ops", rank_,
               num_steps);
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

  /// What went to the LLM comes back as a gradient, from every stage that took it.
  void CheckReshardComplete(const Op& op) const {
    bool is_trained = false;
    for (const ScheduleModule& m : schedule_.modules) {
      is_trained = is_trained || (m.is_encoder && m.is_trained && Covers(op.module, m.name));
    }
    if (!is_trained) return;
    for (int id : Reshards(OpKind::kReshardBackward, op.module, op.micro_batch)) {
      const Op& o = index_.op(id);
      if (index_.rank(id) == rank_ && o.stage == op.stage && o.layer == op.layer) return;
    }
    Op wanted = op;
    wanted.kind = OpKind::kReshardBackward;
    Refuse(fmt::format("no {} after it", ToString(wanted)));
  }

  const OpIndex& index_;
  const Schedule& schedule_;
  const int rank_;
  const std::vector<Op>& ops_;
  const ScheduleModule& llm_;
  const bool trains_;
  int at_ = 0;
};

}  // namespace

void ValidateRank(const OpIndex& index, int rank) { RankValidator(index, rank).Run(); }

}  // namespace omnitrain
