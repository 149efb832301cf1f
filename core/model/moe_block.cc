#include "core/model/moe_block.h"

#include "core/model/layers.h"
#include "kernels/gemm/gemm.h"
#include "kernels/moe/grouped_linear.h"
#include "kernels/moe/moe_balance.h"
#include "kernels/moe/moe_permute.h"

namespace omnitrain {

double MoeConfig::ForwardFlops(int64_t rows) const {
  const double per_row = 2 * static_cast<double>(width) *
                         (static_cast<double>(num_experts) +
                          3 * static_cast<double>(top_k) * static_cast<double>(ffn));
  return per_row * static_cast<double>(rows);
}

void MoeActivations::Release() {
  rows = gate_up = act = d_out = PooledTensor();
  route = ExpertRoute();
}

MoeBlock::MoeBlock(ParamStore* params, const std::string& name, ParamGroup group,
                   const std::string& hf_prefix, const MoeConfig& config, const AxisSeat& ep)
    : params_(params), config_(config), exchange_(ep, config.num_experts) {
  const int64_t E = config.num_experts, D = config.width, I = config.ffn;
  const int64_t first = exchange_.first_expert(), here = exchange_.num_experts_here();
  ParamSpec router;
  router.name = name + ".router.weight";
  router.shape = {E, D};
  router.group = group;
  router.sharing = ParamSharing::kWhole;
  router.hf_parts = {{hf_prefix + ".gate.weight", 0, E, {E, D}}};
  router_ = params->Add(std::move(router));

  const auto add = [&](const char* ours, const char* theirs, int64_t out, int64_t in) {
    ParamSpec spec;
    spec.name = name + ".experts." + ours + ".weight";
    spec.shape = {here, out, in};
    spec.group = group;
    spec.sharing = ParamSharing::kExperts;
    spec.hf_parts = {{hf_prefix + ".experts." + theirs, 0, here, {E, out, in}, first}};
    return params->Add(std::move(spec));
  };
  gate_up_ = add("gate_up", "gate_up_proj", 2 * I, D);
  down_ = add("down", "down_proj", D, I);
}

MoeActivations MoeBlock::Carve(Carver& carver, int64_t rows, MoeRecompute recompute) const {
  const int64_t T = rows, E = config_.num_experts, K = config_.top_k;
  const DType stats = StatsDType(dtype());
  MoeActivations a;
  a.logits = carver.Take(StatsDType(dtype()), {T, E});
  a.d_logits = a.logits.dtype == dtype() ? a.logits : carver.Take(dtype(), {T, E});
  a.probs = carver.Take(stats, {T, E});
  a.expert_ids = carver.Take(DType::kI32, {T, K});
  a.row_of = carver.Take(DType::kI32, {T, K});
  a.weights = carver.Take(stats, {T, K});
  a.counts = carver.Take(DType::kI32, {E});
  a.token_of = carver.Take(DType::kI32, {T * K});
  a.returned = carver.Take(dtype(), {T * K, config_.width});
  a.d_probs = carver.Take(stats, {E});
  a.recompute = recompute;
  return a;
}

void MoeBlock::AddBalanceLoss(Context& ctx, BlockPool& pool, const MoeBalance& balance,
                              MoeActivations* a) const {
  a->num_balanced_rows = 0;
  if (balance.scale == 0) return;
  const int64_t n = balance.num_rows_here, E = config_.num_experts;
  OT_CHECK(n >= 0 && n <= a->probs.rows() && n <= balance.num_rows,
           "balance loss of {} rows of {}, of {} in all", n, a->probs.rows(), balance.num_rows);
  const PooledTensor counts(pool, DType::kI32, {E}), prob_sums(pool, a->probs.dtype, {E});
  for (const PooledTensor* t : {&counts, &prob_sums}) {
    ctx.device().Fill((*t)->data, 0, static_cast<size_t>((*t)->num_bytes()), ctx.stream());
  }
  MoeLoadSums(ctx, a->probs.Rows(0, n), a->expert_ids.Rows(0, n), *counts, *prob_sums);
  // The loss is linear in the probabilities: with the counts of all ranks, each adds the part of
  // its own rows.
  if (balance.comm != nullptr) {
    balance.comm->AllReduce(*counts, ReduceOp::kSum, ctx.stream()).Wait(ctx.stream());
  }
  PooledTensor unread;
  if (!balance.loss_sum) {
    unread = PooledTensor(pool, DType::kF64, {1});
    ctx.device().Fill(unread->data, 0, sizeof(double), ctx.stream());
  }
  MoeBalanceLoss(ctx, *counts, *prob_sums, balance.num_rows, balance.scale,
                 unread ? *unread : balance.loss_sum, a->d_probs);
  a->num_balanced_rows = n;
}

void MoeBlock::Forward(Context& ctx, BlockPool& pool, const Tensor& x, const MoeBalance& balance,
                       Write write, Tensor y, MoeActivations* a) const {
  const int64_t D = config_.width, I = config_.ffn;
  a->Release();
  LinearForward(ctx, x, params_->value(router_), Tensor(), Write::kOverwrite, a->logits);
  MoeRouteForward(ctx, a->logits, config_.weights, a->probs, a->expert_ids, a->weights);
  AddBalanceLoss(ctx, pool, balance, a);
  MoePlan(ctx, a->expert_ids, a->counts, a->row_of, a->token_of);
  a->route = exchange_.Plan(ctx, pool, a->counts);

  const int64_t R = a->route.num_received();
  const bool is_alone = exchange_.is_alone();
  const bool again = a->recompute == MoeRecompute::kCheapParts;
  const std::vector<int64_t>& offsets = a->route.offsets;
  a->rows = PooledTensor(pool, dtype(), {R, D});
  if (is_alone) {
    MoeGatherForward(ctx, x, a->token_of, *a->rows);
  } else {
    // What comes back takes the place of what was sent.
    MoeGatherForward(ctx, x, a->token_of, a->returned);
    exchange_.ToExperts(ctx, pool, a->route, a->returned, *a->rows);
  }
  a->gate_up = PooledTensor(pool, dtype(), {R, 2 * I});
  GroupedLinearForward(ctx, *a->rows, params_->value(gate_up_), offsets, Write::kOverwrite,
                       *a->gate_up);
  if (again && is_alone) a->rows = PooledTensor();

  a->act = PooledTensor(pool, dtype(), {R, I});
  GatedActivationForward(ctx, config_.activation, *a->gate_up, *a->act);
  if (is_alone) {
    GroupedLinearForward(ctx, *a->act, params_->value(down_), offsets, Write::kOverwrite,
                         a->returned);
  } else {
    const PooledTensor out(pool, dtype(), {R, D});
    GroupedLinearForward(ctx, *a->act, params_->value(down_), offsets, Write::kOverwrite, *out);
    exchange_.FromExperts(ctx, pool, a->route, *out, a->returned);
  }
  if (again) a->act = PooledTensor();
  if (y) MoeCombineForward(ctx, a->returned, a->row_of, a->weights, write, y);
}

void MoeBlock::RouterGrad(Context& ctx, const Tensor& d_weights, MoeActivations* a) const {
  // Padding comes last, and has no part in the balance loss.
  const int64_t n = a->num_balanced_rows;
  const auto rows = [&](int64_t begin, int64_t count, const Tensor& d_probs) {
    if (count == 0) return;
    MoeRouteBackward(ctx, a->probs.Rows(begin, count), a->expert_ids.Rows(begin, count),
                     a->weights.Rows(begin, count), d_weights.Rows(begin, count), d_probs,
                     config_.weights, a->d_logits.Rows(begin, count));
  };
  rows(0, n, a->d_probs);
  rows(n, a->probs.rows() - n, Tensor());
}

void MoeBlock::InputGrad(Context& ctx, BlockPool& pool, const Tensor& dy, Write write, Tensor dx,
                         MoeActivations* a) const {
  const int64_t D = config_.width, I = config_.ffn, R = a->route.num_received();
  const bool is_alone = exchange_.is_alone();
  const std::vector<int64_t>& offsets = a->route.offsets;
  {
    const PooledTensor d_weights(pool, a->weights.dtype, a->weights.shape);
    MoeCombineBackward(ctx, a->returned, a->row_of, a->weights, dy, a->returned, *d_weights);
    RouterGrad(ctx, *d_weights, a);
  }
  Tensor d_out = a->returned;
  if (!is_alone) {
    a->d_out = PooledTensor(pool, dtype(), {R, D});
    d_out = *a->d_out;
    exchange_.ToExperts(ctx, pool, a->route, a->returned, d_out);
  }
  // The gradient of gate_up takes its place.
  if (!a->act && !params_->is_frozen(down_)) {
    a->act = PooledTensor(pool, dtype(), {R, I});
    GatedActivationForward(ctx, config_.activation, *a->gate_up, *a->act);
  }
  {
    const PooledTensor d_act(pool, dtype(), {R, I});
    GroupedLinearInputGrad(ctx, d_out, params_->value(down_), offsets, Write::kOverwrite, *d_act);
    GatedActivationBackward(ctx, config_.activation, *d_act, *a->gate_up, *a->gate_up);
  }
  const PooledTensor d_rows(pool, dtype(), {R, D});
  GroupedLinearInputGrad(ctx, *a->gate_up, params_->value(gate_up_), offsets, Write::kOverwrite,
                         *d_rows);
  if (!is_alone) exchange_.FromExperts(ctx, pool, a->route, *d_rows, a->returned);
  MoeGatherBackward(ctx, is_alone ? *d_rows : a->returned, a->row_of, write, dx);
  LinearInputGrad(ctx, a->d_logits, params_->value(router_), Write::kAccumulate, dx);
}

void MoeBlock::WeightGrad(Context& ctx, BlockPool& pool, const Tensor& x, MoeActivations* a) const {
  if (!params_->is_frozen(router_)) {
    const std::vector<int64_t>& offsets = a->route.offsets;
    LinearWeightGrad(ctx, x, a->d_logits, params_->grad(router_), Tensor());
    GroupedLinearWeightGrad(ctx, *a->act, a->d_out ? *a->d_out : a->returned, offsets,
                            params_->grad(down_));
    if (!a->rows) {
      a->rows = PooledTensor(pool, dtype(), {a->token_of.rows(), config_.width});
      MoeGatherForward(ctx, x, a->token_of, *a->rows);
    }
    GroupedLinearWeightGrad(ctx, *a->rows, *a->gate_up, offsets, params_->grad(gate_up_));
  }
  a->Release();
}

}  // namespace omnitrain
