#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/model/multimodal_model.h"
#include "core/optim/sharded_adamw.h"
#include "core/train/reduce_ahead.h"
#include "parallel/schedule/execute.h"
#include "parallel/schedule/schedule.h"

namespace omnitrain {

/// What a step needs besides its micro-batches.
struct StepParams {
  int64_t step = 1;  // counts from 1
  double lr = 0;
  int64_t global_loss_tokens = 0;  // over all micro-batches of all ranks
};

struct StepOutcome {
  double loss = 0;        // mean over the loss tokens of all ranks
  double grad_norm = 0;   // before clipping
  bool is_finite = true;  // false: parameters were left alone
};

/// Runs the schedule of a step on one rank: the bodies of the ops, over memory planned for this
/// step's sizes. Without an optimizer it stops after the gradients (REDUCE_GRAD and STEP do
/// nothing).
class StepExecutor : private OpRunner {
 public:
  StepExecutor(Context& ctx, MultimodalModel& model);
  ~StepExecutor() override;

  /// A whole training step.  Collective over dp.
  StepOutcome Train(const std::vector<MicroBatch>& micro_batches, const StepParams& params,
                    ShardedAdamW& optimizer);

  /// Gradients of the loss sum into the ParamStore (and reduced through `optimizer`), no update.
  /// Returns the loss sum over all ranks.
  double Gradients(const std::vector<MicroBatch>& micro_batches, ShardedAdamW& optimizer);

  /// Forward passes only. Returns the loss sum of each micro-batch, of this rank.
  std::vector<double> Evaluate(const std::vector<MicroBatch>& micro_batches);

  /// Called after the LLM's forward of each micro-batch, while its activations are there: logits,
  /// encoder outputs.
  struct ForwardView {
    int micro_batch = 0;
    const LlmActivations* llm = nullptr;
    const std::vector<Tensor>* features = nullptr;  // of the encoder, [N, D] each
  };
  void set_forward_observer(std::function<void(const ForwardView&)> observer) {
    observer_ = std::move(observer);
  }

  /// Loss sums per micro-batch of the last run, on this rank.
  const std::vector<double>& micro_batch_losses() const { return losses_; }
  /// Bytes of the activation arena, as planned for the last run.
  size_t planned_bytes() const { return arena_.bytes(); }
  /// The timeline of the last run.
  const std::vector<OpSpan>& trace() const { return trace_; }

  /// Runs the forward of one micro-batch and names the first place whose output is not finite; ""
  /// when all are.
  std::string FindNonFinite(const MicroBatch& micro_batch);

  /// Norms and activations are recomputed in the backward where keeping them does not fit the
  /// device; this makes it so always, or never.
  void set_recompute(std::optional<Recompute> recompute) { fixed_recompute_ = recompute; }
  /// What the last run did.
  Recompute recompute() const;

  /// Bytes that a step over these micro-batches plans, without running it.
  size_t PlanBytes(const std::vector<MicroBatch>& micro_batches, SchedulePurpose purpose) const;

 private:
  // What is live of one micro-batch.
  struct Slot {
    VisionActivations vision;
    LlmActivations llm;
    std::vector<Tensor> encoded, injected, injected_grads, encoded_grads;
  };
  struct Plan;

  void Run(const Op& op) override;
  Plan MakePlan(const std::vector<MicroBatch>& micro_batches, SchedulePurpose purpose,
                Recompute recompute) const;
  Plan ChoosePlan(const std::vector<MicroBatch>& micro_batches, SchedulePurpose purpose) const;
  void RunSchedule(const std::vector<MicroBatch>& micro_batches, SchedulePurpose purpose);
  void RunBackward(const Op& op);
  void StartReadyReduces();
  void AwaitValues(const Op& op);
  void FinishStep();
  void ReadLosses();
  std::vector<Tensor> CarveFeatures(Carver& carver, const MicroBatch& batch) const;
  Carver At(int block, int micro_batch) const;

  Context& ctx_;
  MultimodalModel& model_;
  std::optional<Recompute> fixed_recompute_;
  Buffer arena_;
  OwnedTensor loss_sums_;  // [num_micro_batches] f64

  // Of the run under way.
  const std::vector<MicroBatch>* batches_ = nullptr;
  ShardedAdamW* optimizer_ = nullptr;
  std::map<std::string, int> last_backward_;  // micro-batch of a module's last backward
  std::unique_ptr<ReduceAhead> reduce_ahead_;
  const StepParams* params_ = nullptr;  // absent: gradients only
  StepOutcome outcome_;
  LossMode loss_mode_ = LossMode::kLoss;
  std::unique_ptr<Plan> plan_;
  std::map<int, Slot> slots_;  // by micro-batch
  std::vector<double> losses_;
  std::vector<OpSpan> trace_;
  std::function<void(const ForwardView&)> observer_;
};

}  // namespace omnitrain
