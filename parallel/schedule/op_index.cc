#include "parallel/schedule/op_index.h"

#include <algorithm>

#include "core/base/check.h"

namespace omnitrain {
namespace {

constexpr int kNumKinds = static_cast<int>(OpKind::kFree) + 1;

}  // namespace

bool IsCommunication(OpKind kind) {
  switch (kind) {
    case OpKind::kSendForward:
    case OpKind::kRecvForward:
    case OpKind::kSendBackward:
    case OpKind::kRecvBackward:
    case OpKind::kReshardForward:
    case OpKind::kReshardBackward:
      return true;
    default:
      return false;
  }
}

bool IsGradient(OpKind kind) {
  return kind == OpKind::kBackward || kind == OpKind::kInputGrad || kind == OpKind::kWeightGrad;
}

OpIndex::OpIndex(const Schedule& schedule) : schedule_(schedule) {
  for (const ScheduleModule& m : schedule.modules) {
    num_stages_ = std::max(num_stages_, m.num_stages);
  }
  for (size_t r = 0; r < schedule.ranks.size(); ++r) {
    first_.push_back(num_ops());
    for (const Op& op : schedule.ranks[r]) {
      ops_.push_back(&op);
      rank_.push_back(static_cast<int>(r));
    }
  }
  const size_t num_buckets = static_cast<size_t>(kNumKinds) * (schedule.modules.size() + 1) *
                             static_cast<size_t>(num_stages_) *
                             static_cast<size_t>(schedule.num_micro_batches + 1);
  head_.assign(num_buckets, -1);
  next_.assign(ops_.size(), -1);
  for (int id = num_ops() - 1; id >= 0; --id) {
    const int bucket = Bucket(op(id).kind, op(id).module, op(id).stage, op(id).micro_batch);
    if (bucket < 0) continue;
    next_[static_cast<size_t>(id)] = head_[static_cast<size_t>(bucket)];
    head_[static_cast<size_t>(bucket)] = id;
  }
}

int OpIndex::Bucket(OpKind kind, const std::string& module, int stage, int micro_batch) const {
  const int num_micro_batches = schedule_.num_micro_batches;
  if (stage < 0 || stage >= num_stages_) return -1;
  if (micro_batch < -1 || micro_batch >= num_micro_batches) return -1;
  int module_idx = 0;
  if (!module.empty()) {
    const ScheduleModule* found = schedule_.FindModule(module);
    if (found == nullptr) return -1;
    module_idx = static_cast<int>(found - schedule_.modules.data()) + 1;
  }
  const int num_modules = static_cast<int>(schedule_.modules.size()) + 1;
  return ((static_cast<int>(kind) * num_modules + module_idx) * num_stages_ + stage) *
             (num_micro_batches + 1) +
         micro_batch + 1;
}

std::vector<int> OpIndex::Find(OpKind kind, const std::string& module, int stage,
                               int micro_batch) const {
  std::vector<int> ids;
  const int bucket = Bucket(kind, module, stage, micro_batch);
  if (bucket < 0) return ids;
  for (int id = head_[static_cast<size_t>(bucket)]; id >= 0; id = next_[static_cast<size_t>(id)]) {
    ids.push_back(id);
  }
  return ids;
}

std::vector<int> OpIndex::FindAnyStage(OpKind kind, const std::string& module,
                                       int micro_batch) const {
  std::vector<int> ids;
  for (int stage = 0; stage < num_stages_; ++stage) {
    const std::vector<int> some = Find(kind, module, stage, micro_batch);
    ids.insert(ids.end(), some.begin(), some.end());
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

void OpIndex::Refuse(int id, const std::string& what) const {
  Fail(ErrorCode::kInternal, "schedule rank {} op {} {}: {}", rank(id), position(id),
       ToString(op(id)), what);
}

}  // namespace omnitrain
