#include "core/train/step_executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "core/model/host_tables.h"
#include "core/train/choose_plan.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/rows/rows.h"
#include "parallel/schedule/memory_plan.h"

namespace omnitrain {
namespace {

bool IsInputGradient(OpKind kind) {
  return kind == OpKind::kBackward || kind == OpKind::kInputGrad;
}

// The ops behind which a module's gradients of a micro-batch are complete; I alone is all that a
// frozen one has.
bool MayEndGradients(OpKind kind) { return IsInputGradient(kind) || kind == OpKind::kWeightGrad; }

// What each rank sends and receives of one feature, in bytes.
std::pair<std::vector<int64_t>, std::vector<int64_t>> ExchangeBytes(const RowExchange& exchange,
                                                                    const Tensor& rows) {
  const int64_t row_bytes =
      rows.shape.row_elements() * static_cast<int64_t>(DTypeBytes(rows.dtype));
  std::pair<std::vector<int64_t>, std::vector<int64_t>> bytes;
  for (int64_t count : exchange.send_counts) bytes.first.push_back(count * row_bytes);
  for (int64_t count : exchange.recv_counts) bytes.second.push_back(count * row_bytes);
  return bytes;
}

}  // namespace

StepExecutor::StepExecutor(Context& ctx, MultimodalModel& model, const ReplicaGroups& groups)
    : ctx_(ctx), model_(model), groups_(groups), wait_meter_(ctx.device()) {}
StepExecutor::~StepExecutor() = default;

StepPlan StepExecutor::PlanFor(const std::vector<MicroBatch>& batches, SchedulePurpose purpose) {
  const int num_micro_batches = static_cast<int>(batches.size());
  std::shared_ptr<const Schedule>& schedule = schedules_[{num_micro_batches, purpose}];
  if (schedule == nullptr) {
    schedule = BuildStepSchedule(model_, groups_.shape, num_micro_batches, purpose);
  }
  const auto fits = [&](size_t bytes) {
    if (bytes <= arena_.bytes()) return true;
    const auto available = static_cast<int64_t>(
        std::min<size_t>(ctx_.device().available_bytes(), std::numeric_limits<int64_t>::max()));
    return FitsActivations(static_cast<int64_t>(bytes - arena_.bytes()), available);
  };
  return ChoosePlan(model_, groups_.shape, schedule, batches, ctx_.device().kind(), fits,
                    groups_.experts != nullptr ? groups_.experts : groups_.replica);
}

RecomputePlan StepExecutor::recompute() const { return plan_ ? plan_->recompute : RecomputePlan(); }

Carver StepExecutor::At(StepBlock block, int stage, int micro_batch) const {
  const auto it = plan_->places.find({block, stage, micro_batch});
  const StepPlan::Place place = it == plan_->places.end() ? StepPlan::Place() : it->second;
  return Carver(static_cast<char*>(arena_.data()) + place.offset, place.bytes,
                ctx_.device().kind());
}

Carver StepExecutor::Scratch() const {
  return Carver(static_cast<char*>(arena_.data()) + plan_->scratch.offset, plan_->scratch.bytes,
                ctx_.device().kind());
}

void StepExecutor::RunSchedule(const std::vector<MicroBatch>& batches, SchedulePurpose purpose) {
  batches_ = &batches;
  loss_mode_ = purpose == SchedulePurpose::kTrain ? LossMode::kGradients : LossMode::kLoss;
  if (layer_slots_ == nullptr && !model_.params().sharded_layers().empty()) {
    layer_slots_ = std::make_unique<LayerSlots>(ctx_, model_.params(), groups_.sharing);
  }
  plan_ = std::make_unique<StepPlan>(PlanFor(batches, purpose));
  if (plan_->arena_bytes > arena_.bytes()) {
    ctx_.stream().Synchronize();
    arena_ = Buffer();
    arena_ = Buffer(ctx_.device(), plan_->arena_bytes);
  }
  const int64_t n = std::max<int64_t>(1, static_cast<int64_t>(batches.size()));
  if (!*loss_sums_ || loss_sums_->rows() < n) {
    loss_sums_ = OwnedTensor(ctx_.device(), DType::kF64, {n});
  }
  Zero(ctx_, *loss_sums_);
  last_gradient_.clear();
  for (const Op& op : plan_->schedule->ranks[static_cast<size_t>(groups_.shape.pp_rank)]) {
    if (MayEndGradients(op.kind)) last_gradient_[{op.module, op.stage}] = op.micro_batch;
  }
  if (reduce_ahead_ == nullptr) reduce_ahead_ = std::make_unique<ReduceAhead>(model_.params());
  reduce_ahead_->Begin();
  num_stages_done_ = 0;
  slots_.clear();
  trace_.clear();
  receives_.clear();
  position_ = 0;
  const size_t num_ops = plan_->schedule->ranks[static_cast<size_t>(groups_.shape.pp_rank)].size();
  while (is_profiling_ && op_begins_.size() < num_ops) {
    op_begins_.push_back(ctx_.device().NewEvent());
    op_ends_.push_back(ctx_.device().NewEvent());
  }
  if (layer_slots_) layer_slots_->Begin(ctx_);  // beside the encoder
  ExecuteOptions options;
  options.on_span = [this](const OpSpan& span) { trace_.push_back(span); };
  Execute(*plan_->schedule, groups_.shape.pp_rank, *this, options);
  if (layer_slots_) layer_slots_->End(ctx_);
  AwaitSends(std::numeric_limits<int>::max());
  OT_CHECK(receives_.empty(), "{} messages that no op waited for", receives_.size());
}

void StepExecutor::BeginOp() {
  if (!is_profiling_) return;
  op_begins_[static_cast<size_t>(position_)]->Record(ctx_.stream());
}

void StepExecutor::EndOp() {
  if (is_profiling_) op_ends_[static_cast<size_t>(position_)]->Record(ctx_.stream());
}

std::vector<int64_t> StepExecutor::OpTimes() const {
  std::vector<int64_t> ns;
  for (int i = 0; i < position_; ++i) {
    const auto at = static_cast<size_t>(i);
    op_ends_[at]->Synchronize();
    ns.push_back(static_cast<int64_t>(op_ends_[at]->ElapsedMsSince(*op_begins_[at]) * 1e6));
  }
  return ns;
}

void StepExecutor::Run(const Op& op) {
  AwaitSends(position_);
  // What comes at the end of a step is done together.
  const bool is_common = op.kind == OpKind::kReduceGrad || op.kind == OpKind::kStep;
  if (is_profiling_ && is_common && groups_.replica != nullptr) {
    ctx_.stream().Synchronize();
    groups_.replica->Barrier();
  }
  BeginOp();
  switch (op.kind) {
    case OpKind::kForward:
      AwaitValues(op);
      op.module == kVisionModule ? EncoderForward(op) : StageForward(op);
      break;
    case OpKind::kBackward:
    case OpKind::kInputGrad:
    case OpKind::kWeightGrad:
      op.module == kVisionModule ? EncoderBackward(op) : StageBackward(op);
      StartReadyReduces();
      break;
    case OpKind::kSendForward:
      Send(ActivationsOf(op).output(), op.stage + 1);
      break;
    case OpKind::kRecvForward:
      Receive(op, PipelineRankOf(op.stage - 1), ActivationsOf(op).input());
      break;
    case OpKind::kSendBackward:
      Send(GradOf(op), op.stage - 1);
      break;
    case OpKind::kRecvBackward:
      Receive(op, PipelineRankOf(op.stage + 1), GradOf(op));
      break;
    case OpKind::kReshardForward:
      ReshardForward(op);
      break;
    case OpKind::kReshardBackward:
      ReshardBackward(op);
      break;
    case OpKind::kReduceGrad:
      for (int b; (b = reduce_ahead_->TakeRest()) >= 0;) optimizer_->StartReduce(ctx_, b);
      optimizer_->FinishReduce(ctx_);
      if (layer_slots_) layer_slots_->End(ctx_);
      break;
    case OpKind::kStep:
      if (params_ != nullptr) FinishStep();
      break;
    case OpKind::kFree:
      OT_CHECK(false, "no body for {}", ToString(op));
  }
  EndOp();
  ++position_;
}

// Blocks are carved by the first op that needs them: a receive, or the op itself.
LlmActivations& StepExecutor::ActivationsOf(const Op& op) {
  LlmActivations& acts = slots_[op.micro_batch].stages[op.stage].llm;
  if (!acts.output()) {
    Carver carver = At(StepBlock::kLlmActs, op.stage, op.micro_batch), scratch = Scratch();
    acts = model_.llm().Carve(carver, (*batches_)[static_cast<size_t>(op.micro_batch)], op.stage,
                              loss_mode_, plan_->recompute, &scratch);
  }
  return acts;
}

Tensor& StepExecutor::GradOf(const Op& op) {
  StageSlot& stage = slots_[op.micro_batch].stages[op.stage];
  if (!stage.d) {
    Carver carver = At(StepBlock::kStageGrad, op.stage, op.micro_batch);
    stage.d =
        carver.Take(model_.params().dtype(), {stage.llm.num_rows, model_.config().text.width});
  }
  return stage.d;
}

FeatureBlock& StepExecutor::FeaturesOf(StepBlock block, int stage, int micro_batch) {
  StageSlot& slot = slots_[micro_batch].stages[stage];
  FeatureBlock& features = block == StepBlock::kInjected ? slot.injected : slot.injected_grads;
  if (features.features.empty()) {
    const auto i = static_cast<size_t>(micro_batch);
    Carver carver = At(block, stage, micro_batch);
    features =
        CarveFeatureBlock(carver, model_, groups_.shape, (*batches_)[i], plan_->items[i], stage);
  }
  return features;
}

Communicator& StepExecutor::pipeline() const {
  OT_CHECK(groups_.pipeline != nullptr, "a pipeline without its communicator");
  return *groups_.pipeline;
}

void StepExecutor::Send(const Tensor& t, int stage) {
  const std::vector<Op>& list = plan_->schedule->ranks[static_cast<size_t>(groups_.shape.pp_rank)];
  sends_.emplace_back(SendDeadline(list, position_),
                      pipeline().Send(t, PipelineRankOf(stage), 0, ctx_.stream()));
}

// Posted at its place in the list: the order of the lists holds even where each message keeps its
// rank waiting (AddCommunication), as when freeing memory waits for the whole device. Posted later,
// a sender that waits for its message could wait for ever.
void StepExecutor::Receive(const Op& op, int sender, const Tensor& to) {
  receives_.push_back({op, pipeline().Recv(to, sender, 0, ctx_.stream())});
}

void StepExecutor::AwaitReceives(OpKind kind, int micro_batch, int stage) {
  size_t kept = 0;
  for (PendingReceive& receive : receives_) {
    const Op& op = receive.op;
    if (op.kind == kind && op.micro_batch == micro_batch && (stage < 0 || op.stage == stage)) {
      receive.handle.Wait(ctx_.stream());
    } else {
      std::swap(receives_[kept++], receive);
    }
  }
  receives_.resize(kept);
}

void StepExecutor::AwaitSends(int position) {
  size_t kept = 0;
  for (auto& [deadline, handle] : sends_) {
    if (deadline <= position) {
      handle.Wait(ctx_.stream());
    } else {
      std::swap(sends_[kept].first, deadline);
      std::swap(sends_[kept].second, handle);
      ++kept;
    }
  }
  sends_.resize(kept);
}

void StepExecutor::EncoderForward(const Op& op) {
  const auto i = static_cast<size_t>(op.micro_batch);
  const MicroBatch& batch = (*batches_)[i];
  const auto seat = static_cast<size_t>(groups_.shape.seat);
  Slot& slot = slots_[op.micro_batch];
  slot.items = &batch.items;
  if (groups_.shape.seats.size() > 1) {
    slot.own_items = SelectItems(batch.items, plan_->items[i][seat], Pixels::kCopy);
    slot.items = &slot.own_items;
  }
  Carver acts = At(StepBlock::kVisionActs, 0, op.micro_batch), scratch = Scratch();
  slot.vision = model_.vision().Carve(acts, *slot.items, plan_->recompute, &scratch);
  Carver encoded = At(StepBlock::kEncoded, 0, op.micro_batch);
  slot.encoded = CarveEncoded(encoded, model_, slot.items->num_merged_rows());
  model_.vision().Upload(ctx_, *slot.items, &slot.vision);
  model_.vision().Forward(ctx_, slot.vision, slot.encoded);
  if (observer_) {
    observer_({op.micro_batch, nullptr, &plan_->items[i][seat], &slot.encoded});
  }
}

void StepExecutor::StageForward(const Op& op) {
  StageSlot& stage = slots_[op.micro_batch].stages[op.stage];
  LlmActivations& acts = ActivationsOf(op);
  model_.llm().Upload(ctx_, (*batches_)[static_cast<size_t>(op.micro_batch)], &acts);
  AwaitReceives(OpKind::kRecvForward, op.micro_batch, op.stage);
  AwaitReceives(OpKind::kReshardForward, op.micro_batch, op.stage);
  BeginOp();
  model_.llm().Forward(ctx_, acts, stage.injected.features, loss_mode_,
                       loss_sums_->Rows(op.micro_batch, 1), LlmHooks(/*is_last=*/false));
  if (observer_) observer_({op.micro_batch, &acts, nullptr, nullptr});
}

// Feature rows from the seats that encoded them to those whose part of the sequence holds them.
void StepExecutor::ToSeats(Slot& slot, int micro_batch) {
  const FeatureBlock& to = FeaturesOf(StepBlock::kInjected, 0, micro_batch);
  const size_t num_features = slot.encoded.size();
  if (groups_.shape.seats.size() == 1) {
    for (size_t k = 0; k < num_features; ++k) Cast(ctx_, slot.encoded[k], to.features[k]);
    return;
  }
  const MicroBatch& batch = (*batches_)[static_cast<size_t>(micro_batch)];
  const FeatureRows rows =
      FeatureRowsOf(model_, groups_.shape, batch, plan_->items[static_cast<size_t>(micro_batch)]);
  slot.exchange = PlanRowExchange(rows.held, rows.wanted, groups_.shape.seat);
  Upload(ctx_, slot.exchange.send_rows, to.send_rows);
  Upload(ctx_, slot.exchange.recv_rows, to.recv_rows);
  const auto [sent, received] = ExchangeBytes(slot.exchange, to.packed);
  for (size_t k = 0; k < num_features; ++k) {
    GatherRows(ctx_, slot.encoded[k], to.send_rows, Write::kOverwrite, to.packed);
    groups_.stage->AllToAllV(to.packed, sent, to.arrived, received, ctx_.stream())
        .Wait(ctx_.stream());
    GatherRows(ctx_, to.arrived, to.recv_rows, Write::kOverwrite, to.features[k]);
  }
}

void StepExecutor::FromSeats(Slot& slot, int micro_batch) {
  const FeatureBlock& from = FeaturesOf(StepBlock::kInjectedGrads, 0, micro_batch);
  if (groups_.shape.seats.size() == 1) {
    for (size_t k = 0; k < slot.encoded_grads.size(); ++k) {
      Cast(ctx_, from.features[k], slot.encoded_grads[k]);
    }
    return;
  }
  Upload(ctx_, slot.exchange.send_rows, from.send_rows);
  Upload(ctx_, slot.exchange.recv_rows, from.recv_rows);
  const auto [sent, received] = ExchangeBytes(slot.exchange, from.packed);
  for (size_t k = 0; k < slot.encoded_grads.size(); ++k) {
    ScatterRows(ctx_, from.features[k], from.recv_rows, Write::kOverwrite, from.arrived);
    groups_.stage->AllToAllV(from.arrived, received, from.packed, sent, ctx_.stream())
        .Wait(ctx_.stream());
    ScatterRows(ctx_, from.packed, from.send_rows, Write::kOverwrite, slot.encoded_grads[k]);
  }
}

// Rows reach the seats of the first stage all at once; what later stages take of them goes on
// through the pipeline, seat by seat.
void StepExecutor::ReshardForward(const Op& op) {
  Slot& slot = slots_[op.micro_batch];
  if (op.stage == 0) return ToSeats(slot, op.micro_batch);
  const bool has_stage = PipelineRankOf(op.stage) == groups_.shape.pp_rank;
  StageSlot* taker = has_stage ? &slot.stages[op.stage] : nullptr;
  if (has_stage) FeaturesOf(StepBlock::kInjected, op.stage, op.micro_batch);
  for (int k = 0; k < model_.num_features(); ++k) {
    if (!model_.llm().TakesFeature(op.stage, k)) continue;
    const auto feature = static_cast<size_t>(k);
    if (!HasEncoder()) {
      Receive(op, PipelineRankOf(0), taker->injected.features[feature]);
      continue;
    }
    const Tensor& rows = FeaturesOf(StepBlock::kInjected, 0, op.micro_batch).features[feature];
    if (has_stage) {
      Cast(ctx_, rows, taker->injected.features[feature]);
    } else {
      Send(rows, op.stage);
    }
  }
}

void StepExecutor::ReshardBackward(const Op& op) {
  Slot& slot = slots_[op.micro_batch];
  if (op.stage == 0) {
    AwaitReceives(OpKind::kReshardBackward, op.micro_batch, -1);
    BeginOp();
    Carver carver = At(StepBlock::kEncodedGrads, 0, op.micro_batch);
    slot.encoded_grads = CarveEncoded(carver, model_, slot.items->num_merged_rows());
    return FromSeats(slot, op.micro_batch);
  }
  const bool has_stage = PipelineRankOf(op.stage) == groups_.shape.pp_rank;
  for (int k = 0; k < model_.num_features(); ++k) {
    if (!model_.llm().TakesFeature(op.stage, k)) continue;
    const auto feature = static_cast<size_t>(k);
    if (!HasEncoder()) {
      Send(FeaturesOf(StepBlock::kInjectedGrads, op.stage, op.micro_batch).features[feature], 0);
      continue;
    }
    const Tensor& rows = FeaturesOf(StepBlock::kInjectedGrads, 0, op.micro_batch).features[feature];
    if (has_stage) {
      Cast(ctx_, FeaturesOf(StepBlock::kInjectedGrads, op.stage, op.micro_batch).features[feature],
           rows);
    } else {
      Receive(op, PipelineRankOf(op.stage), rows);
    }
  }
}

// Nothing adds to a stage's gradients behind its last gradient op: they are reduced layer by layer.
bool StepExecutor::IsLastGradient(const Op& op) const {
  return last_gradient_.at({op.module, op.stage}) == op.micro_batch;
}

void StepExecutor::EncoderBackward(const Op& op) {
  Slot& slot = slots_[op.micro_batch];
  const bool is_last = IsLastGradient(op);
  model_.vision().Backward(ctx_, slot.vision, slot.encoded_grads,
                           At(StepBlock::kVisionTemp, 0, op.micro_batch), [&](int layer) {
                             if (!is_last) return;
                             reduce_ahead_->MarkLayer("vision", layer);
                             StartReadyReduces();
                           });
  if (!is_last) return;
  reduce_ahead_->MarkGroup(ParamGroup::kVision);
  reduce_ahead_->MarkGroup(ParamGroup::kProjector);
}

void StepExecutor::StageBackward(const Op& op) {
  const MicroBatch& batch = (*batches_)[static_cast<size_t>(op.micro_batch)];
  StageSlot& stage = slots_[op.micro_batch].stages[op.stage];
  const bool is_split = op.kind == OpKind::kWeightGrad ||
                        (op.kind == OpKind::kInputGrad && plan_->schedule->llm().is_trained);
  const BackwardPart part = !is_split                        ? BackwardPart::kBoth
                            : op.kind == OpKind::kWeightGrad ? BackwardPart::kWeight
                                                             : BackwardPart::kInput;
  const bool is_last = part != BackwardPart::kInput && IsLastGradient(op);
  if (part != BackwardPart::kWeight) {
    Carver carver = At(StepBlock::kLlmGrads, op.stage, op.micro_batch);
    stage.grads = model_.llm().CarveGradients(
        carver, batch, op.stage, is_split ? BackwardPart::kInput : BackwardPart::kBoth);
    if (plan_->places.count({StepBlock::kInjectedGrads, op.stage, op.micro_batch}) != 0) {
      FeaturesOf(StepBlock::kInjectedGrads, op.stage, op.micro_batch);
    }
    GradOf(op);
    AwaitReceives(OpKind::kRecvBackward, op.micro_batch, op.stage);
    BeginOp();
  }
  model_.llm().Backward(ctx_, stage.llm, stage.grads, part, stage.injected_grads.features, stage.d,
                        LlmHooks(is_last));
  if (!is_last) return;
  num_stages_done_ += 1;
  if (num_stages_done_ == static_cast<int>(model_.llm().place().stages.size())) {
    reduce_ahead_->MarkGroup(ParamGroup::kLlm);
  }
}

StackHooks StepExecutor::LlmHooks(bool is_last) {
  StackHooks hooks;
  if (layer_slots_) {
    hooks.before_forward = [this](int layer) { layer_slots_->BeforeForward(ctx_, layer); };
    hooks.before_backward = [this](int layer, const Tensor&) {
      layer_slots_->BeforeBackward(ctx_, layer);
    };
  }
  hooks.after_weight_grad = [this, is_last](int layer) {
    if (layer_slots_) layer_slots_->AfterWeightGrad(ctx_, layer);
    if (!is_last) return;
    reduce_ahead_->MarkLayer("llm", layer);
    StartReadyReduces();
  };
  return hooks;
}

void StepExecutor::StartReadyReduces() {
  for (int b; (b = reduce_ahead_->Take()) >= 0;) optimizer_->StartReduce(ctx_, b);
}

// The values of the last update are gathered while the encoder runs: it waits for its own alone.
void StepExecutor::AwaitValues(const Op& op) {
  if (optimizer_ == nullptr) return;
  int end = -1;
  if (op.module == kVisionModule) {
    const std::vector<ParamBucket>& buckets = model_.params().buckets();
    end = 0;
    for (size_t b = 0; b < buckets.size(); ++b) {
      for (ParamId id : buckets[b].params) {
        if (model_.params().spec(id).group != ParamGroup::kLlm) end = static_cast<int>(b) + 1;
      }
    }
  }
  optimizer_->FinishGather(ctx_, end);
}

void StepExecutor::ReadLosses() {
  losses_.assign(batches_->size(), 0.0);
  if (losses_.empty()) return;
  ctx_.device().Copy(losses_.data(), loss_sums_->data, losses_.size() * sizeof(double),
                     ctx_.stream());
  ctx_.stream().Synchronize();
}

void StepExecutor::FinishStep() {
  ReadLosses();
  double sum = 0;
  for (double loss : losses_) sum += loss;
  const double scale = 1.0 / static_cast<double>(std::max<int64_t>(1, params_->global_loss_tokens));
  outcome_.loss = optimizer_->SumOverRanks(sum) * scale;
  outcome_.grad_norm = optimizer_->GradNorm(ctx_, scale);
  outcome_.is_finite = std::isfinite(outcome_.loss) && std::isfinite(outcome_.grad_norm);
  // A broken gradient must not reach the parameters: what is saved afterwards is the last good
  // state.
  if (!outcome_.is_finite) return;
  optimizer_->Update(ctx_, params_->step, params_->lr, scale, outcome_.grad_norm);
}

StepOutcome StepExecutor::Train(const std::vector<MicroBatch>& micro_batches,
                                const StepParams& params, ShardedAdamW& optimizer) {
  optimizer_ = &optimizer;
  params_ = &params;
  outcome_ = StepOutcome();
  model_.params().ZeroGrads(ctx_.stream());
  ctx_.stream().set_wait_meter(&wait_meter_);
  RunSchedule(micro_batches, SchedulePurpose::kTrain);
  ctx_.stream().set_wait_meter(nullptr);
  wait_ms_ = wait_meter_.Take();
  return outcome_;
}

double StepExecutor::Gradients(const std::vector<MicroBatch>& micro_batches,
                               ShardedAdamW& optimizer) {
  optimizer_ = &optimizer;
  params_ = nullptr;
  model_.params().ZeroGrads(ctx_.stream());
  RunSchedule(micro_batches, SchedulePurpose::kTrain);
  ReadLosses();
  double sum = 0;
  for (double loss : losses_) sum += loss;
  return optimizer.SumOverRanks(sum);
}

std::vector<double> StepExecutor::Evaluate(const std::vector<MicroBatch>& micro_batches) {
  RunSchedule(micro_batches, SchedulePurpose::kEvaluate);
  ReadLosses();
  return ReplicaLosses();
}

std::vector<double> StepExecutor::ReplicaLosses() {
  if (groups_.replica == nullptr) return losses_;
  const std::string mine(reinterpret_cast<const char*>(losses_.data()),
                         losses_.size() * sizeof(double));
  std::vector<double> sums(losses_.size(), 0.0), theirs(losses_.size());
  for (const std::string& bytes : groups_.replica->AllGatherStrings(mine)) {
    OT_CHECK(bytes.size() == mine.size(), "losses of {} and {} bytes", bytes.size(), mine.size());
    std::memcpy(theirs.data(), bytes.data(), bytes.size());
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += theirs[i];
  }
  return sums;
}

}  // namespace omnitrain
