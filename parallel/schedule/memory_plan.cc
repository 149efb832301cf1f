#include "parallel/schedule/memory_plan.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "core/base/check.h"

namespace omnitrain {
namespace {

size_t Aligned(size_t bytes) {
  return (bytes + ArenaPlan::kAlignment - 1) / ArenaPlan::kAlignment * ArenaPlan::kAlignment;
}

bool Together(const BlockRequest& a, const BlockRequest& b) {
  return a.first_op <= b.last_op && b.first_op <= a.last_op;
}

ArenaPlan Place(const std::vector<BlockRequest>& requests, const std::vector<size_t>& order) {
  ArenaPlan plan;
  plan.offsets.assign(requests.size(), 0);
  std::vector<size_t> placed;
  std::vector<std::pair<size_t, size_t>> taken;  // [begin, end) of blocks alive with this one
  for (size_t index : order) {
    const size_t bytes = Aligned(requests[index].bytes);
    if (bytes == 0) continue;
    taken.clear();
    for (size_t other : placed) {
      if (!Together(requests[index], requests[other])) continue;
      taken.push_back({plan.offsets[other], plan.offsets[other] + Aligned(requests[other].bytes)});
    }
    std::sort(taken.begin(), taken.end());
    size_t end = 0, best = 0, best_gap = 0;
    bool has_gap = false;
    for (const auto& block : taken) {
      const size_t gap = block.first > end ? block.first - end : 0;
      if (gap >= bytes && (!has_gap || gap < best_gap)) {
        best = end;
        best_gap = gap;
        has_gap = true;
      }
      end = std::max(end, block.second);
    }
    plan.offsets[index] = has_gap ? best : end;
    plan.arena_bytes = std::max(plan.arena_bytes, plan.offsets[index] + bytes);
    placed.push_back(index);
  }
  return plan;
}

size_t LargestAlive(const std::vector<BlockRequest>& requests) {
  std::map<int, int64_t> change;  // at an op
  for (const BlockRequest& request : requests) {
    change[request.first_op] += static_cast<int64_t>(Aligned(request.bytes));
    change[request.last_op + 1] -= static_cast<int64_t>(Aligned(request.bytes));
  }
  int64_t alive = 0, largest = 0;
  for (const auto& entry : change) {
    alive += entry.second;
    largest = std::max(largest, alive);
  }
  return static_cast<size_t>(largest);
}

/// Positions of ops in one rank's list.
class Positions {
 public:
  Positions(const Schedule& schedule, int rank)
      : schedule_(schedule), rank_(rank), ops_(schedule.ranks[static_cast<size_t>(rank)]) {}

  /// Of the op of `kind` with the key, or -1.
  int OfKey(OpKind kind, const Op& key) const {
    for (size_t i = 0; i < ops_.size(); ++i) {
      const Op& op = ops_[i];
      if (op.kind == kind && op.module == key.module && op.stage == key.stage &&
          op.micro_batch == key.micro_batch && op.slice == key.slice) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }
  /// Of the first or last RESHARD that serves the module: an encoder's, or a stage of the LLM's;
  /// where the encoders are, stage 0 hands on what the other stages take.
  int OfReshard(OpKind kind, const Op& key, bool is_first) const {
    const bool is_encoder = schedule_.FindModule(key.module)->is_encoder;
    int found = -1;
    for (size_t i = 0; i < ops_.size(); ++i) {
      const Op& op = ops_[i];
      if (op.kind != kind || op.micro_batch != key.micro_batch) continue;
      if (is_encoder && !op.module.empty() && op.module != key.module) continue;
      if (!is_encoder && key.stage != 0 && op.stage != key.stage) continue;
      if (found < 0 || !is_first) found = static_cast<int>(i);
    }
    return found;
  }
  /// Until when what the op at `position` sends must live; -1 stays -1.
  int Deadline(int position) const { return position < 0 ? -1 : SendDeadline(ops_, position); }
  /// When the last RESHARD of the key is over: one whose other end is on another rank is a send.
  int EndOfReshard(OpKind kind, const Op& key) const {
    const bool has_encoder = std::any_of(ops_.begin(), ops_.end(), [&](const Op& op) {
      return op.kind == OpKind::kForward && schedule_.FindModule(op.module)->is_encoder;
    });
    int end = -1;
    for (size_t i = 0; i < ops_.size(); ++i) {
      const Op& op = ops_[i];
      if (op.kind != kind || op.micro_batch != key.micro_batch) continue;
      if (key.stage != 0 && op.stage != key.stage) continue;
      Op stage = op;
      stage.module = schedule_.llm().name;
      const bool has_stage = OfKey(OpKind::kForward, stage) >= 0;
      const bool is_send = kind == OpKind::kReshardForward ? !has_stage : !has_encoder;
      end = std::max(end, is_send ? Deadline(static_cast<int>(i)) : static_cast<int>(i));
    }
    return end;
  }
  /// The receive of the key where there is one, else the op itself.
  int OrReceive(int position, OpKind receive, const Op& key) const {
    const int received = OfKey(receive, key);
    return received >= 0 ? received : position;
  }
  int InputGrad(const Op& key) const {
    return std::max(OfKey(OpKind::kBackward, key), OfKey(OpKind::kInputGrad, key));
  }
  int WeightGrad(const Op& key) const {
    return std::max(OfKey(OpKind::kBackward, key), OfKey(OpKind::kWeightGrad, key));
  }
  int Require(int position, const BlockRule& rule, const char* what) const {
    Op key = rule.key;
    key.kind = OpKind::kForward;
    OT_CHECK(position >= 0, "schedule rank {}: block {} of {} begins at {}, which is not there",
             rank_, rule.name, ToString(key), what);
    return position;
  }

 private:
  const Schedule& schedule_;
  const int rank_;
  const std::vector<Op>& ops_;
};

BlockRequest Derive(const Positions& positions, const BlockRule& rule) {
  const Op& key = rule.key;
  const int forward = positions.OfKey(OpKind::kForward, key);
  const int input_grad = positions.InputGrad(key), weight_grad = positions.WeightGrad(key);
  int first = forward, last = -1;
  const char* begins_at = "F";
  switch (rule.lifetime) {
    case BlockLifetime::kForward:
      last = forward;
      break;
    case BlockLifetime::kOutput:
      last = positions.OfReshard(OpKind::kReshardForward, key, false);
      break;
    case BlockLifetime::kForInputGrad:
      first = positions.OrReceive(forward, OpKind::kRecvForward, key);
      last = std::max(forward, input_grad);
      break;
    case BlockLifetime::kForWeightGrad:
      first = positions.OrReceive(forward, OpKind::kRecvForward, key);
      last = std::max({forward, input_grad, weight_grad,
                       positions.Deadline(positions.OfKey(OpKind::kSendForward, key))});
      break;
    case BlockLifetime::kStageGrad:
      first = positions.OrReceive(input_grad, OpKind::kRecvBackward, key);
      last = std::max(input_grad, positions.Deadline(positions.OfKey(OpKind::kSendBackward, key)));
      begins_at = "B or I";
      break;
    case BlockLifetime::kBackward:
      first = last = input_grad;
      begins_at = "B or I";
      break;
    case BlockLifetime::kInputGradToWeightGrad:
      first = input_grad;
      last = weight_grad;
      begins_at = "B or I";
      break;
    case BlockLifetime::kInjected:
      first = positions.OfReshard(OpKind::kReshardForward, key, true);
      last = std::max(forward, positions.EndOfReshard(OpKind::kReshardForward, key));
      begins_at = "RESHARD_F";
      break;
    case BlockLifetime::kInjectedGrad:
      first = positions.OfReshard(OpKind::kReshardBackward, key, true);
      first = first < 0 ? input_grad : std::min(first, input_grad);
      last = positions.EndOfReshard(OpKind::kReshardBackward, key);
      begins_at = "B or I";
      break;
    case BlockLifetime::kOutputGrad:
      first = positions.OfReshard(OpKind::kReshardBackward, key, true);
      last = std::max(input_grad, weight_grad);
      begins_at = "RESHARD_B";
      break;
  }
  first = positions.Require(first, rule, begins_at);
  return {rule.name, rule.bytes, first, std::max(first, last)};
}

}  // namespace

ArenaPlan PlanArena(const std::vector<BlockRequest>& requests) {
  for (const BlockRequest& request : requests) {
    OT_CHECK(request.first_op <= request.last_op, "block {} lives from op {} to op {}",
             request.name, request.first_op, request.last_op);
  }
  std::vector<size_t> by_time(requests.size());
  std::iota(by_time.begin(), by_time.end(), size_t{0});
  std::vector<size_t> by_size = by_time;
  std::stable_sort(by_time.begin(), by_time.end(), [&](size_t a, size_t b) {
    if (requests[a].first_op != requests[b].first_op) {
      return requests[a].first_op < requests[b].first_op;
    }
    // What lives longest lies lowest, so that what ends soon leaves one gap on top.
    return requests[a].last_op > requests[b].last_op;
  });
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return requests[a].bytes > requests[b].bytes; });
  ArenaPlan plan = Place(requests, by_time);
  const size_t lower_bound = LargestAlive(requests);
  if (plan.arena_bytes > lower_bound) {
    ArenaPlan other = Place(requests, by_size);
    if (other.arena_bytes < plan.arena_bytes) plan = std::move(other);
  }
  plan.lower_bound_bytes = lower_bound;
  return plan;
}

int SendDeadline(const std::vector<Op>& list, int position) {
  int num_compute = 0;
  for (size_t i = static_cast<size_t>(position) + 1; i < list.size(); ++i) {
    const OpKind kind = list[i].kind;
    const bool is_compute = kind == OpKind::kForward || kind == OpKind::kBackward ||
                            kind == OpKind::kInputGrad || kind == OpKind::kWeightGrad;
    if (is_compute && ++num_compute == 2) return static_cast<int>(i);
  }
  return static_cast<int>(list.size()) - 1;
}

std::vector<BlockRequest> DeriveRequests(const Schedule& schedule, int rank,
                                         const std::vector<BlockRule>& rules) {
  const Positions positions(schedule, rank);
  std::vector<BlockRequest> requests;
  for (const BlockRule& rule : rules) {
    OT_CHECK(schedule.FindModule(rule.key.module) != nullptr, "block {}: no module {}", rule.name,
             rule.key.module);
    requests.push_back(Derive(positions, rule));
  }
  return requests;
}

}  // namespace omnitrain
