#include "core/model/transformer_stack.h"

#include <algorithm>
#include <cmath>

#include "kernels/elementwise/elementwise.h"
#include "kernels/rope/rope.h"

namespace omnitrain {
namespace {

StackConfig SliceOf(StackConfig config, const AxisSeat& tp) {
  config.num_heads /= tp.size;
  config.num_kv_heads = std::max<int64_t>(1, config.num_kv_heads / tp.size);
  config.ffn /= tp.size;
  return config;
}

}  // namespace

std::string ToString(const RecomputePlan& plan) {
  constexpr const char* kNames[] = {"none", "selective", "full"};
  const char* kind = kNames[static_cast<int>(plan.kind)];
  const char* rest = kNames[static_cast<int>(plan.rest)];
  if (plan.is_none()) return "none";
  if (plan.num_layers == RecomputePlan::kAllLayers) return kind;
  if (plan.num_layers == 0) return rest;
  return fmt::format("{} in the first {} layers, else {}", kind, plan.num_layers, rest);
}

bool StackConfig::IsSparse(int layer) const {
  return std::binary_search(sparse_layers.begin(), sparse_layers.end(), layer);
}

TransformerStack::TransformerStack(ParamStore* params, const StackConfig& config,
                                   const StackNames& names, const std::vector<LayerRange>& held,
                                   const LlmPlace& place)
    : config_(config),
      local_(SliceOf(config, place.tp)),
      tp_(place.tp),
      params_(params),
      cp_(place.cp) {
  const StackConfig& c = config_;
  const Piece slice{tp_.size, tp_.rank};
  const bool shares_kv = c.num_kv_heads < tp_.size;
  const int64_t q_width = c.num_heads * c.head_dim, kv_width = c.num_kv_heads * c.head_dim;
  layers_.resize(static_cast<size_t>(c.num_layers));
  const auto is_held = [&](int i) {
    return std::any_of(held.begin(), held.end(),
                       [i](const LayerRange& r) { return i >= r.begin && i < r.end; });
  };
  for (int i = 0; i < c.num_layers; ++i) {
    if (!is_held(i)) continue;
    const std::string ours = fmt::format("{}.layers.{}.", c.name, i);
    const std::string theirs = fmt::format("{}{}.", names.layers, i);
    const auto norm = [&](NormKind kind, const char* name, const std::string& hf, int64_t width) {
      return Norm(params, kind, ours + name, c.group, theirs + hf, width, c.norm_eps);
    };
    const auto linear = [&](const char* name, int64_t in, std::vector<LinearPart> parts,
                            bool has_bias, const Piece& rows, const Piece& columns,
                            ParamSharing sharing = ParamSharing::kSlice) {
      for (LinearPart& part : parts) part.hf_prefix = theirs + part.hf_prefix;
      return Linear(
          params,
          {ours + name, c.group, in, std::move(parts), has_bias, {}, rows, columns, sharing});
    };
    Layer layer;
    layer.norm1 = norm(c.norm, "norm1", names.norm1, c.width);
    std::vector<LinearPart> qkv = {{names.qkv[0], q_width + 2 * kv_width}};
    if (names.qkv.size() > 1) {
      qkv = {{names.qkv[0], q_width}, {names.qkv[1], kv_width}, {names.qkv[2], kv_width}};
    }
    OT_CHECK(qkv.size() == 3 || tp_.size == 1, "one fused qkv over tp={}", tp_.size);
    if (shares_kv) {
      const int kv_head = static_cast<int>(tp_.rank * c.num_kv_heads / tp_.size);
      layer.qkv = linear("q", c.width, {qkv[0]}, c.has_qkv_bias, slice, {});
      layer.kv = linear("kv", c.width, {qkv[1], qkv[2]}, c.has_qkv_bias,
                        {static_cast<int>(c.num_kv_heads), kv_head}, {}, ParamSharing::kKvHeads);
    } else {
      layer.qkv = linear("qkv", c.width, qkv, c.has_qkv_bias, slice, {});
    }
    if (c.has_qk_norm) {
      layer.q_norm = norm(NormKind::kRms, "q_norm", names.q_norm, c.head_dim);
      layer.k_norm = norm(NormKind::kRms, "k_norm", names.k_norm, c.head_dim);
    }
    layer.proj = linear("proj", q_width, {{names.proj, c.width}}, c.has_proj_bias, {}, slice);
    layer.norm2 = norm(c.norm, "norm2", names.norm2, c.width);
    layer.is_sparse = c.IsSparse(i);
    if (layer.is_sparse) {
      layer.moe = MoeBlock(params, fmt::format("{}.layers.{}", c.name, i), c.group,
                           theirs + names.moe, c.moe, place.ep);
    } else {
      std::vector<LinearPart> up;
      for (const std::string& name : names.up) up.push_back({name, c.ffn});
      OT_CHECK(up.size() == (c.is_gated ? 2u : 1u), "{} projections into the mlp", up.size());
      layer.up = linear("up", c.width, up, c.has_mlp_bias, slice, {});
      layer.down = linear("down", c.ffn, {{names.down, c.width}}, c.has_mlp_bias, {}, slice);
    }
    layer.is_windowed =
        std::find(c.full_layers.begin(), c.full_layers.end(), i) == c.full_layers.end();
    layers_[static_cast<size_t>(i)] = std::move(layer);
  }
}

bool TransformerStack::HasDense(int begin, int end) const {
  for (int i = begin; i < end; ++i) {
    if (!config_.IsSparse(i)) return true;
  }
  return false;
}

BlockPool& TransformerStack::Pool(Context& ctx) const {
  if (pool_ == nullptr) pool_ = std::make_unique<BlockPool>(ctx.device());
  OT_CHECK(&pool_->device() == &ctx.device(), "{} ran on another device before", config_.name);
  return *pool_;
}

StackActivations TransformerStack::Carve(Carver& carver, int64_t rows, int begin, int end,
                                         const RecomputePlan& recompute, Carver* scratch) const {
  const StackConfig& c = local_;
  const int64_t H = c.num_heads, G = c.num_kv_heads, K = c.head_dim, T = rows;
  const int64_t Tl = T / tp_.size;
  OT_CHECK(Tl * tp_.size == T, "{} rows over tp={}", T, tp_.size);
  StackActivations acts;
  if (tp_.size > 1) acts.wide = carver.Take(dtype(), {T, c.width});
  // What recomputed layers share is taken by the first that needs it.
  Carver& common = scratch != nullptr ? *scratch : carver;
  LayerActivations shared;
  const auto take = [&](bool keeps, Tensor* slot, DType type, const Shape& shape) {
    if (keeps) return carver.Take(type, shape);
    if (slot->shape.rank() == 0) *slot = common.Take(type, shape);
    return *slot;
  };
  const auto take_stats = [&](bool keeps, NormStats* slot, const Norm& norm, const Shape& shape) {
    if (keeps) return norm.Carve(carver, shape);
    if (slot->rstd.shape.rank() == 0) *slot = norm.Carve(common, shape);
    return *slot;
  };
  for (int i = begin; i < end; ++i) {
    const Layer& layer = layers_[i];
    LayerActivations a;
    a.recompute = recompute.Of(i - begin);
    const bool keeps_all = a.recompute == Recompute::kNone;
    const bool keeps = a.recompute != Recompute::kFull;
    a.x = carver.Take(dtype(), {Tl, c.width});
    a.norm1 = take_stats(keeps, &shared.norm1, layer.norm1, {Tl});
    a.n1 = take(keeps_all, &shared.n1, dtype(), {Tl, c.width});
    a.qkv = take(keeps, &shared.qkv, dtype(), {T, (H + 2 * G) * K});
    if (c.has_qk_norm) {
      a.q_norm = take_stats(keeps, &shared.q_norm, layer.q_norm, {T, H});
      a.k_norm = take_stats(keeps, &shared.k_norm, layer.k_norm, {T, G});
      a.qk = take(keeps, &shared.qk, dtype(), {T, (H + G) * K});
    }
    a.lse = take(keeps, &shared.lse, StatsDType(dtype()), {H, T});
    a.o = take(keeps, &shared.o, dtype(), {T, H * K});
    a.x_mid = take(keeps, &shared.x_mid, dtype(), {Tl, c.width});
    a.norm2 = take_stats(keeps, &shared.norm2, layer.norm2, {Tl});
    // A layer whose backward makes norm outputs again is done with norm1's before norm2's is made.
    Tensor* n2 = a.recompute == Recompute::kFull ? &shared.n2 : &shared.n1;
    a.n2 = take(keeps_all, n2, dtype(), {Tl, c.width});
    if (layer.is_sparse) {
      if (!keeps && shared.moe != nullptr) {
        a.moe = shared.moe;
      } else {
        a.moe = std::make_shared<MoeActivations>(layer.moe.Carve(
            keeps ? carver : common, Tl,
            a.recompute == Recompute::kNormsAndActivations ? MoeRecompute::kCheapParts
                                                           : MoeRecompute::kNone));
        if (!keeps) shared.moe = a.moe;
      }
    } else {
      a.up = take(keeps, &shared.up, dtype(), {T, c.is_gated ? 2 * c.ffn : c.ffn});
      a.act = take(keeps_all, &shared.act, dtype(), {T, c.ffn});
    }
    acts.layers.push_back(a);
  }
  acts.out = carver.Take(dtype(), {Tl, c.width});
  return acts;
}

LayerGradients TransformerStack::CarveGradients(Carver& carver, int64_t rows, int begin, int end,
                                                BackwardPart part) const {
  const StackConfig& c = local_;
  const int64_t H = c.num_heads, G = c.num_kv_heads, K = c.head_dim, T = rows;
  const int64_t Tl = T / tp_.size;
  const bool is_split = part == BackwardPart::kInput;
  LayerGradients g;
  if (HasDense(begin, end)) {
    if (is_split) g.d_out = carver.Take(dtype(), {Tl, c.width});
    g.d_act = carver.Take(dtype(), {T, c.ffn});
    if (!c.is_gated) g.d_up = g.d_act;
  }
  if (is_split) g.d_mid = carver.Take(dtype(), {Tl, c.width});
  g.d_o = carver.Take(dtype(), {T, H * K});
  g.d_qkv = carver.Take(dtype(), {T, (H + 2 * G) * K});
  g.d_norm = carver.Take(dtype(), {Tl, c.width});
  return g;
}

TransformerStack::QkvViews TransformerStack::Views(const LayerActivations& a) const {
  const int64_t H = local_.num_heads, G = local_.num_kv_heads, K = config_.head_dim;
  const int64_t T = a.qkv.rows();
  const Tensor& qk = config_.has_qk_norm ? a.qk : a.qkv;
  return {qk.Columns(0, H * K).View({T, H, K}), qk.Columns(H * K, G * K).View({T, G, K}),
          a.qkv.Columns((H + G) * K, G * K).View({T, G, K})};
}

const SequenceInputs::Segments& TransformerStack::SegmentsOf(const SequenceInputs& inputs,
                                                             const Layer& layer) const {
  return layer.is_windowed && inputs.windows.cu_seqlens ? inputs.windows : inputs.segments;
}

AttentionParams TransformerStack::AttentionOver(const SequenceInputs::Segments& segments) const {
  return {config_.is_causal, 1.0 / std::sqrt(static_cast<double>(config_.head_dim)),
          segments.max_seqlen};
}

Tensor TransformerStack::GatherOverTp(Context& ctx, const StackActivations& acts,
                                      const Tensor& x) const {
  if (tp_.size == 1) return x;
  tp_.comm->AllGather(x, acts.wide, ctx.stream()).Wait(ctx.stream());
  return acts.wide;
}

void TransformerStack::SumOverTp(Context& ctx, const Tensor& partial, Tensor y) const {
  tp_.comm->ReduceScatter(partial, y, ReduceOp::kSum, ctx.stream()).Wait(ctx.stream());
}

void TransformerStack::QkvForward(Context& ctx, const Layer& layer, const Tensor& x,
                                  const Tensor& qkv) const {
  const int64_t q_width = layer.qkv.out_features();
  if (q_width == qkv.shape[1]) return layer.qkv.Forward(ctx, x, Write::kOverwrite, qkv);
  layer.qkv.Forward(ctx, x, Write::kOverwrite, qkv.Columns(0, q_width));
  layer.kv.Forward(ctx, x, Write::kOverwrite, qkv.Columns(q_width, layer.kv.out_features()));
}

void TransformerStack::QkvInputGrad(Context& ctx, const Layer& layer, const Tensor& d_qkv,
                                    const Tensor& dx) const {
  const int64_t q_width = layer.qkv.out_features();
  if (q_width == d_qkv.shape[1]) return layer.qkv.InputGrad(ctx, d_qkv, Write::kOverwrite, dx);
  layer.qkv.InputGrad(ctx, d_qkv.Columns(0, q_width), Write::kOverwrite, dx);
  layer.kv.InputGrad(ctx, d_qkv.Columns(q_width, layer.kv.out_features()), Write::kAccumulate, dx);
}

void TransformerStack::QkvWeightGrad(Context& ctx, const Layer& layer, const Tensor& x,
                                     const Tensor& d_qkv) const {
  const int64_t q_width = layer.qkv.out_features();
  if (q_width == d_qkv.shape[1]) return layer.qkv.WeightGrad(ctx, x, d_qkv);
  layer.qkv.WeightGrad(ctx, x, d_qkv.Columns(0, q_width));
  layer.kv.WeightGrad(ctx, x, d_qkv.Columns(q_width, layer.kv.out_features()));
}

template <typename F>
void TransformerStack::NormOutputGrad(Context& ctx, const StackActivations& acts,
                                      const LayerGradients& g, F&& input_grad) const {
  if (tp_.size == 1) return input_grad(g.d_norm);
  input_grad(acts.wide);
  SumOverTp(ctx, acts.wide, g.d_norm);
}

void TransformerStack::AddToResidual(Context& ctx, const StackActivations& acts,
                                     const Linear& linear, const Tensor& in, const Tensor& x,
                                     const Tensor& out) const {
  if (tp_.size == 1) {
    Cast(ctx, x, out);
    return linear.Forward(ctx, in, Write::kAccumulate, out);
  }
  linear.Forward(ctx, in, Write::kOverwrite, acts.wide);
  SumOverTp(ctx, acts.wide, out);
  AddInto(ctx, x, out);
}

void TransformerStack::AttentionHalf(Context& ctx, const SequenceInputs& inputs,
                                     const StackActivations& acts, const Layer& layer,
                                     const LayerActivations& a) const {
  const StackConfig& c = local_;
  const int64_t H = c.num_heads, G = c.num_kv_heads, K = c.head_dim, T = a.qkv.rows();

  layer.norm1.Forward(ctx, a.x, a.n1, a.norm1);
  QkvForward(ctx, layer, GatherOverTp(ctx, acts, a.n1), a.qkv);
  const QkvViews views = Views(a);
  if (c.has_qk_norm) {
    layer.q_norm.Forward(ctx, a.qkv.Columns(0, H * K).View({T, H, K}), views.q, a.q_norm);
    layer.k_norm.Forward(ctx, a.qkv.Columns(H * K, G * K).View({T, G, K}), views.k, a.k_norm);
  }
  // q and k are neighbours, so they turn as one tensor of H + G heads.
  const Tensor qk = (c.has_qk_norm ? a.qk : a.qkv).Columns(0, (H + G) * K).View({T, H + G, K});
  ApplyRope(ctx, inputs.cos, inputs.sin, RopeDirection::kForward, qk);
  const SequenceInputs::Segments& segments = SegmentsOf(inputs, layer);
  if (cp_.size > 1) {
    context().Forward(ctx, inputs.context, views.q, views.k, views.v, AttentionOver(segments),
                      a.o.View({T, H, K}), a.lse);
  } else {
    AttentionForward(ctx, views.q, views.k, views.v, segments.cu_seqlens, AttentionOver(segments),
                     a.o.View({T, H, K}), a.lse);
  }
  AddToResidual(ctx, acts, layer.proj, a.o, a.x, a.x_mid);
}

void TransformerStack::MlpUp(Context& ctx, const StackActivations& acts, const Layer& layer,
                             const LayerActivations& a) const {
  layer.up.Forward(ctx, GatherOverTp(ctx, acts, a.n2), Write::kOverwrite, a.up);
  MlpActivation(ctx, a);
}

void TransformerStack::LayerForward(Context& ctx, const SequenceInputs& inputs,
                                    const StackActivations& acts, const Layer& layer,
                                    const LayerActivations& a, const MoeInputs& moe,
                                    const Tensor& out) const {
  AttentionHalf(ctx, inputs, acts, layer, a);
  layer.norm2.Forward(ctx, a.x_mid, a.n2, a.norm2);
  if (layer.is_sparse) {
    Cast(ctx, a.x_mid, out);
    layer.moe.Forward(ctx, Pool(ctx), a.n2, moe.balance, Write::kAccumulate, out, a.moe.get());
    if (!moe.has_backward || a.recompute == Recompute::kFull) a.moe->Release();
    return;
  }
  MlpUp(ctx, acts, layer, a);
  AddToResidual(ctx, acts, layer.down, a.act, a.x_mid, out);
}

void TransformerStack::LayerForwardAgain(Context& ctx, const SequenceInputs& inputs,
                                         const StackActivations& acts, const Layer& layer,
                                         const LayerActivations& a, const MoeInputs& moe) const {
  AttentionHalf(ctx, inputs, acts, layer, a);
  layer.norm2.Forward(ctx, a.x_mid, a.n2, a.norm2);
  if (!layer.is_sparse) return MlpUp(ctx, acts, layer, a);
  layer.moe.Forward(ctx, Pool(ctx), a.n2, moe.balance, Write::kOverwrite, Tensor(), a.moe.get());
}

ContextAttention& TransformerStack::context() const {
  if (context_ == nullptr) context_ = std::make_unique<ContextAttention>(cp_, heads(), dtype());
  return *context_;
}

void TransformerStack::MlpActivation(Context& ctx, const LayerActivations& a) const {
  if (config_.is_gated) {
    GatedActivationForward(ctx, config_.activation, a.up, a.act);
  } else {
    ActivationForward(ctx, config_.activation, a.up, a.act);
  }
}

void TransformerStack::MlpBackward(Context& ctx, const StackActivations& acts, const Layer& layer,
                                   const LayerActivations& a, const LayerGradients& g,
                                   BackwardPart part, const Tensor& d) const {
  const bool both = part == BackwardPart::kBoth;
  const bool again = a.recompute == Recompute::kNormsAndActivations;
  // The gradient of `up` takes its place, so `act` is made again and used before.
  if (again) MlpActivation(ctx, a);
  const Tensor d_out = GatherOverTp(ctx, acts, d);
  if (both) layer.down.WeightGrad(ctx, a.act, d_out);
  layer.down.InputGrad(ctx, d_out, Write::kOverwrite, g.d_act);
  Tensor d_up = g.d_up;
  if (config_.is_gated) {
    d_up = a.up;
    GatedActivationBackward(ctx, config_.activation, g.d_act, a.up, d_up);
  } else {
    ActivationBackward(ctx, config_.activation, g.d_act, a.up, d_up);
  }
  if (both && layer.up.is_trained()) {
    if (again) layer.norm2.Forward(ctx, a.x_mid, a.n2, a.norm2);
    layer.up.WeightGrad(ctx, GatherOverTp(ctx, acts, a.n2), d_up);
  }
  if (!both) Cast(ctx, d, g.d_out);
  NormOutputGrad(ctx, acts, g,
                 [&](const Tensor& dx) { layer.up.InputGrad(ctx, d_up, Write::kOverwrite, dx); });
}

void TransformerStack::MoeBackward(Context& ctx, const StackActivations& acts, const Layer& layer,
                                   const LayerActivations& a, const LayerGradients& g,
                                   BackwardPart part, const Tensor& d) const {
  layer.moe.InputGrad(ctx, Pool(ctx), d, Write::kOverwrite, g.d_norm, a.moe.get());
  if (part != BackwardPart::kBoth) return;
  const bool again = a.recompute == Recompute::kNormsAndActivations;
  if (again && layer.qkv.is_trained()) layer.norm2.Forward(ctx, a.x_mid, a.n2, a.norm2);
  layer.moe.WeightGrad(ctx, Pool(ctx), a.n2, a.moe.get());
}

void TransformerStack::LayerInputGrad(Context& ctx, const SequenceInputs& inputs,
                                      const StackActivations& acts, const Layer& layer,
                                      const LayerActivations& a, const LayerGradients& g,
                                      BackwardPart part, Tensor d) const {
  const StackConfig& c = local_;
  const int64_t H = c.num_heads, G = c.num_kv_heads, K = c.head_dim, T = a.qkv.rows();
  const bool both = part == BackwardPart::kBoth;
  const bool again = a.recompute == Recompute::kNormsAndActivations;

  if (layer.is_sparse) {
    MoeBackward(ctx, acts, layer, a, g, part, d);
  } else {
    MlpBackward(ctx, acts, layer, a, g, part, d);
  }
  layer.norm2.Backward(ctx, g.d_norm, a.x_mid, a.norm2, Write::kAccumulate, d);

  const Tensor d_mid = GatherOverTp(ctx, acts, d);
  layer.proj.InputGrad(ctx, d_mid, Write::kOverwrite, g.d_o);
  const QkvViews views = Views(a);
  const Tensor d_q = g.d_qkv.Columns(0, H * K).View({T, H, K});
  const Tensor d_k = g.d_qkv.Columns(H * K, G * K).View({T, G, K});
  const Tensor d_v = g.d_qkv.Columns((H + G) * K, G * K).View({T, G, K});
  const SequenceInputs::Segments& segments = SegmentsOf(inputs, layer);
  if (cp_.size > 1) {
    context().Backward(ctx, inputs.context, g.d_o.View({T, H, K}), views.q, views.k, views.v,
                       a.o.View({T, H, K}), a.lse, AttentionOver(segments), d_q, d_k, d_v);
  } else {
    AttentionBackward(ctx, g.d_o.View({T, H, K}), views.q, views.k, views.v, a.o.View({T, H, K}),
                      a.lse, segments.cu_seqlens, AttentionOver(segments), d_q, d_k, d_v);
  }
  ApplyRope(ctx, inputs.cos, inputs.sin, RopeDirection::kBackward,
            g.d_qkv.Columns(0, (H + G) * K).View({T, H + G, K}));
  if (c.has_qk_norm) {
    layer.q_norm.Backward(ctx, d_q, a.qkv.Columns(0, H * K).View({T, H, K}), a.q_norm,
                          Write::kOverwrite, d_q);
    layer.k_norm.Backward(ctx, d_k, a.qkv.Columns(H * K, G * K).View({T, G, K}), a.k_norm,
                          Write::kOverwrite, d_k);
  }
  if (both) layer.proj.WeightGrad(ctx, a.o, d_mid);
  if (both && layer.qkv.is_trained()) {
    if (again) layer.norm1.Forward(ctx, a.x, a.n1, a.norm1);
    QkvWeightGrad(ctx, layer, GatherOverTp(ctx, acts, a.n1), g.d_qkv);
  }
  if (!both) Cast(ctx, d, g.d_mid);
  NormOutputGrad(ctx, acts, g, [&](const Tensor& dx) { QkvInputGrad(ctx, layer, g.d_qkv, dx); });
  layer.norm1.Backward(ctx, g.d_norm, a.x, a.norm1, Write::kAccumulate, d);
}

void TransformerStack::LayerWeightGrad(Context& ctx, const StackActivations& acts,
                                       const Layer& layer, const LayerActivations& a,
                                       const LayerGradients& g) const {
  // Frozen too, a block has memory to give back.
  if (layer.is_sparse) layer.moe.WeightGrad(ctx, Pool(ctx), a.n2, a.moe.get());
  if (!layer.qkv.is_trained()) return;  // all or none
  if (!layer.is_sparse) {
    layer.down.WeightGrad(ctx, a.act, GatherOverTp(ctx, acts, g.d_out));
    layer.up.WeightGrad(ctx, GatherOverTp(ctx, acts, a.n2), local_.is_gated ? a.up : g.d_up);
  }
  layer.proj.WeightGrad(ctx, a.o, GatherOverTp(ctx, acts, g.d_mid));
  QkvWeightGrad(ctx, layer, GatherOverTp(ctx, acts, a.n1), g.d_qkv);
}

void TransformerStack::Forward(Context& ctx, const SequenceInputs& inputs, int begin,
                               const StackActivations& acts, const StackHooks& hooks,
                               const MoeInputs& moe) const {
  const int n = static_cast<int>(acts.layers.size());
  for (int i = 0; i < n; ++i) {
    const Tensor& out = i + 1 < n ? acts.layers[i + 1].x : acts.out;
    if (hooks.before_forward) hooks.before_forward(begin + i);
    LayerForward(ctx, inputs, acts, layers_[begin + i], acts.layers[i], moe, out);
    if (hooks.after_forward) hooks.after_forward(begin + i, out);
  }
}

void TransformerStack::Backward(Context& ctx, const SequenceInputs& inputs, int begin,
                                const StackActivations& acts,
                                const std::vector<LayerGradients>& grads, BackwardPart part,
                                const StackHooks& hooks, Tensor d, const MoeInputs& moe) const {
  const int n = static_cast<int>(acts.layers.size());
  OT_CHECK(static_cast<int>(grads.size()) >= (part == BackwardPart::kBoth ? 1 : n),
           "{} sets of gradients for {} layers", grads.size(), n);
  for (int i = n - 1; i >= 0; --i) {
    const LayerGradients& g = part == BackwardPart::kBoth ? grads[0] : grads[i];
    const Layer& layer = layers_[begin + i];
    const LayerActivations& a = acts.layers[i];
    OT_CHECK(part == BackwardPart::kBoth || a.recompute == Recompute::kNone,
             "a split backward keeps what it needs");
    if (part == BackwardPart::kWeight) {
      LayerWeightGrad(ctx, acts, layer, a, g);
    } else {
      if (hooks.before_backward) hooks.before_backward(begin + i, d);
      if (a.recompute == Recompute::kFull) LayerForwardAgain(ctx, inputs, acts, layer, a, moe);
      LayerInputGrad(ctx, inputs, acts, layer, a, g, part, d);
    }
    if (part != BackwardPart::kInput && hooks.after_weight_grad) hooks.after_weight_grad(begin + i);
  }
}

double TransformerStack::ForwardFlops(const std::vector<int64_t>& segments,
                                      const std::vector<int64_t>& windows) const {
  const StackConfig& c = config_;
  const double q = static_cast<double>(c.num_heads * c.head_dim);
  const double kv = static_cast<double>(c.num_kv_heads * c.head_dim);
  const double width = static_cast<double>(c.width), ffn = static_cast<double>(c.ffn);
  const double num_sparse = static_cast<double>(c.sparse_layers.size());
  const double projections = 2 * (width * (q + 2 * kv) + q * width);
  const double mlp = (c.is_gated ? 6 : 4) * width * ffn;
  int64_t num_rows = 0;
  for (int64_t length : segments) num_rows += length;
  const double rows = static_cast<double>(num_rows);
  const auto attention = [&](const std::vector<int64_t>& lengths) {
    double pairs = 0;
    for (int64_t length : lengths)
      pairs += static_cast<double>(length) * static_cast<double>(length);
    return 4 * pairs * q * (c.is_causal ? 0.5 : 1.0);
  };
  const double num_windowed =
      windows.empty() ? 0 : c.num_layers - static_cast<double>(c.full_layers.size());
  return projections * rows * c.num_layers + mlp * rows * (c.num_layers - num_sparse) +
         c.moe.ForwardFlops(num_rows) * num_sparse + attention(windows) * num_windowed +
         attention(segments) * (c.num_layers - num_windowed);
}

}  // namespace omnitrain
