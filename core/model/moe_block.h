#pragma once

#include <string>

#include "core/model/expert_exchange.h"
#include "core/model/param_store.h"
#include "core/runtime/carver.h"
#include "core/runtime/write.h"
#include "kernels/activation/activation.h"
#include "kernels/moe/moe_route.h"

namespace omnitrain {

/// What a sparse layer has in place of its MLP: a router and E gated MLPs of width I, of which a
/// row takes the K likeliest.
struct MoeConfig {
  int64_t width = 0;        // D
  int64_t num_experts = 0;  // E, of all ranks
  int64_t top_k = 0;        // K
  int64_t ffn = 0;          // I, of one expert
  Activation activation = Activation::kSilu;
  MoeWeights weights = MoeWeights::kNormalized;

  /// Floating-point operations of a forward of `rows` rows (a multiply-add is two), wherever their
  /// experts are.
  double ForwardFlops(int64_t rows) const;
};

/// The loss that keeps experts evenly loaded, of one layer and one micro-batch. With n_e the times
/// that expert e was chosen and p_e the sum of its probabilities over the N rows of the micro-batch
/// that are no padding,
///   L = E sum_e (n_e / N) (p_e / N),  K when the load is even,
/// and scale * L joins the sum of token losses, which is what gradients are of until the step
/// divides them by its count of loss tokens. transformers adds router_aux_loss_coef times L to the
/// mean token loss, L over the rows of all layers at once; the same weight per layer is
///   scale = router_aux_loss_coef * (loss tokens of the micro-batch) / (sparse layers),
/// layers of the whole model, and the two agree where layers load their experts alike.
/// Source: Fedus et al. 2022, eq. 4-6; transformers, load_balancing_loss_func.
struct MoeBalance {
  double scale = 0;              // 0: no loss; the same on all ranks of `comm`
  int64_t num_rows_here = 0;     // rows of x that are no padding; they come before those that are
  int64_t num_rows = 0;          // N, over all ranks of `comm`
  Communicator* comm = nullptr;  // ranks that share the rows of a micro-batch (tp x cp); null: none
  Tensor loss_sum;  // [1] f64, += scale times this rank's share of L: shares add up over `comm`;
                    // absent: only its gradient is wanted
};

/// What a backward makes again: the activations, and with one ep rank the sorted rows.
enum class MoeRecompute : uint8_t { kNone, kCheapParts };

/// What a forward leaves for the backward. T rows here, R rows at this rank's experts.
struct MoeActivations {
  // Laid out before the sizes of the step's messages are known.
  Tensor logits;              // [T, E], in the dtype of statistics: bf16 would flip choices
  Tensor d_logits;            // [T, E]; the same memory where the dtype is the same
  Tensor probs;               // [T, E]
  Tensor expert_ids, row_of;  // [T, K] int32
  Tensor weights;             // [T, K]
  Tensor counts;              // [E] int32
  Tensor token_of;            // [T K] int32
  Tensor returned;            // [T K, D]: what the experts made of each row, then gradients
  Tensor d_probs;             // [E]: gradient of the balance loss
  MoeRecompute recompute = MoeRecompute::kNone;

  // Made by the forward, of the pool.
  ExpertRoute route;
  int64_t num_balanced_rows = 0;  // rows whose probabilities have d_probs
  PooledTensor rows;              // [R, D]; absent when made again
  PooledTensor gate_up;           // [R, 2I]; the backward overwrites it with its gradient
  PooledTensor act;               // [R, I]; absent until the backward when made again
  PooledTensor d_out;  // [R, D], between the halves of a backward; one ep rank: in `returned`

  /// Gives the pool its memory back: for a forward without a backward.
  void Release();
};

/// y = sum over the K likeliest experts e of  weight_e down_e(act(gate_e x) * up_e x), with the
/// experts of a layer shared out over the ep axis. Rows of x are this rank's own; tensor
/// parallelism splits rows here, never experts.
/// Dtype: the store's; probabilities and weights f32 (f64 for f64).
/// Collective: over ep, forward and InputGrad of every rank in the same order, T = 0 included; a
/// balance loss also over its `comm`. A WeightGrad communicates nothing.
/// The host waits for the stream once a forward, and never in a backward.
/// Memory: `acts` as Carve plans it; of `pool`, per layer from the forward to the end of WeightGrad
/// R (D + 3I) elements (kCheapParts until InputGrad: R (D + 2I), or R 2I with one ep rank), from
/// InputGrad to WeightGrad R D more with several ep ranks, and R (2D + I) at most while a call
/// runs. R depends on what the router chose: T K where ranks are alike and the load is even, ep T K
/// at worst.
/// Deterministic: equal layouts give equal bits.
/// Source: Shazeer et al. 2017; Lepikhin et al. 2021 (experts over ranks), without its capacity.
class MoeBlock {
 public:
  MoeBlock() = default;
  /// Declares `name` + ".router.weight", ".experts.gate_up.weight", ".experts.down.weight": of
  /// the experts those of this ep rank. `hf_prefix`: "model.language_model.layers.3.mlp".
  MoeBlock(ParamStore* params, const std::string& name, ParamGroup group,
           const std::string& hf_prefix, const MoeConfig& config, const AxisSeat& ep);

  const MoeConfig& config() const { return config_; }

  MoeActivations Carve(Carver& carver, int64_t rows, MoeRecompute recompute) const;

  /// y = or += the block of x.  Shapes: x, y [T, D].  y and x do not overlap; y is absent where
  /// what is left for the backward is wanted alone.
  void Forward(Context& ctx, BlockPool& pool, const Tensor& x, const MoeBalance& balance,
               Write write, Tensor y, MoeActivations* acts) const;
  /// dx = or += the gradient at x of dy at y and of the balance loss.  Shapes: dy, dx [T, D]. dy is
  /// not needed afterwards.
  void InputGrad(Context& ctx, BlockPool& pool, const Tensor& dy, Write write, Tensor dx,
                 MoeActivations* acts) const;
  /// Adds the gradients of the parameters and gives the pool its memory back. After InputGrad, at
  /// once or later; x as the forward saw it.
  void WeightGrad(Context& ctx, BlockPool& pool, const Tensor& x, MoeActivations* acts) const;

 private:
  void AddBalanceLoss(Context& ctx, BlockPool& pool, const MoeBalance& balance,
                      MoeActivations* acts) const;
  void RouterGrad(Context& ctx, const Tensor& d_weights, MoeActivations* acts) const;
  DType dtype() const { return params_->dtype(); }

  ParamStore* params_ = nullptr;
  MoeConfig config_;
  ExpertExchange exchange_;
  ParamId router_ = -1, gate_up_ = -1, down_ = -1;
};

}  // namespace omnitrain
