#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/model/multimodal_model.h"
#include "core/optim/layer_slots.h"
#include "core/optim/sharded_adamw.h"
#include "core/runtime/wait_meter.h"
#include "core/train/reduce_ahead.h"
#include "core/train/step_plan.h"
#include "parallel/schedule/execute.h"
#include "parallel/schedule/schedule.h"
#include "parallel/shard/row_exchange.h"

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

/// A replica's ranks as the executor talks to them. Groups of one rank may be absent.
struct ReplicaGroups {
  ReplicaShape shape;
  Communicator* stage = nullptr;     // the ranks of shape.seats
  Communicator* pipeline = nullptr;  // [pp]: this seat on every pipeline rank; with messages
  Communicator* replica = nullptr;   // all of it, for host values
  Communicator* experts = nullptr;   // the world, where replicas share experts
  SharingGroups sharing;             // of parameters, where layers are sharded
};

/// Runs the schedule of a step on one rank: the bodies of the ops, over memory planned for this
/// step's sizes. Without an optimizer it stops after the gradients (REDUCE_GRAD and STEP do
/// nothing). All ranks of a replica are given the same micro-batches; replicas have as many.
class StepExecutor : private OpRunner {
 public:
  StepExecutor(Context& ctx, MultimodalModel& model, const ReplicaGroups& groups = {});
  ~StepExecutor() override;

  /// A whole training step.  Collective over the world.
  StepOutcome Train(const std::vector<MicroBatch>& micro_batches, const StepParams& params,
                    ShardedAdamW& optimizer);

  /// Gradients of the loss sum into the ParamStore (and reduced through `optimizer`), no update.
  /// Returns the loss sum over all ranks.
  double Gradients(const std::vector<MicroBatch>& micro_batches, ShardedAdamW& optimizer);

  /// Forward passes only. Returns the loss sum of each micro-batch, whole on every rank of the
  /// replica.  Collective over it (with experts, or sharded layers, over the world: replicas then
  /// have as many micro-batches).
  std::vector<double> Evaluate(const std::vector<MicroBatch>& micro_batches);

  /// Called after the forward of an encoder (llm absent) or of a stage of the LLM, while its
  /// activations are there.
  struct ForwardView {
    int micro_batch = 0;
    const LlmActivations* llm = nullptr;
    const std::vector<int>* items = nullptr;       // which of the micro-batch's this rank encoded
    const std::vector<Tensor>* encoded = nullptr;  // their features, [rows, D] each
  };
  void set_forward_observer(std::function<void(const ForwardView&)> observer) {
    observer_ = std::move(observer);
  }

  /// Loss sums per micro-batch of the last run, whole.  Collective over the replica.
  std::vector<double> ReplicaLosses();
  /// Bytes of the activation arena, as planned for the last run.
  size_t planned_bytes() const { return arena_.bytes(); }
  /// The timeline of the last run, on the host.
  const std::vector<OpSpan>& trace() const { return trace_; }

  /// How long the stream of this rank waited in the last Train for each communicator, in ms.
  const std::map<std::string, double>& wait_ms() const { return wait_ms_; }

  /// What the ops of the last run took on the stream of this rank once their data was there, in ns,
  /// in the order of its list: for the simulator. Measured by events, only when asked for: the
  /// replica then meets before REDUCE_GRAD and STEP, whose times are to be their own.
  void set_profiling(bool is_profiling) { is_profiling_ = is_profiling; }
  std::vector<int64_t> OpTimes() const;
  const StepPlan& plan() const { return *plan_; }
  /// The schedule of the last run, and the place of this rank in it.
  const Schedule& schedule() const { return *plan_->schedule; }
  int schedule_rank() const { return groups_.shape.pp_rank; }

  /// The first place on this rank that is not finite when one micro-batch runs forward. Of several
  /// ranks the one nearest to the cause is to be believed: others have it from there.
  struct NonFinite {
    enum Distance { kStored, kComputed, kLoss, kNowhere };  // a parameter or pixels; an activation
    Distance distance = kNowhere;
    std::string where;
  };
  /// Collective as Evaluate is.
  NonFinite FindNonFinite(const MicroBatch& micro_batch);

  /// What the last run made again: as the shape of the replica says, or the least that fits the
  /// device (FitsActivations). Of training the most that any rank needs, on all ranks whose
  /// collectives meet.
  RecomputePlan recompute() const;

 private:
  // What is live of one micro-batch: on one stage, and of the encoder.
  struct StageSlot {
    LlmActivations llm;
    FeatureBlock injected, injected_grads;
    Tensor d;
    std::vector<LayerGradients> grads;
  };
  struct Slot {
    ItemBatch own_items;  // with several seats: what this one encodes
    const ItemBatch* items = nullptr;
    VisionActivations vision;
    std::vector<Tensor> encoded, encoded_grads;
    RowExchange exchange;
    std::map<int, StageSlot> stages;
  };

  void Run(const Op& op) override;
  StepPlan PlanFor(const std::vector<MicroBatch>& micro_batches, SchedulePurpose purpose);
  void RunSchedule(const std::vector<MicroBatch>& micro_batches, SchedulePurpose purpose);
  Carver At(StepBlock block, int stage, int micro_batch) const;
  Carver Scratch() const;

  void EncoderForward(const Op& op);
  void EncoderBackward(const Op& op);
  void StageForward(const Op& op);
  void StageBackward(const Op& op);
  void ReshardForward(const Op& op);
  void ReshardBackward(const Op& op);
  void ToSeats(Slot& slot, int micro_batch);
  void FromSeats(Slot& slot, int micro_batch);
  LlmActivations& ActivationsOf(const Op& op);
  Tensor& GradOf(const Op& op);
  FeatureBlock& FeaturesOf(StepBlock block, int stage, int micro_batch);
  bool HasEncoder() const { return model_.has_vision(); }
  Communicator& pipeline() const;
  int PipelineRankOf(int stage) const { return stage % groups_.shape.pp; }
  void Send(const Tensor& t, int stage);
  void AwaitSends(int position);
  void Receive(const Op& op, int sender, const Tensor& to);
  /// What RECV ops (RESHARD ops) have under way for a micro-batch; stage -1: for any.
  void AwaitReceives(OpKind kind, int micro_batch, int stage);
  bool IsLastGradient(const Op& op) const;
  /// Where profiling, the op's own time begins here: behind its waits.
  void BeginOp();
  void EndOp();

  /// Of a forward or backward of the LLM; is_last: nothing adds to its gradients behind it.
  StackHooks LlmHooks(bool is_last);
  void StartReadyReduces();
  void AwaitValues(const Op& op);
  void FinishStep();
  void ReadLosses();

  Context& ctx_;
  MultimodalModel& model_;
  ReplicaGroups groups_;
  Buffer arena_;
  OwnedTensor loss_sums_;  // [num_micro_batches] f64
  // By number of micro-batches.
  std::map<std::pair<int, SchedulePurpose>, std::shared_ptr<const Schedule>> schedules_;

  // Of the run under way.
  const std::vector<MicroBatch>* batches_ = nullptr;
  ShardedAdamW* optimizer_ = nullptr;
  std::map<std::pair<std::string, int>, int> last_gradient_;  // (module, stage): its micro-batch
  int num_stages_done_ = 0;  // stages of the LLM whose gradients are complete
  std::unique_ptr<ReduceAhead> reduce_ahead_;
  std::unique_ptr<LayerSlots> layer_slots_;  // absent: no layer is sharded
  const StepParams* params_ = nullptr;       // absent: gradients only
  StepOutcome outcome_;
  LossMode loss_mode_ = LossMode::kLoss;
  std::unique_ptr<StepPlan> plan_;
  int position_ = 0;                               // in this rank's list
  std::vector<std::pair<int, CommHandle>> sends_;  // with the position that waits for each
  struct PendingReceive {
    Op op;
    CommHandle handle;
  };
  std::vector<PendingReceive> receives_;
  std::map<int, Slot> slots_;  // by micro-batch
  std::vector<double> losses_;
  std::vector<OpSpan> trace_;
  bool is_profiling_ = false;
  std::vector<std::unique_ptr<Event>> op_begins_, op_ends_;  // by position
  WaitMeter wait_meter_;
  std::map<std::string, double> wait_ms_;
  std::function<void(const ForwardView&)> observer_;
};

}  // namespace omnitrain
