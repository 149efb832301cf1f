#include "parallel/schedule/add_communication.h"

#include <algorithm>
#include <tuple>

#include "core/base/check.h"
#include "parallel/schedule/op_graph.h"

namespace omnitrain {
namespace {

/// When something is over, places in one order that all ranks share.
struct Moment {
  int64_t end_ns = 0;
  /// Of two that are over at once, the later one may be waiting for the earlier.
  int place = -1;
  /// 0: a compute op. Else the number of a transfer, right behind the last op that it waits for.
  int transfer = 0;

  bool operator<(const Moment& o) const {
    return std::tie(end_ns, place, transfer) < std::tie(o.end_ns, o.place, o.transfer);
  }
};

class Inserter {
 public:
  Inserter(const Schedule& schedule, const CommunicationParams& params)
      : schedule_(schedule),
        params_(params),
        index_(schedule),
        graph_(index_, {true, params.consumer_stages}),
        lists_(schedule.ranks.size()) {
    const std::vector<int> order = graph_.Order();
    const std::vector<SimulatedSpan> spans =
        internal::RunGraph(index_, graph_, order, params.costs);
    moments_.resize(order.size());
    for (size_t place = 0; place < order.size(); ++place) {
      const size_t node = static_cast<size_t>(order[place]);
      moments_[node] = {spans[node].end_ns, static_cast<int>(place), 0};
    }
  }

  Schedule Run() {
    for (int id = 0; id < index_.num_ops(); ++id) {
      Put(index_.rank(id), MomentOf(id), index_.op(id));
      Send(id);
    }
    for (int i = 0; i < schedule_.num_micro_batches; ++i) Reshard(i);
    Schedule result = schedule_;
    for (size_t r = 0; r < lists_.size(); ++r) {
      std::sort(lists_[r].begin(), lists_[r].end(),
                [](const Entry& a, const Entry& b) { return a.first < b.first; });
      result.ranks[r].clear();
      for (const Entry& entry : lists_[r]) result.ranks[r].push_back(entry.second);
    }
    return result;
  }

 private:
  using Entry = std::pair<Moment, Op>;

  const Moment& MomentOf(int id) const { return moments_[static_cast<size_t>(graph_.NodeOf(id))]; }
  void Put(int rank, const Moment& moment, Op op) {
    lists_[static_cast<size_t>(rank)].emplace_back(moment, std::move(op));
  }

  /// The output of an LLM op to the next stage in its direction, where that is elsewhere.
  void Send(int id) {
    const Op& op = index_.op(id);
    if (op.module != schedule_.llm().name) return;
    const bool is_forward = op.kind == OpKind::kForward;
    if (!is_forward && op.kind != OpKind::kBackward && op.kind != OpKind::kInputGrad) return;
    Op send = op, recv = op;
    send.kind = is_forward ? OpKind::kSendForward : OpKind::kSendBackward;
    recv.kind = is_forward ? OpKind::kRecvForward : OpKind::kRecvBackward;
    recv.stage += is_forward ? 1 : -1;
    const std::vector<int> next =
        index_.Find(OpKind::kForward, op.module, recv.stage, op.micro_batch);
    if (next.empty() || index_.rank(next[0]) == index_.rank(id)) return;
    Moment moment = MomentOf(id);
    moment.transfer = ++num_transfers_;
    Put(index_.rank(id), moment, send);
    Put(index_.rank(next[0]), moment, recv);
  }

  void Reshard(int micro_batch) {
    std::vector<int> encoders;
    for (const ScheduleModule& m : schedule_.modules) {
      if (!m.is_encoder) continue;
      for (int id : index_.FindAnyStage(OpKind::kForward, m.name, micro_batch)) {
        encoders.push_back(id);
      }
    }
    if (encoders.empty()) return;
    for (int stage : params_.consumer_stages) {
      const std::string& llm = schedule_.llm().name;
      const std::vector<int> forward = index_.Find(OpKind::kForward, llm, stage, micro_batch);
      OT_CHECK(!forward.empty(), "consumer stage {} of {}: micro-batch {} has no F there", stage,
               schedule_.llm().num_stages, micro_batch);
      std::vector<int> ranks;
      for (int id : encoders) ranks.push_back(index_.rank(id));
      for (int id : forward) ranks.push_back(index_.rank(id));
      std::sort(ranks.begin(), ranks.end());
      ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
      Op op;
      op.stage = stage;
      op.micro_batch = micro_batch;
      op.kind = OpKind::kReshardForward;
      PutBehind(encoders, ranks, op);
      if (!schedule_.trains_encoders()) continue;
      std::vector<int> gradients = index_.Find(OpKind::kBackward, llm, stage, micro_batch);
      for (int id : index_.Find(OpKind::kInputGrad, llm, stage, micro_batch)) {
        gradients.push_back(id);
      }
      op.kind = OpKind::kReshardBackward;
      PutBehind(gradients, ranks, op);
    }
  }
  void PutBehind(const std::vector<int>& producers, const std::vector<int>& ranks, const Op& op) {
    Moment moment;
    for (int id : producers) moment = std::max(moment, MomentOf(id));
    moment.transfer = ++num_transfers_;
    for (int rank : ranks) Put(rank, moment, op);
  }

  const Schedule& schedule_;
  const CommunicationParams& params_;
  const OpIndex index_;
  const OpGraph graph_;
  std::vector<Moment> moments_;  // by node
  std::vector<std::vector<Entry>> lists_;
  int num_transfers_ = 0;
};

}  // namespace

Schedule AddCommunication(const Schedule& schedule, const CommunicationParams& params) {
  return Inserter(schedule, params).Run();
}

}  // namespace omnitrain
