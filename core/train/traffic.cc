#include "core/train/traffic.h"

#include <algorithm>

#include "core/model/ring_blocks.h"
#include "core/optim/layer_slots.h"
#include "core/train/layout_groups.h"

namespace omnitrain {
namespace {

SentBytes& At(RankTraffic* traffic, TrafficAxis axis) {
  return (*traffic)[static_cast<size_t>(axis)];
}

TrafficAxis AxisOf(ParamSharing sharing) {
  return static_cast<TrafficAxis>(static_cast<int>(TrafficAxis::kSlice) +
                                  static_cast<int>(sharing));
}

/// What a rank sends of `bytes` in an all-gather or reduce-scatter over n ranks.
double RingShare(double bytes, int n) { return bytes * (n - 1) / n; }

/// The rows of one micro-batch on one seat.
struct SeatRows {
  RowLayout layout;
  int64_t Tc = 0, Tl = 0;
  int64_t num_items = 0;   // rows that an encoder fills
  int64_t num_labels = 0;  // among the Tc rows
};

/// Adds up the ops of a rank's list.
class StepTraffic {
 public:
  StepTraffic(const MultimodalModel& model, const ReplicaShape& shape, const StepPlan& plan,
              const std::vector<MicroBatch>& batches, RankTraffic* traffic)
      : model_(model),
        text_(model.config().text),
        place_(model.llm().place()),
        shape_(shape),
        plan_(plan),
        batches_(batches),
        traffic_(*traffic),
        element_bytes_(static_cast<double>(DTypeBytes(model.params().dtype()))),
        width_(static_cast<double>(text_.width)),
        turns_(static_cast<int>(model.params().sharded_layers().size())) {
    const ReplicaShape::Seat& seat = shape.seats[static_cast<size_t>(shape.seat)];
    for (const MicroBatch& batch : batches) {
      SeatRows rows;
      rows.layout =
          MakeRowLayout(batch.num_tokens(), batch.cu_seqlens, place_, model.llm().stack().heads());
      rows.Tc = rows.layout.rows_per_cp_rank();
      rows.Tl = rows.Tc / place_.tp.size;
      rows.num_items =
          static_cast<int64_t>(model.llm().ItemsAt(batch, seat.cp, seat.tp).rows.size());
      for (const RowRun& run : rows.layout.CpRows(seat.cp)) {
        const int64_t end = std::min<int64_t>(run.end(), batch.num_tokens());
        for (int64_t row = run.begin; row < end && !batch.labels.empty(); ++row) {
          rows.num_labels += batch.labels[static_cast<size_t>(row)] >= 0 ? 1 : 0;
        }
      }
      rows_.push_back(std::move(rows));
    }
    Gather(turns_.Begin());
  }

  void Add(const Op& op) {
    if (op.micro_batch < 0) return;
    const SeatRows& rows = rows_[static_cast<size_t>(op.micro_batch)];
    const bool is_llm = op.module == kLlmModule;
    switch (op.kind) {
      case OpKind::kForward:
        if (is_llm) StageForward(op.stage, rows);
        break;
      case OpKind::kBackward:
      case OpKind::kInputGrad:
      case OpKind::kWeightGrad:
        if (is_llm) StageBackward(op, rows);
        break;
      case OpKind::kSendForward:
        SendTo(op.stage + 1, static_cast<double>(rows.Tl) * width_);
        break;
      case OpKind::kSendBackward:
        SendTo(op.stage - 1, static_cast<double>(rows.Tl) * width_);
        break;
      case OpKind::kReshardForward:
      case OpKind::kReshardBackward:
        Reshard(op, rows);
        break;
      default:
        break;
    }
  }

 private:
  SentBytes& Of(TrafficAxis axis) { return At(&traffic_, axis); }

  /// `count` gathers or sums of the residual, [Tc, D], over tp.
  void OverTp(int count, const SeatRows& rows) {
    const double bytes = static_cast<double>(rows.Tc) * width_ * element_bytes_;
    Of(TrafficAxis::kTp).to_next += count * RingShare(bytes, place_.tp.size);
  }

  void SendTo(int stage, double elements) {
    Of(TrafficAxis::kPp).Add(static_cast<size_t>(stage % shape_.pp), elements * element_bytes_);
  }

  void StageForward(int stage, const SeatRows& rows) {
    const LayerRange layers = model_.llm().LayersOf(stage);
    for (int layer = layers.begin; layer < layers.end; ++layer) {
      Gather(turns_.Forward(layer));
      const bool is_sparse = text_.IsMoeLayer(layer);
      OverTp(is_sparse ? 2 : 4, rows);  // behind each norm, behind proj and down
      OverCp(rows, false);
      if (is_sparse) ToExperts(rows, true);
    }
    if (stage == 0) OverTp(1, rows);  // sums the slices of the embedding
    if (stage != place_.num_stages - 1) return;
    OverTp(1, rows);  // hidden states for the head
    // A maximum, then two sums in f64, of each row.
    const double row_bytes = static_cast<double>(DTypeBytes(StatsDType(model_.params().dtype()))) +
                             2 * static_cast<double>(sizeof(double));
    Of(TrafficAxis::kTp).to_next +=
        2 * RingShare(static_cast<double>(rows.num_labels) * row_bytes, place_.tp.size);
  }

  void StageBackward(const Op& op, const SeatRows& rows) {
    const bool is_trained = plan_.schedule->llm().is_trained;
    const bool makes_inputs = op.kind != OpKind::kWeightGrad;
    const bool is_split = !makes_inputs || (op.kind == OpKind::kInputGrad && is_trained);
    const LayerRange layers = model_.llm().LayersOf(op.stage);
    for (int layer = layers.begin; layer < layers.end; ++layer) {
      const bool is_sparse = text_.IsMoeLayer(layer);
      const int num_halves = is_sparse ? 1 : 2;  // attention, and an mlp
      if (!makes_inputs) {
        OverTp(2 * num_halves, rows);  // d and the norm's output once more
        continue;
      }
      if (plan_.recompute.Of(layer - layers.begin) == Recompute::kFull) {
        OverTp(is_sparse ? 2 : 3, rows);  // its forward again, up to the last projection
        OverCp(rows, false);
        if (is_sparse) ToExperts(rows, true);
      }
      // d, the sum for the norm's output, and with weight gradients its rows.
      OverTp((is_trained && !is_split ? 3 : 2) * num_halves, rows);
      OverCp(rows, true);
      if (is_sparse) ToExperts(rows, false);
    }
    if (!makes_inputs) return;
    for (int layer = layers.end - 1; layer >= layers.begin; --layer) {
      Gather(turns_.Backward(layer));
      if (model_.params().are_sharded_layers_trained()) {
        OverHolders(layer, model_.params().grad_dtype());
      }
    }
    if (op.stage == place_.num_stages - 1) OverTp(1, rows);
    if (op.stage == 0 && is_trained) OverTp(1, rows);
  }

  /// Sharded layers whose values are gathered.
  void Gather(const SlotTurns::Fills& fills) {
    for (const SlotTurns::Fill& fill : fills) OverHolders(fill.layer, model_.params().dtype());
  }

  /// All of a sharded layer, gathered or reduced.
  void OverHolders(int layer, DType dtype) {
    const auto& layers = model_.params().sharded_layers();
    if (layers.empty()) return;
    for (const ParamBucket& bucket : layers[static_cast<size_t>(layer)].buckets) {
      const double bytes =
          static_cast<double>(bucket.size) * static_cast<double>(DTypeBytes(dtype));
      Of(AxisOf(bucket.sharing)).to_next += RingShare(bytes, bucket.num_shards);
    }
  }

  /// Attention of one layer (context_attention.h).
  void OverCp(const SeatRows& rows, bool is_backward) {
    const int n = place_.cp.size;
    if (n == 1 || rows.layout.num_rows == 0) return;
    const AttentionHeads heads = model_.llm().stack().heads();
    SentBytes& sent = Of(TrafficAxis::kCp);
    if (rows.layout.method == ContextMethod::kUlysses) {
      const int64_t q = heads.query / n, kv = std::max<int64_t>(1, heads.kv / n);
      // q, k, v go and o comes back; backward o and its gradient go too and three come back.
      const int64_t num_heads = is_backward ? 4 * q + 4 * kv : 2 * q + 2 * kv;
      sent.to_each += static_cast<double>(rows.Tc * num_heads * heads.dim) * element_bytes_;
      return;
    }
    const int rank = shape_.seats[static_cast<size_t>(shape_.seat)].cp;
    const double row_bytes = static_cast<double>(2 * heads.kv * heads.dim) * element_bytes_;
    const RowRuns mine = rows.layout.CpRows(rank);
    for (int peer = 0; peer < n; ++peer) {
      if (peer == rank) continue;
      const RowRuns theirs = rows.layout.CpRows(peer);
      const std::vector<int32_t>& documents = rows.layout.cu_seqlens;
      const int64_t shown = FindSeenBlock(theirs, mine, documents).keys.count;
      const int64_t seen = is_backward ? FindSeenBlock(mine, theirs, documents).keys.count : 0;
      sent.Add(static_cast<size_t>(peer), static_cast<double>(shown + seen) * row_bytes);
    }
  }

  /// A sparse layer: its rows to the experts and back, and in a forward the counts.
  void ToExperts(const SeatRows& rows, bool is_forward) {
    const double num_ranks = place_.ep.size;
    const double share = static_cast<double>(rows.Tl * text_.experts_per_token) / num_ranks;
    const double count_bytes = static_cast<double>(text_.num_experts) * sizeof(int32_t);
    SentBytes& sent = Of(TrafficAxis::kEp);
    if (place_.ep.size > 1) {
      sent.to_each += 2 * share * width_ * element_bytes_;
      if (is_forward) sent.to_each += count_bytes / num_ranks;
    }
    if (is_forward && text_.router_aux_loss_coef != 0) {
      Of(TrafficAxis::kSeats).to_next +=
          2 * RingShare(count_bytes, static_cast<int>(shape_.seats.size()));
    }
  }

  void Reshard(const Op& op, const SeatRows& rows) {
    const bool is_forward = op.kind == OpKind::kReshardForward;
    const double feature_width = static_cast<double>(model_.config().vision.out_width);
    if (op.stage == 0) return BetweenSeats(op.micro_batch, feature_width, is_forward);
    // The encoder's rank sends features, the stage that takes them sends their gradients.
    const bool has_stage = op.stage % shape_.pp == shape_.pp_rank;
    if (is_forward ? has_stage : model_.has_vision()) return;
    for (int k = 0; k < model_.num_features(); ++k) {
      if (!model_.llm().TakesFeature(op.stage, k)) continue;
      SendTo(is_forward ? op.stage : 0, static_cast<double>(rows.num_items) * feature_width);
    }
  }

  void BetweenSeats(int micro_batch, double feature_width, bool is_forward) {
    const size_t num_seats = shape_.seats.size(), me = static_cast<size_t>(shape_.seat);
    if (num_seats == 1) return;
    const auto i = static_cast<size_t>(micro_batch);
    const FeatureRows rows = FeatureRowsOf(model_, shape_, batches_[i], plan_.items[i]);
    const double row_bytes = feature_width * element_bytes_ * model_.num_features();
    const auto& mine = is_forward ? rows.held[me] : rows.wanted[me];
    for (size_t seat = 0; seat < num_seats; ++seat) {
      if (seat == me) continue;
      const auto& theirs = is_forward ? rows.wanted[seat] : rows.held[seat];
      std::vector<int32_t> sent;
      std::set_intersection(mine.begin(), mine.end(), theirs.begin(), theirs.end(),
                            std::back_inserter(sent));
      Of(TrafficAxis::kSeats).Add(seat, static_cast<double>(sent.size()) * row_bytes);
    }
  }

  const MultimodalModel& model_;
  const TextConfig& text_;
  const LlmPlace& place_;
  const ReplicaShape& shape_;
  const StepPlan& plan_;
  const std::vector<MicroBatch>& batches_;
  RankTraffic& traffic_;
  const double element_bytes_, width_;
  SlotTurns turns_;             // of sharded layers
  std::vector<SeatRows> rows_;  // per micro-batch
};

std::vector<int> GroupOf(const ParallelLayout& layout, int rank, TrafficAxis axis,
                         int num_kv_heads) {
  const Mesh& mesh = layout.llm();
  switch (axis) {
    case TrafficAxis::kTp:
      return mesh.Group(rank, Axis::kTp);
    case TrafficAxis::kCp:
      return mesh.Group(rank, Axis::kCp);
    case TrafficAxis::kSeats:
      return mesh.Group(rank, {Axis::kTp, Axis::kCp});
    case TrafficAxis::kPp:
      return mesh.Group(rank, Axis::kPp);
    case TrafficAxis::kEp:
      return ExpertRanks(layout, rank);
    default: {
      const int sharing = static_cast<int>(axis) - static_cast<int>(TrafficAxis::kSlice);
      return SharingRanks(layout, rank, static_cast<ParamSharing>(sharing), num_kv_heads);
    }
  }
}

bool IsEmpty(const SentBytes& sent) {
  return sent.to_next == 0 && sent.to_each == 0 && sent.to.empty();
}

}  // namespace

const char* TrafficAxisName(TrafficAxis axis) {
  switch (axis) {
    case TrafficAxis::kTp:
      return "tp";
    case TrafficAxis::kCp:
      return "cp";
    case TrafficAxis::kSeats:
      return "encoder rows (tp*cp)";
    case TrafficAxis::kPp:
      return "pp";
    case TrafficAxis::kEp:
      return "ep";
    case TrafficAxis::kSlice:
      return "slices (dp*cp)";
    case TrafficAxis::kWhole:
      return "norms, encoders (dp*cp*tp)";
    case TrafficAxis::kKvHeads:
      return "shared kv heads";
    case TrafficAxis::kTied:
      return "tied embeddings";
    case TrafficAxis::kExperts:
      return "experts (dp*cp*tp/ep)";
  }
  return "?";
}

void SentBytes::Add(size_t place, double bytes) {
  if (bytes == 0) return;
  if (to.size() <= place) to.resize(place + 1);
  to[place] += bytes;
}

void SentBytes::Scale(double factor) {
  to_next *= factor;
  to_each *= factor;
  for (double& bytes : to) bytes *= factor;
}

void AddStepTraffic(const MultimodalModel& model, const ReplicaShape& shape, const StepPlan& plan,
                    const std::vector<MicroBatch>& batches, RankTraffic* traffic) {
  StepTraffic sum(model, shape, plan, batches, traffic);
  for (const Op& op : plan.schedule->ranks[static_cast<size_t>(shape.pp_rank)]) sum.Add(op);
}

void AddParamTraffic(const ParamStore& params, const std::array<int, kNumParamSharings>& num_shards,
                     RankTraffic* traffic) {
  const double element_bytes = static_cast<double>(DTypeBytes(params.dtype())) +
                               static_cast<double>(DTypeBytes(params.grad_dtype()));
  for (const ParamBucket& bucket : params.buckets()) {
    At(traffic, AxisOf(bucket.sharing)).to_next +=
        RingShare(static_cast<double>(bucket.size) * element_bytes,
                  num_shards[static_cast<size_t>(bucket.sharing)]);
  }
}

std::array<AxisTraffic, kNumTrafficAxes> SumTraffic(const ParallelLayout& layout,
                                                    const std::vector<RankTraffic>& replica,
                                                    int num_kv_heads, int ranks_per_node) {
  const Mesh& mesh = layout.llm();
  const std::vector<int> ranks = mesh.Ranks();
  const auto place_of = [&](int rank) { return static_cast<size_t>(rank - mesh.first_rank()); };
  std::vector<size_t> in_replica(ranks.size());
  const size_t num_seats = static_cast<size_t>(mesh.size(Axis::kTp) * mesh.size(Axis::kCp));
  OT_CHECK(replica.size() == num_seats * static_cast<size_t>(mesh.size(Axis::kPp)),
           "traffic of {} ranks for {} x {}", replica.size(), mesh.size(Axis::kPp), num_seats);
  for (int rank : ranks) {
    const std::vector<int> seats = mesh.Group(rank, {Axis::kTp, Axis::kCp});
    const auto seat =
        static_cast<size_t>(std::find(seats.begin(), seats.end(), rank) - seats.begin());
    in_replica[place_of(rank)] =
        static_cast<size_t>(mesh.Coordinate(rank, Axis::kPp)) * num_seats + seat;
  }

  std::array<AxisTraffic, kNumTrafficAxes> sums;
  for (size_t axis = 0; axis < sums.size(); ++axis) {
    AxisTraffic& sum = sums[axis];
    std::vector<bool> is_done(ranks.size(), false);
    for (int rank : ranks) {
      if (is_done[place_of(rank)] || IsEmpty(replica[in_replica[place_of(rank)]][axis])) continue;
      const std::vector<int> group =
          GroupOf(layout, rank, static_cast<TrafficAxis>(axis), num_kv_heads);
      const size_t n = group.size();
      sum.num_ranks = std::max(sum.num_ranks, static_cast<int>(n));
      for (size_t me = 0; me < n; ++me) {
        is_done[place_of(group[me])] = true;
        const SentBytes& sent = replica[in_replica[place_of(group[me])]][axis];
        double mine = 0;
        const auto send = [&](size_t peer, double bytes) {
          if (peer == me) return;
          mine += bytes;
          if (group[peer] / ranks_per_node != group[me] / ranks_per_node) sum.across += bytes;
        };
        send((me + 1) % n, sent.to_next);
        for (size_t peer = 0; sent.to_each > 0 && peer < n; ++peer) send(peer, sent.to_each);
        for (size_t peer = 0; peer < std::min(n, sent.to.size()); ++peer) send(peer, sent.to[peer]);
        sum.most = std::max(sum.most, mine);
        sum.total += mine;
      }
    }
  }
  return sums;
}

std::string TrafficTable(const std::array<AxisTraffic, kNumTrafficAxes>& traffic) {
  std::string table;
  const auto mib = [](double bytes) { return bytes / (1 << 20); };
  for (size_t axis = 0; axis < traffic.size(); ++axis) {
    const AxisTraffic& sum = traffic[axis];
    if (sum.total == 0) continue;
    table += fmt::format("\n  {:<27} {:>5} {:>16.3f} {:>14.3f} {:>11.0f} %",
                         TrafficAxisName(static_cast<TrafficAxis>(axis)), sum.num_ranks,
                         mib(sum.most), mib(sum.total), 100 * sum.across / sum.total);
  }
  if (table.empty()) return "";
  return fmt::format("  {:<27} {:>5} {:>16} {:>14} {:>13}", "MiB sent", "ranks", "a rank at most",
                     "all ranks", "other nodes") +
         table;
}

}  // namespace omnitrain
