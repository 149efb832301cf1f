#include "core/model/vision_tower.h"

#include <cmath>

#include "core/model/host_tables.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/rope/rope.h"
#include "kernels/rows/rows.h"

namespace omnitrain {
namespace {

const char kPrefix[] = "model.visual.";

// What a family fixes besides its sizes, with the names of its weights.
struct TowerParts {
  NormKind norm;
  bool has_patch_bias;
  std::vector<std::string> up;  // two: gate and up
  const char* down;
  const char *merger_norm, *merger_fc1, *merger_fc2;
};

const TowerParts& PartsOf(ModelFamily family) {
  static const TowerParts kQwen2 = {NormKind::kLayer, false,    {"mlp.fc1"}, "mlp.fc2",
                                    ".ln_q",          ".mlp.0", ".mlp.2"};
  static const TowerParts kQwen25 = {NormKind::kRms,  false,   {"mlp.gate_proj", "mlp.up_proj"},
                                     "mlp.down_proj", ".ln_q", ".mlp.0",
                                     ".mlp.2"};
  static const TowerParts kQwen3 = {NormKind::kLayer, true,    {"mlp.linear_fc1"},
                                    "mlp.linear_fc2", ".norm", ".linear_fc1",
                                    ".linear_fc2"};
  switch (family) {
    case ModelFamily::kQwen2Vl:
      return kQwen2;
    case ModelFamily::kQwen25Vl:
      return kQwen25;
    case ModelFamily::kQwen3Vl:
    case ModelFamily::kQwen3VlMoe:
      break;
  }
  return kQwen3;
}

StackConfig StackOf(const VisionConfig& v) {
  const TowerParts& parts = PartsOf(v.family);
  StackConfig c;
  c.name = "vision";
  c.group = ParamGroup::kVision;
  c.num_layers = v.depth;
  c.width = v.width;
  c.num_heads = c.num_kv_heads = v.num_heads;
  c.head_dim = v.head_dim();
  c.ffn = v.ffn_width;
  c.norm = parts.norm;
  c.norm_eps = v.norm_eps;
  c.has_qkv_bias = c.has_proj_bias = c.has_mlp_bias = true;
  c.is_gated = parts.up.size() == 2;
  c.activation = v.activation;
  c.full_layers = v.full_attention_layers;
  return c;
}

StackNames NamesOf(const VisionConfig& v) {
  const TowerParts& parts = PartsOf(v.family);
  StackNames n;
  n.layers = std::string(kPrefix) + "blocks.";
  n.norm1 = "norm1";
  n.qkv = {"attn.qkv"};
  n.proj = "attn.proj";
  n.norm2 = "norm2";
  n.up = parts.up;
  n.down = parts.down;
  return n;
}

ParamId AddPositions(ParamStore* params, const VisionConfig& v) {
  if (v.num_position_embeddings == 0) return -1;
  ParamSpec spec;
  spec.name = "vision.pos_embed.weight";
  spec.shape = {v.num_position_embeddings, v.width};
  spec.group = ParamGroup::kVision;
  spec.sharing = ParamSharing::kWhole;
  spec.hf_parts = {{std::string(kPrefix) + "pos_embed.weight",
                    0,
                    v.num_position_embeddings,
                    {v.num_position_embeddings, v.width}}};
  return params->Add(std::move(spec));
}

}  // namespace

Merger::Merger(ParamStore* params, const VisionConfig& vision, const std::string& name,
               const std::string& hf_prefix, NormOver norm_over)
    : params_(params),
      norm_over_(norm_over),
      width_(vision.width),
      merged_width_(vision.merged_dim()),
      norm_(params, PartsOf(vision.family).norm, name + ".norm", ParamGroup::kProjector,
            hf_prefix + PartsOf(vision.family).merger_norm,
            norm_over == NormOver::kEachPatch ? width_ : merged_width_, vision.norm_eps) {
  const auto linear = [&](const char* ours, const char* theirs, int64_t out) {
    return Linear(params, {name + ours,
                           ParamGroup::kProjector,
                           merged_width_,
                           {{hf_prefix + theirs, out}},
                           true,
                           {}});
  };
  fc1_ = linear(".fc1", PartsOf(vision.family).merger_fc1, merged_width_);
  fc2_ = linear(".fc2", PartsOf(vision.family).merger_fc2, vision.out_width);
}

Merger::Activations Merger::Carve(Carver& carver, int64_t num_patches) const {
  const DType dtype = params_->dtype();
  const int64_t N = num_patches * width_ / merged_width_;
  Activations a;
  a.normed = carver.Take(dtype, {N, merged_width_});
  a.stats = norm_.Carve(carver, {norm_over_ == NormOver::kEachPatch ? num_patches : N});
  a.fc1 = carver.Take(dtype, {N, merged_width_});
  a.act = carver.Take(dtype, {N, merged_width_});
  return a;
}

Tensor Merger::NormView(const Tensor& x) const {
  const int64_t D = norm_over_ == NormOver::kEachPatch ? width_ : merged_width_;
  return x.View({x.num_elements() / D, D});
}

void Merger::Forward(Context& ctx, const Tensor& x, const Activations& a, Tensor y) const {
  norm_.Forward(ctx, NormView(x), NormView(a.normed), a.stats);
  fc1_.Forward(ctx, a.normed, Write::kOverwrite, a.fc1);
  ActivationForward(ctx, Activation::kGeluErf, a.fc1, a.act);
  fc2_.Forward(ctx, a.act, Write::kOverwrite, y);
}

void Merger::Backward(Context& ctx, const Tensor& dy, const Tensor& x, const Activations& a,
                      Carver temp, Write write, Tensor dx) const {
  const Tensor d_act = temp.Take(params_->dtype(), a.act.shape);
  const Tensor d_normed = temp.Take(params_->dtype(), a.normed.shape);
  fc2_.WeightGrad(ctx, a.act, dy);
  fc2_.InputGrad(ctx, dy, Write::kOverwrite, d_act);
  ActivationBackward(ctx, Activation::kGeluErf, d_act, a.fc1, d_act);
  fc1_.WeightGrad(ctx, a.normed, d_act);
  fc1_.InputGrad(ctx, d_act, Write::kOverwrite, d_normed);
  // The norm's own weights need its backward even when nothing below is trained; dx may be dy then.
  const Tensor to = dx ? NormView(dx) : NormView(d_normed);
  norm_.Backward(ctx, NormView(d_normed), NormView(x), a.stats, dx ? write : Write::kOverwrite, to);
}

VisionTower::VisionTower(ParamStore* params, const VisionConfig& config)
    : config_(config),
      params_(params),
      patch_embed_(params, {"vision.patch_embed",
                            ParamGroup::kVision,
                            config.patch_dim(),
                            {{std::string(kPrefix) + "patch_embed.proj", config.width}},
                            PartsOf(config.family).has_patch_bias,
                            {config.width, config.in_channels, config.temporal_patch_size,
                             config.patch_size, config.patch_size}}),
      pos_embed_(AddPositions(params, config)),
      stack_(params, StackOf(config), NamesOf(config), {{0, config.depth}}) {
  mergers_.emplace_back(params, config, "vision.merger", std::string(kPrefix) + "merger",
                        Merger::NormOver::kEachPatch);
  for (size_t k = 0; k < config.deepstack_layers.size(); ++k) {
    mergers_.emplace_back(params, config, fmt::format("vision.deepstack.{}", k),
                          fmt::format("{}deepstack_merger_list.{}", kPrefix, k),
                          Merger::NormOver::kFoldedRow);
  }
}

int VisionTower::FeatureAfter(int layer) const {
  for (size_t k = 0; k < config_.deepstack_layers.size(); ++k) {
    if (config_.deepstack_layers[k] == layer) return static_cast<int>(k) + 1;
  }
  return -1;
}

VisionActivations VisionTower::Carve(Carver& carver, const ItemBatch& items,
                                     const RecomputePlan& recompute, Carver* scratch) const {
  const int64_t P = items.num_patches();
  const DType dtype = params_->dtype();
  VisionActivations a;
  a.num_patches = P;
  a.patches = carver.Take(dtype, {P, config_.patch_dim()});
  if (pos_embed_ >= 0) {
    a.pos_index = carver.Take(DType::kI32, {P, 4});
    a.pos_weight = carver.Take(dtype, {P, 4});
  }
  a.sequence.cos = carver.Take(StatsDType(dtype), {P, config_.head_dim() / 2});
  a.sequence.sin = carver.Take(StatsDType(dtype), {P, config_.head_dim() / 2});
  a.sequence.segments = CarveSegments(carver, items.cu_seqlens);
  if (config_.window_size > 0) a.sequence.windows = CarveSegments(carver, items.window_cu_seqlens);
  a.stack = stack_.Carve(carver, P, 0, config_.depth, recompute, scratch);
  for (const Merger& merger : mergers_) a.mergers.push_back(merger.Carve(carver, P));
  return a;
}

void VisionTower::Upload(Context& ctx, const ItemBatch& items, VisionActivations* a) const {
  OT_CHECK(items.patch_dim == config_.patch_dim() || items.num_patches() == 0,
           "patches of {} values for a tower of {}", items.patch_dim, config_.patch_dim());
  omnitrain::Upload(ctx, items.patches, a->patches);
  if (pos_embed_ >= 0) {
    const int side = static_cast<int>(std::lround(std::sqrt(config_.num_position_embeddings)));
    const InterpolationTable table = BuildInterpolationTable(items, side);
    omnitrain::Upload(ctx, table.index, a->pos_index);
    omnitrain::Upload(ctx, table.weight, a->pos_weight);
  }
  std::vector<float> cos(static_cast<size_t>(a->sequence.cos.num_elements())), sin(cos.size());
  BuildVisionRopeTables(config_.head_dim(), config_.rope_theta, items.coordinates.data(),
                        items.num_patches(), cos.data(), sin.data());
  omnitrain::Upload(ctx, cos, a->sequence.cos);
  omnitrain::Upload(ctx, sin, a->sequence.sin);
  omnitrain::Upload(ctx, items.cu_seqlens, a->sequence.segments.cu_seqlens);
  if (config_.window_size > 0) {
    omnitrain::Upload(ctx, items.window_cu_seqlens, a->sequence.windows.cu_seqlens);
  }
}

void VisionTower::Forward(Context& ctx, const VisionActivations& a,
                          const std::vector<Tensor>& features) const {
  OT_CHECK(features.size() == mergers_.size(), "{} features", features.size());
  if (a.num_patches == 0) return;
  const Tensor x = a.stack.input();
  patch_embed_.Forward(ctx, a.patches, Write::kOverwrite, x);
  if (pos_embed_ >= 0) {
    InterpolateRows(ctx, params_->value(pos_embed_), a.pos_index, a.pos_weight, Write::kAccumulate,
                    x);
  }
  StackHooks hooks;
  hooks.after_forward = [&](int layer, const Tensor& out) {
    const int k = FeatureAfter(layer);
    if (k >= 0) mergers_[k].Forward(ctx, out, a.mergers[k], features[k]);
  };
  stack_.Forward(ctx, a.sequence, 0, a.stack, hooks);
  mergers_[0].Forward(ctx, a.stack.out, a.mergers[0], features[0]);
}

void VisionTower::CarveTemporaries(Carver& carver, int64_t num_patches) const {
  carver.Take(params_->dtype(), {num_patches, config_.width});
  stack_.CarveGradients(carver, num_patches, 0, config_.depth, BackwardPart::kBoth);
  const int64_t N = num_patches / (config_.merge_size * config_.merge_size);
  carver.Take(params_->dtype(), {N, config_.merged_dim()});
  carver.Take(params_->dtype(), {N, config_.merged_dim()});
}

void VisionTower::Backward(Context& ctx, const VisionActivations& a,
                           const std::vector<Tensor>& d_features, Carver temp,
                           const std::function<void(int)>& on_layer_done) const {
  if (a.num_patches == 0) return;
  const bool trains_tower = !params_->is_group_frozen(ParamGroup::kVision);
  const Tensor d = temp.Take(params_->dtype(), {a.num_patches, config_.width});
  const LayerGradients grads =
      stack_.CarveGradients(temp, a.num_patches, 0, config_.depth, BackwardPart::kBoth);
  const auto output_of = [&](int layer) {
    return layer + 1 < config_.depth ? a.stack.layers[layer + 1].x : a.stack.out;
  };
  mergers_[0].Backward(ctx, d_features[0], a.stack.out, a.mergers[0], temp, Write::kOverwrite,
                       trains_tower ? d : Tensor());
  if (!trains_tower) {
    for (size_t k = 1; k < mergers_.size(); ++k) {
      mergers_[k].Backward(ctx, d_features[k], output_of(config_.deepstack_layers[k - 1]),
                           a.mergers[k], temp, Write::kOverwrite, Tensor());
    }
    return;
  }
  StackHooks hooks;
  hooks.after_weight_grad = on_layer_done;
  hooks.before_backward = [&](int layer, const Tensor& dx) {
    const int k = FeatureAfter(layer);
    if (k >= 0) {
      mergers_[k].Backward(ctx, d_features[k], output_of(layer), a.mergers[k], temp,
                           Write::kAccumulate, dx);
    }
  };
  stack_.Backward(ctx, a.sequence, 0, a.stack, {grads}, BackwardPart::kBoth, hooks, d);
  if (pos_embed_ >= 0) {
    InterpolateRowsBackward(ctx, d, a.pos_index, a.pos_weight, params_->grad(pos_embed_));
  }
  patch_embed_.WeightGrad(ctx, a.patches, d);
}

double VisionTower::ForwardFlops(const std::vector<int64_t>& segments,
                                 const std::vector<int64_t>& windows) const {
  double patches = 0;
  for (int64_t s : segments) patches += static_cast<double>(s);
  const double merged = static_cast<double>(config_.merged_dim());
  const double rows = patches * config_.width / merged;
  return stack_.ForwardFlops(segments, windows) +
         2 * patches * config_.patch_dim() * config_.width +
         2 * rows * static_cast<double>(mergers_.size()) * merged * (merged + config_.out_width);
}

}  // namespace omnitrain
