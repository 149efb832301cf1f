#pragma once

#include <vector>

#include "parallel/schedule/schedule.h"

namespace omnitrain {

/// SEND, RECV and RESHARD: what runs beside compute, in one launch order per rank.
bool IsCommunication(OpKind kind);
/// B, I and W.
bool IsGradient(OpKind kind);

/// Finds ops of a schedule by what they do. Ops are numbered rank by rank, in list order. The
/// schedule must outlive it. Cost: linear to make, a lookup is as long as its answer.
class OpIndex {
 public:
  explicit OpIndex(const Schedule& schedule);

  const Schedule& schedule() const { return schedule_; }
  int num_ops() const { return static_cast<int>(ops_.size()); }
  const Op& op(int id) const { return *ops_[static_cast<size_t>(id)]; }
  int rank(int id) const { return rank_[static_cast<size_t>(id)]; }
  int position(int id) const { return id - first_[static_cast<size_t>(rank(id))]; }
  int IdOf(int rank, int position) const { return first_[static_cast<size_t>(rank)] + position; }

  /// Of ops of the kind, module ("": those that name none), stage and micro_batch; of every slice
  /// and rank, ascending. Ops whose fields are out of the schedule's range are in no answer.
  std::vector<int> Find(OpKind kind, const std::string& module, int stage, int micro_batch) const;
  /// Those of every stage.
  std::vector<int> FindAnyStage(OpKind kind, const std::string& module, int micro_batch) const;

  /// Throws kInternal: `schedule rank 0 op 3 llm:B0: what`.
  [[noreturn]] void Refuse(int id, const std::string& what) const;

 private:
  /// Of the list that the op is in; -1 when a field is out of range.
  int Bucket(OpKind kind, const std::string& module, int stage, int micro_batch) const;

  const Schedule& schedule_;
  int num_stages_ = 1;
  std::vector<const Op*> ops_;
  std::vector<int> rank_;
  std::vector<int> first_;  // by rank
  std::vector<int> head_;   // by bucket
  std::vector<int> next_;   // by op: the next of its bucket
};

}  // namespace omnitrain
