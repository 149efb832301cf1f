#include "parallel/schedule/op_graph.h"

#include <algorithm>
#include <map>

#include "core/base/check.h"

namespace omnitrain {
namespace {

const std::vector<OpKind> kForwards = {OpKind::kForward};
const std::vector<OpKind> kInputGrads = {OpKind::kBackward, OpKind::kInputGrad};

bool Contains(const std::vector<int>& values, int value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

/// The op at the other end of a SEND or RECV.
Op Partner(const Op& op) {
  Op partner = op;
  switch (op.kind) {
    case OpKind::kSendForward:
      partner.kind = OpKind::kRecvForward;
      partner.stage = op.stage + 1;
      break;
    case OpKind::kRecvForward:
      partner.kind = OpKind::kSendForward;
      partner.stage = op.stage - 1;
      break;
    case OpKind::kSendBackward:
      partner.kind = OpKind::kRecvBackward;
      partner.stage = op.stage - 1;
      break;
    default:
      partner.kind = OpKind::kSendBackward;
      partner.stage = op.stage + 1;
  }
  return partner;
}

}  // namespace

OpGraph::OpGraph(const OpIndex& index, OpGraphOptions options)
    : index_(index), options_(std::move(options)) {
  node_.assign(static_cast<size_t>(index_.num_ops()), -1);
  MakeNodes();
  successors_.resize(ops_.size());
  AddLaneEdges();
  for (int id = 0; id < index_.num_ops(); ++id) AddDataEdges(id);
}

void OpGraph::AddNode(std::vector<int> ids) {
  for (int id : ids) node_[static_cast<size_t>(id)] = num_nodes();
  ops_.push_back(std::move(ids));
}

void OpGraph::MakeNodes() {
  for (int id = 0; id < index_.num_ops(); ++id) {
    if (NodeOf(id) >= 0) continue;
    const Op& op = index_.op(id);
    if (!op.module.empty() && index_.schedule().FindModule(op.module) == nullptr) {
      index_.Refuse(id, "the schedule has no module " + op.module);
    }
    if (!IsCommunication(op.kind)) {
      AddNode({id});
      continue;
    }
    if (options_.is_direct) index_.Refuse(id, "communication is there already");
    if (op.kind == OpKind::kReshardForward || op.kind == OpKind::kReshardBackward) {
      MakeReshardNode(id);
    } else {
      MakeSendNode(id);
    }
  }
}

void OpGraph::MakeSendNode(int id) {
  const Op& op = index_.op(id);
  const Op partner = Partner(op);
  const ScheduleModule* module = index_.schedule().FindModule(op.module);
  if (partner.stage < 0 || partner.stage >= module->num_stages) {
    index_.Refuse(id, fmt::format("{} has no stage {}", op.module, partner.stage));
  }
  int found = -1;
  for (int other : index_.Find(partner.kind, partner.module, partner.stage, partner.micro_batch)) {
    if (index_.op(other).slice != op.slice) continue;
    if (found >= 0 || NodeOf(other) >= 0) index_.Refuse(other, "it has two partners");
    found = other;
  }
  if (found < 0) index_.Refuse(id, fmt::format("no rank has {}", ToString(partner)));
  if (index_.rank(found) == index_.rank(id)) {
    index_.Refuse(id, ToString(partner) + " is on the same rank");
  }
  AddNode({id, found});
}

void OpGraph::MakeReshardNode(int id) {
  const Op& op = index_.op(id);
  std::vector<int> ids, ranks;
  for (int other : index_.Find(op.kind, op.module, op.stage, op.micro_batch)) {
    if (index_.op(other) != op) continue;
    ids.push_back(other);
    ranks.push_back(index_.rank(other));
  }
  const auto require_at = [&](int other) {
    if (Contains(ranks, index_.rank(other))) return;
    index_.Refuse(id, fmt::format("rank {} has {} but no {}", index_.rank(other),
                                  ToString(index_.op(other)), ToString(op)));
  };
  for (const ScheduleModule& module : index_.schedule().modules) {
    if (!module.is_encoder) {
      for (int f : index_.Find(OpKind::kForward, module.name, op.stage, op.micro_batch)) {
        require_at(f);
      }
    } else if (op.module.empty() || op.module == module.name) {
      for (int f : index_.FindAnyStage(OpKind::kForward, module.name, op.micro_batch)) {
        require_at(f);
      }
    }
  }
  AddNode(std::move(ids));
}

void OpGraph::AddEdge(int from_id, int to_id) {
  const int from = NodeOf(from_id), to = NodeOf(to_id);
  std::vector<int>& list = successors_[static_cast<size_t>(from)];
  if (from != to && (list.empty() || list.back() != to)) list.push_back(to);
}

std::vector<OpGraph::Lane> OpGraph::LanesOf(int id) const {
  const Lane compute = {-1, -1}, communication = {-2, -2};
  const Op& op = index_.op(id);
  if (!IsCommunication(op.kind)) return {compute};
  if (options_.order == TransferOrder::kStrict) return {communication};
  const std::vector<int>& ids = ops(NodeOf(id));
  if (op.kind != OpKind::kReshardForward && op.kind != OpKind::kReshardBackward) {
    const bool is_send = index_.op(ids[0]).kind == OpKind::kSendForward ||
                         index_.op(ids[0]).kind == OpKind::kSendBackward;
    const int a = index_.rank(ids[0]), b = index_.rank(ids[1]);
    return {is_send ? Lane{a, b} : Lane{b, a}};
  }
  if (ids.size() == 1) return {compute};
  const int mine = index_.rank(id);
  const int llm = index_.rank(
      index_.Find(OpKind::kForward, index_.schedule().llm().name, op.stage, op.micro_batch)[0]);
  std::vector<Lane> lanes;
  for (int other : ids) {
    const int encoder = index_.rank(other);
    if (encoder == llm || (mine != llm && mine != encoder)) continue;
    lanes.push_back(op.kind == OpKind::kReshardForward ? Lane{encoder, llm} : Lane{llm, encoder});
  }
  return lanes;
}

void OpGraph::AddLaneEdges() {
  for (size_t r = 0; r < index_.schedule().ranks.size(); ++r) {
    std::map<Lane, int> last;
    for (size_t i = 0; i < index_.schedule().ranks[r].size(); ++i) {
      const int id = index_.IdOf(static_cast<int>(r), static_cast<int>(i));
      for (const Lane& lane : LanesOf(id)) {
        const auto [before, is_first] = last.emplace(lane, id);
        if (!is_first) AddEdge(before->second, id);
        before->second = id;
      }
    }
  }
}

int OpGraph::AddEdgesFrom(int id, const std::vector<OpKind>& kinds, const std::string& module,
                          int stage, int slice) {
  int num_edges = 0;
  for (OpKind kind : kinds) {
    for (int from : index_.Find(kind, module, stage, index_.op(id).micro_batch)) {
      if (slice >= 0 && index_.op(from).slice != slice) continue;
      if (!options_.is_direct && index_.rank(from) != index_.rank(id)) continue;
      AddEdge(from, id);
      ++num_edges;
    }
  }
  return num_edges;
}

void OpGraph::AddStageEdges(int id, const std::vector<OpKind>& kinds, int neighbour, OpKind recv) {
  const Op& op = index_.op(id);
  if (neighbour < 0 || neighbour >= index_.schedule().FindModule(op.module)->num_stages) return;
  int num_edges = AddEdgesFrom(id, kinds, op.module, neighbour, op.slice);
  if (options_.is_direct) return;
  num_edges += AddEdgesFrom(id, {recv}, op.module, op.stage, op.slice);
  if (num_edges > 0) return;
  Op needed = op;
  needed.kind = recv;
  index_.Refuse(id, fmt::format("no {} before it, and stage {} is on another rank",
                                ToString(needed), neighbour));
}

void OpGraph::AddReshardEdges(int id, OpKind reshard) {
  const Op& op = index_.op(id);
  const Schedule& schedule = index_.schedule();
  const bool is_llm = op.module == schedule.llm().name;
  if (options_.is_direct) {
    if (is_llm && Contains(options_.consumer_stages, op.stage)) {
      for (const ScheduleModule& m : schedule.modules) {
        if (m.is_encoder) AddEdgesFrom(id, kForwards, m.name, m.num_stages - 1, -1);
      }
    } else if (!is_llm) {
      for (int stage : options_.consumer_stages) {
        AddEdgesFrom(id, kInputGrads, schedule.llm().name, stage, -1);
      }
    }
    return;
  }
  if (is_llm) {
    for (const ScheduleModule& m : schedule.modules) {
      if (m.is_encoder) AddEdgesFrom(id, {reshard}, m.name, op.stage, -1);
    }
    AddEdgesFrom(id, {reshard}, "", op.stage, -1);
    return;
  }
  for (int stage = 0; stage < schedule.llm().num_stages; ++stage) {
    AddEdgesFrom(id, {reshard}, op.module, stage, -1);
    AddEdgesFrom(id, {reshard}, "", stage, -1);
  }
}

void OpGraph::AddDataEdges(int id) {
  const Op& op = index_.op(id);
  const Schedule& schedule = index_.schedule();
  switch (op.kind) {
    case OpKind::kForward:
      AddStageEdges(id, kForwards, op.stage - 1, OpKind::kRecvForward);
      if (op.module == schedule.llm().name) AddReshardEdges(id, OpKind::kReshardForward);
      break;
    case OpKind::kBackward:
    case OpKind::kInputGrad:
      AddStageEdges(id, kInputGrads, op.stage + 1, OpKind::kRecvBackward);
      AddEdgesFrom(id, kForwards, op.module, op.stage, op.slice);
      if (op.module != schedule.llm().name) AddReshardEdges(id, OpKind::kReshardBackward);
      break;
    case OpKind::kWeightGrad:
      AddEdgesFrom(id, {OpKind::kInputGrad}, op.module, op.stage, op.slice);
      break;
    case OpKind::kSendForward:
      AddEdgesFrom(id, kForwards, op.module, op.stage, op.slice);
      break;
    case OpKind::kSendBackward:
      AddEdgesFrom(id, kInputGrads, op.module, op.stage, op.slice);
      break;
    case OpKind::kReshardForward:
      for (const ScheduleModule& m : schedule.modules) {
        if (!m.is_encoder || (!op.module.empty() && op.module != m.name)) continue;
        AddEdgesFrom(id, kForwards, m.name, m.num_stages - 1, -1);
      }
      break;
    case OpKind::kReshardBackward:
      AddEdgesFrom(id, kInputGrads, schedule.llm().name, op.stage, -1);
      break;
    default:
      break;
  }
}

std::vector<int> OpGraph::Order() const {
  std::vector<int> num_waits(ops_.size(), 0);
  for (const std::vector<int>& list : successors_) {
    for (int to : list) ++num_waits[static_cast<size_t>(to)];
  }
  std::vector<int> order;
  for (int node = 0; node < num_nodes(); ++node) {
    if (num_waits[static_cast<size_t>(node)] == 0) order.push_back(node);
  }
  for (size_t i = 0; i < order.size(); ++i) {
    for (int to : successors(order[i])) {
      if (--num_waits[static_cast<size_t>(to)] == 0) order.push_back(to);
    }
  }
  if (order.size() != ops_.size()) RefuseCycle(num_waits);
  return order;
}

void OpGraph::RefuseCycle(const std::vector<int>& num_waits) const {
  // Every node left waits for one that is left: going back from any must come round.
  std::vector<int> before(ops_.size(), -1);
  int node = -1;
  for (int from = 0; from < num_nodes(); ++from) {
    if (num_waits[static_cast<size_t>(from)] == 0) continue;
    node = from;
    for (int to : successors(from)) {
      if (num_waits[static_cast<size_t>(to)] > 0) before[static_cast<size_t>(to)] = from;
    }
  }
  std::vector<int> path;
  while (!Contains(path, node)) {
    path.push_back(node);
    node = before[static_cast<size_t>(node)];
  }
  path.erase(path.begin(), std::find(path.begin(), path.end(), node));
  // Told from the lowest op on, so that the message does not depend on where the search began.
  std::rotate(path.begin(), std::min_element(path.begin(), path.end()), path.end());
  std::string text;
  for (int at : path) {
    const int id = ops(at)[0];
    text += fmt::format("{} (rank {} op {}) waits for ", ToString(index_.op(id)), index_.rank(id),
                        index_.position(id));
  }
  index_.Refuse(ops(path[0])[0], "deadlock: " + text + "it");
}

}  // namespace omnitrain
