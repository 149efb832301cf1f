#include "core/train/step_executor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "kernels/elementwise/elementwise.h"
#include "parallel/schedule/memory_plan.h"
#include "parallel/schedule/validate.h"

namespace omnitrain {
namespace {

// What a micro-batch holds in the arena, each with a life of its own. Features exist as the encoder
// made them and as the LLM takes them; between the two, and between their gradients, is RESHARD.
enum Block {
  kVisionActs,
  kEncoded,
  kInjected,
  kLlmActs,
  kInjectedGrads,
  kEncodedGrads,
  kLlmTemp,
  kVisionTemp,
  kNumBlocks
};

constexpr char kVision[] = "vit", kLlm[] = "llm";

struct Place {
  size_t offset = 0, bytes = 0;
};

bool IsBackward(OpKind kind) { return kind == OpKind::kBackward || kind == OpKind::kInputGrad; }

bool AllFinite(Context& ctx, const Tensor& t) {
  std::vector<char> host(static_cast<size_t>(t.num_bytes()));
  ctx.device().Copy(host.data(), t.data, host.size(), ctx.stream());
  ctx.stream().Synchronize();
  bool finite = true;
  const auto look = [&](auto value) {
    using T = decltype(value);
    const T* x = reinterpret_cast<const T*>(host.data());
    for (int64_t i = 0; i < t.num_elements() && finite; ++i) {
      if constexpr (std::is_same_v<T, BFloat16>) {
        finite = std::isfinite(ToFloat(x[i]));
      } else {
        finite = std::isfinite(x[i]);
      }
    }
  };
  if (t.dtype == DType::kBF16) {
    look(BFloat16{});
  } else {
    DispatchReal(t.dtype, look);
  }
  return finite;
}

}  // namespace

// The schedule of one run, and where its blocks lie in the arena.
struct StepExecutor::Plan {
  Schedule schedule;
  Recompute recompute = Recompute::kNone;
  std::vector<std::array<Place, kNumBlocks>> places;  // per micro-batch
  size_t total_bytes = 0;
};

StepExecutor::StepExecutor(Context& ctx, MultimodalModel& model) : ctx_(ctx), model_(model) {}
StepExecutor::~StepExecutor() = default;

std::vector<Tensor> StepExecutor::CarveFeatures(Carver& carver, const MicroBatch& batch) const {
  std::vector<Tensor> features;
  for (int k = 0; k < model_.vision().num_features(); ++k) {
    features.push_back(carver.Take(model_.params().dtype(), {batch.items.num_merged_rows(),
                                                             model_.config().vision.out_width}));
  }
  return features;
}

StepExecutor::Plan StepExecutor::MakePlan(const std::vector<MicroBatch>& batches,
                                          SchedulePurpose purpose, Recompute recompute) const {
  const ParamStore& params = model_.params();
  Plan plan;
  plan.recompute = recompute;
  GradientAccumulationParams shape;
  shape.num_micro_batches = static_cast<int>(batches.size());
  shape.purpose = purpose;
  // The mergers belong to the encoder's node: it is trained when either is.
  const bool trains_encoder = !params.is_group_frozen(ParamGroup::kVision) ||
                              !params.is_group_frozen(ParamGroup::kProjector);
  shape.encoders = {{kVision, true, trains_encoder, 1}};
  shape.llm = {kLlm, false, !params.is_group_frozen(ParamGroup::kLlm), 1};
  plan.schedule = BuildGradientAccumulation(shape);

  const LossMode mode = purpose == SchedulePurpose::kTrain ? LossMode::kGradients : LossMode::kLoss;
  const VisionTower& vision = model_.vision();
  const LanguageModel& llm = model_.llm();
  std::vector<BlockRule> rules;
  std::vector<std::pair<size_t, Block>> owners;  // micro-batch and block of each rule
  for (size_t i = 0; i < batches.size(); ++i) {
    const MicroBatch& batch = batches[i];
    const auto add = [&](Block block, const char* module, BlockLifetime life, auto carve) {
      Carver carver(ctx_.device().kind());
      carve(carver);
      if (carver.used() == 0) return;
      Op key;
      key.module = module;
      key.micro_batch = static_cast<int>(i);
      rules.push_back(
          {key, fmt::format("{}.{}.{}", module, i, static_cast<int>(block)), carver.used(), life});
      owners.emplace_back(i, block);
    };
    const auto features = [&](Carver& c) { CarveFeatures(c, batch); };
    add(kVisionActs, kVision, BlockLifetime::kForWeightGrad,
        [&](Carver& c) { vision.Carve(c, batch.items, recompute); });
    add(kEncoded, kVision, BlockLifetime::kOutput, features);
    add(kInjected, kLlm, BlockLifetime::kInjected, features);
    add(kLlmActs, kLlm, BlockLifetime::kForWeightGrad,
        [&](Carver& c) { llm.Carve(c, batch, 0, mode, recompute); });
    if (purpose == SchedulePurpose::kEvaluate) continue;
    add(kLlmTemp, kLlm, BlockLifetime::kBackward, [&](Carver& c) {
      c.Take(params.dtype(), {batch.num_tokens(), model_.config().text.width});
      llm.CarveGradients(c, batch, 0, BackwardPart::kBoth);
    });
    if (!plan.schedule.trains_encoders()) continue;
    add(kInjectedGrads, kLlm, BlockLifetime::kInjectedGrad, features);
    add(kEncodedGrads, kVision, BlockLifetime::kOutputGrad, features);
    add(kVisionTemp, kVision, BlockLifetime::kBackward,
        [&](Carver& c) { vision.CarveTemporaries(c, batch.items.num_patches()); });
  }
  const std::vector<BlockRequest> requests = DeriveRequests(plan.schedule, 0, rules);
  const ArenaPlan arena = PlanArena(requests);
  plan.places.resize(batches.size());
  for (size_t r = 0; r < requests.size(); ++r) {
    plan.places[owners[r].first][owners[r].second] = {arena.offsets[r], requests[r].bytes};
  }
  plan.total_bytes = arena.arena_bytes;
  return plan;
}

StepExecutor::Plan StepExecutor::ChoosePlan(const std::vector<MicroBatch>& batches,
                                            SchedulePurpose purpose) const {
  if (fixed_recompute_) return MakePlan(batches, purpose, *fixed_recompute_);
  Plan plan = MakePlan(batches, purpose, Recompute::kNone);
  if (plan.total_bytes <= arena_.bytes()) return plan;
  // Scratch of ops, and what the libraries take for themselves.
  constexpr size_t kReserve = size_t{3} << 30;
  const size_t available = ctx_.device().available_bytes();
  const size_t usable = available > kReserve ? available - kReserve : 0;
  if (plan.total_bytes - arena_.bytes() <= usable) return plan;
  return MakePlan(batches, purpose, Recompute::kNormsAndActivations);
}

Recompute StepExecutor::recompute() const { return plan_ ? plan_->recompute : Recompute::kNone; }

size_t StepExecutor::PlanBytes(const std::vector<MicroBatch>& micro_batches,
                               SchedulePurpose purpose) const {
  return ChoosePlan(micro_batches, purpose).total_bytes;
}

Carver StepExecutor::At(int block, int micro_batch) const {
  const Place& place = plan_->places[micro_batch][block];
  return Carver(static_cast<char*>(arena_.data()) + place.offset, place.bytes,
                ctx_.device().kind());
}

void StepExecutor::RunSchedule(const std::vector<MicroBatch>& batches, SchedulePurpose purpose) {
  batches_ = &batches;
  loss_mode_ = purpose == SchedulePurpose::kTrain ? LossMode::kGradients : LossMode::kLoss;
  plan_ = std::make_unique<Plan>(ChoosePlan(batches, purpose));
  Validate(plan_->schedule);
  if (plan_->total_bytes > arena_.bytes()) {
    ctx_.stream().Synchronize();
    arena_ = Buffer();
    arena_ = Buffer(ctx_.device(), plan_->total_bytes);
  }
  const int64_t n = std::max<int64_t>(1, static_cast<int64_t>(batches.size()));
  if (!*loss_sums_ || loss_sums_->rows() < n) {
    loss_sums_ = OwnedTensor(ctx_.device(), DType::kF64, {n});
  }
  Zero(ctx_, *loss_sums_);
  last_backward_.clear();
  for (const Op& op : plan_->schedule.ranks[0]) {
    if (IsBackward(op.kind)) last_backward_[op.module] = op.micro_batch;
  }
  if (reduce_ahead_ == nullptr) reduce_ahead_ = std::make_unique<ReduceAhead>(model_.params());
  reduce_ahead_->Begin();
  slots_.clear();
  trace_.clear();
  ExecuteOptions options;
  options.on_span = [this](const OpSpan& span) { trace_.push_back(span); };
  Execute(plan_->schedule, 0, *this, options);
}

void StepExecutor::Run(const Op& op) {
  if (op.kind == OpKind::kReduceGrad) {
    for (int b; (b = reduce_ahead_->TakeRest()) >= 0;) optimizer_->StartReduce(ctx_, b);
    optimizer_->FinishReduce(ctx_);
    return;
  }
  if (op.kind == OpKind::kStep) {
    if (params_ != nullptr) FinishStep();
    return;
  }
  if (op.kind == OpKind::kForward) AwaitValues(op);
  if (IsBackward(op.kind)) return RunBackward(op);
  const MicroBatch& batch = (*batches_)[op.micro_batch];
  Slot& slot = slots_[op.micro_batch];
  const bool is_vision = op.module == kVision;
  const auto features_at = [&](Block block) {
    Carver carver = At(block, op.micro_batch);
    return CarveFeatures(carver, batch);
  };
  // The encoder and the LLM share this rank: RESHARD is a copy between their blocks.
  const auto copy = [&](const std::vector<Tensor>& from, const std::vector<Tensor>& to) {
    for (size_t k = 0; k < from.size(); ++k) Cast(ctx_, from[k], to[k]);
  };
  if (op.kind == OpKind::kReshardForward) {
    slot.injected = features_at(kInjected);
    copy(slot.encoded, slot.injected);
  } else if (op.kind == OpKind::kReshardBackward) {
    slot.encoded_grads = features_at(kEncodedGrads);
    copy(slot.injected_grads, slot.encoded_grads);
  } else if (is_vision && op.kind == OpKind::kForward) {
    Carver acts = At(kVisionActs, op.micro_batch);
    slot.vision = model_.vision().Carve(acts, batch.items, plan_->recompute);
    slot.encoded = features_at(kEncoded);
    model_.vision().Upload(ctx_, batch.items, &slot.vision);
    model_.vision().Forward(ctx_, slot.vision, slot.encoded);
  } else if (op.kind == OpKind::kForward) {
    Carver acts = At(kLlmActs, op.micro_batch);
    slot.llm = model_.llm().Carve(acts, batch, 0, loss_mode_, plan_->recompute);
    model_.llm().Upload(ctx_, batch, &slot.llm);
    model_.llm().Forward(ctx_, slot.llm, slot.injected, loss_mode_,
                         loss_sums_->Rows(op.micro_batch, 1));
    if (observer_) observer_({op.micro_batch, &slot.llm, &slot.injected});
  } else {
    OT_CHECK(false, "no body for {}", ToString(op));
  }
}

void StepExecutor::RunBackward(const Op& op) {
  const MicroBatch& batch = (*batches_)[op.micro_batch];
  Slot& slot = slots_[op.micro_batch];
  // Nothing adds to a module's gradients after its last backward: they are reduced layer by layer.
  const bool is_last = last_backward_.at(op.module) == op.micro_batch;
  const auto when_done = [&](const char* stack) {
    return [this, is_last, stack](int layer) {
      if (!is_last) return;
      reduce_ahead_->MarkLayer(stack, layer);
      StartReadyReduces();
    };
  };
  if (op.module == kVision) {
    model_.vision().Backward(ctx_, slot.vision, slot.encoded_grads, At(kVisionTemp, op.micro_batch),
                             when_done("vision"));
    if (!is_last) return;
    reduce_ahead_->MarkGroup(ParamGroup::kVision);
    reduce_ahead_->MarkGroup(ParamGroup::kProjector);
  } else {
    if (plan_->schedule.trains_encoders()) {
      Carver carver = At(kInjectedGrads, op.micro_batch);
      slot.injected_grads = CarveFeatures(carver, batch);
    }
    Carver temp = At(kLlmTemp, op.micro_batch);
    const Tensor d =
        temp.Take(model_.params().dtype(), {slot.llm.num_rows, model_.config().text.width});
    const auto grads = model_.llm().CarveGradients(temp, batch, 0, BackwardPart::kBoth);
    model_.llm().Backward(ctx_, slot.llm, grads, BackwardPart::kBoth, slot.injected_grads, d,
                          when_done("llm"));
    if (!is_last) return;
    reduce_ahead_->MarkGroup(ParamGroup::kLlm);
  }
  StartReadyReduces();
}

void StepExecutor::StartReadyReduces() {
  for (int b; (b = reduce_ahead_->Take()) >= 0;) optimizer_->StartReduce(ctx_, b);
}

// The values of the last update are gathered while the encoder runs: it waits for its own alone.
void StepExecutor::AwaitValues(const Op& op) {
  if (optimizer_ == nullptr) return;
  int end = -1;
  if (op.module == kVision) {
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
  RunSchedule(micro_batches, SchedulePurpose::kTrain);
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
  return losses_;
}

std::string StepExecutor::FindNonFinite(const MicroBatch& batch) {
  const ParamStore& params = model_.params();
  for (ParamId id = 0; id < params.num_params(); ++id) {
    if (!AllFinite(ctx_, params.value(id))) return "parameter " + params.spec(id).name;
  }
  for (float value : batch.items.patches) {
    if (!std::isfinite(value)) return "the pixels of an item";
  }
  std::string where;
  const auto check = [&](const Tensor& t, const std::string& name) {
    if (where.empty() && t.num_elements() > 0 && !AllFinite(ctx_, t)) where = name;
  };
  set_forward_observer([&](const ForwardView& view) {
    const Slot& slot = slots_.at(view.micro_batch);
    for (size_t i = 0; i < slot.vision.stack.layers.size(); ++i) {
      const LayerActivations& a = slot.vision.stack.layers[i];
      check(a.x, fmt::format("input of vision layer {}", i));
      check(a.o, fmt::format("attention of vision layer {}", i));
      check(a.act, fmt::format("mlp of vision layer {}", i));
    }
    for (size_t k = 0; k < slot.injected.size(); ++k) {
      check(slot.injected[k], fmt::format("vision feature {}", k));
    }
    for (size_t i = 0; i < slot.llm.stack.layers.size(); ++i) {
      const LayerActivations& a = slot.llm.stack.layers[i];
      check(a.x, fmt::format("input of llm layer {}", i));
      check(a.o, fmt::format("attention of llm layer {}", i));
      check(a.act, fmt::format("mlp of llm layer {}", i));
    }
    check(slot.llm.hidden, "llm final norm");
  });
  Evaluate({batch});
  set_forward_observer(nullptr);
  if (where.empty() && !std::isfinite(losses_[0])) where = "the logits or the loss";
  return where;
}

}  // namespace omnitrain
