#include "core/model/language_model.h"

#include "core/model/host_tables.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/gemm/gemm.h"
#include "kernels/rows/rows.h"

namespace omnitrain {
namespace {

const char kPrefix[] = "model.language_model.";

StackConfig StackOf(const TextConfig& t) {
  StackConfig c;
  c.name = "llm";
  c.group = ParamGroup::kLlm;
  c.num_layers = t.num_layers;
  c.width = t.width;
  c.num_heads = t.num_heads;
  c.num_kv_heads = t.num_kv_heads;
  c.head_dim = t.head_dim;
  c.ffn = t.ffn_width;
  c.norm = NormKind::kRms;
  c.norm_eps = t.rms_eps;
  c.has_qk_norm = t.qk_norm;
  c.has_qkv_bias = t.attention_bias;
  c.is_gated = true;
  c.activation = t.activation;
  c.is_causal = true;
  return c;
}

StackNames Names() {
  StackNames n;
  n.layers = std::string(kPrefix) + "layers.";
  n.norm1 = "input_layernorm";
  n.qkv = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
  n.q_norm = "self_attn.q_norm";
  n.k_norm = "self_attn.k_norm";
  n.proj = "self_attn.o_proj";
  n.norm2 = "post_attention_layernorm";
  n.up = {"mlp.gate_proj", "mlp.up_proj"};
  n.down = "mlp.down_proj";
  return n;
}

ParamId AddMatrix(ParamStore* params, const char* name, const std::string& hf_name,
                  const TextConfig& config) {
  ParamSpec spec;
  spec.name = name;
  spec.shape = {config.vocab_size, config.width};
  spec.hf_parts = {{hf_name, 0, config.vocab_size, {config.vocab_size, config.width}}};
  return params->Add(std::move(spec));
}

// A tied embedding is the head of the last stage too.
bool HoldsEmbedding(const TextConfig& config, const LlmPlace& place) {
  return place.has_first_stage() || (config.tie_word_embeddings && place.has_last_stage());
}

std::vector<LayerRange> HeldLayers(const TextConfig& config, const LlmPlace& place) {
  std::vector<LayerRange> ranges;
  for (int stage : place.stages) ranges.push_back(place.LayersOf(stage, config.num_layers));
  return ranges;
}

/// The rows that predict something, in order.
std::vector<int32_t> LossRows(const MicroBatch& batch) {
  std::vector<int32_t> rows;
  for (size_t i = 0; i < batch.labels.size(); ++i) {
    if (batch.labels[i] >= 0) rows.push_back(static_cast<int32_t>(i));
  }
  return rows;
}

template <typename T>
std::vector<T> Pick(const std::vector<T>& values, const std::vector<int32_t>& rows) {
  std::vector<T> picked;
  for (int32_t row : rows) picked.push_back(values[static_cast<size_t>(row)]);
  return picked;
}

}  // namespace

LanguageModel::LanguageModel(ParamStore* params, const TextConfig& config, const LlmPlace& place)
    : config_(config),
      place_(place),
      params_(params),
      embed_(HoldsEmbedding(config, place)
                 ? AddMatrix(params, "llm.embed.weight",
                             std::string(kPrefix) + "embed_tokens.weight", config)
                 : -1),
      stack_(params, StackOf(config), Names(), HeldLayers(config, place)) {
  if (!place.has_last_stage()) return;
  final_norm_ = Norm(params, NormKind::kRms, "llm.final_norm", ParamGroup::kLlm,
                     std::string(kPrefix) + "norm", config.width, config.rms_eps);
  if (!config.tie_word_embeddings) {
    head_ = AddMatrix(params, "llm.head.weight", "lm_head.weight", config);
  }
}

RowRuns LanguageModel::RowsAt(const MicroBatch& batch, int cp_rank, int tp_rank) const {
  return {{0, batch.num_tokens()}};
}

LocalItems LanguageModel::ItemsAt(const MicroBatch& batch, int cp_rank, int tp_rank) const {
  std::vector<int32_t> local(static_cast<size_t>(batch.num_tokens()), -1);
  int32_t next = 0;
  for (const RowRun& run : RowsAt(batch, cp_rank, tp_rank)) {
    for (int64_t row = run.begin; row < run.end(); ++row, ++next) {
      if (row < batch.num_tokens()) local[static_cast<size_t>(row)] = next;
    }
  }
  LocalItems items;
  for (size_t n = 0; n < batch.item_rows.size(); ++n) {
    const int32_t row = local[static_cast<size_t>(batch.item_rows[n])];
    if (row < 0) continue;
    items.encoder_rows.push_back(static_cast<int32_t>(n));
    items.rows.push_back(row);
  }
  return items;
}

bool LanguageModel::TakesFeature(int stage, int feature) const {
  if (feature == 0) return stage == 0;
  const LayerRange layers = LayersOf(stage);
  return feature - 1 >= layers.begin && feature - 1 < layers.end;
}

LlmActivations LanguageModel::Carve(Carver& carver, const MicroBatch& batch, int stage,
                                    LossMode mode, Recompute recompute) const {
  const int64_t T = batch.num_tokens();
  const DType dtype = params_->dtype();
  const LayerRange layers = LayersOf(stage);
  LlmActivations a;
  a.stage = stage;
  a.num_rows = T;
  a.num_item_rows = static_cast<int64_t>(batch.item_rows.size());
  if (stage == 0) a.embed_ids = carver.Take(DType::kI32, {T});
  a.item_rows = carver.Take(DType::kI32, {a.num_item_rows});
  a.sequence.cos = carver.Take(StatsDType(dtype), {T, config_.head_dim / 2});
  a.sequence.sin = carver.Take(StatsDType(dtype), {T, config_.head_dim / 2});
  a.sequence.segments = CarveSegments(carver, batch.cu_seqlens);
  a.stack = stack_.Carve(carver, T, layers.begin, layers.end, recompute);
  if (stage != place_.num_stages - 1) return a;
  const int64_t M = static_cast<int64_t>(LossRows(batch).size());
  a.loss_rows = carver.Take(DType::kI32, {M});
  a.labels = carver.Take(DType::kI32, {M});
  if (!batch.loss_weights.empty()) a.weights = carver.Take(DType::kF32, {M});
  a.final_norm = final_norm_.Carve(carver, {T});
  a.hidden = carver.Take(dtype, {T, config_.width});
  if (mode == LossMode::kGradients) a.d_hidden = carver.Take(dtype, {T, config_.width});
  return a;
}

void LanguageModel::Upload(Context& ctx, const MicroBatch& batch, LlmActivations* a) const {
  if (a->embed_ids) {
    std::vector<int32_t> embed_ids = batch.ids;
    for (int32_t row : batch.item_rows) embed_ids[row] = -1;
    omnitrain::Upload(ctx, embed_ids, a->embed_ids);
  }
  if (a->loss_rows) {
    const std::vector<int32_t> loss_rows = LossRows(batch);
    omnitrain::Upload(ctx, loss_rows, a->loss_rows);
    omnitrain::Upload(ctx, Pick(batch.labels, loss_rows), a->labels);
    if (a->weights) omnitrain::Upload(ctx, Pick(batch.loss_weights, loss_rows), a->weights);
  }
  omnitrain::Upload(ctx, batch.item_rows, a->item_rows);
  std::vector<float> cos(static_cast<size_t>(a->sequence.cos.num_elements())), sin(cos.size());
  BuildMropeTables(config_.rope, batch.position_ids.data(), a->num_rows, cos.data(), sin.data());
  omnitrain::Upload(ctx, cos, a->sequence.cos);
  omnitrain::Upload(ctx, sin, a->sequence.sin);
  omnitrain::Upload(ctx, batch.cu_seqlens, a->sequence.segments.cu_seqlens);
}

void LanguageModel::Forward(Context& ctx, const LlmActivations& a,
                            const std::vector<Tensor>& features, LossMode mode,
                            Tensor loss_sum) const {
  if (a.stage == 0) {
    const Tensor x = a.input();
    GatherRows(ctx, params_->value(embed_), a.embed_ids, Write::kOverwrite, x);
    if (a.num_item_rows > 0) ScatterRows(ctx, features[0], a.item_rows, Write::kOverwrite, x);
  }
  StackHooks hooks;
  hooks.after_forward = [&](int layer, const Tensor& out) {
    const size_t k = static_cast<size_t>(layer) + 1;
    if (a.num_item_rows > 0 && k < features.size()) {
      ScatterRows(ctx, features[k], a.item_rows, Write::kAccumulate, out);
    }
  };
  stack_.Forward(ctx, a.sequence, LayersOf(a.stage).begin, a.stack, hooks);
  if (a.stage != place_.num_stages - 1) return;
  final_norm_.Forward(ctx, a.output(), a.hidden, a.final_norm);
  if (mode == LossMode::kNone) return;
  const ParamId head = head_ >= 0 ? head_ : embed_;
  const bool with_gradients = mode == LossMode::kGradients;
  LinearCrossEntropy(ctx, a.hidden, HeadWeight(), a.loss_rows, a.labels, a.weights, loss_sum,
                     with_gradients ? a.d_hidden : Tensor(),
                     with_gradients ? params_->grad(head) : Tensor());
}

std::vector<LayerGradients> LanguageModel::CarveGradients(Carver& carver, const MicroBatch& batch,
                                                          int stage, BackwardPart part) const {
  const LayerRange layers = LayersOf(stage);
  const int num_sets = part == BackwardPart::kBoth ? 1 : layers.end - layers.begin;
  std::vector<LayerGradients> grads;
  for (int i = 0; i < num_sets; ++i) {
    grads.push_back(stack_.CarveGradients(carver, batch.num_tokens(), part));
  }
  return grads;
}

void LanguageModel::Backward(Context& ctx, const LlmActivations& a,
                             const std::vector<LayerGradients>& grads, BackwardPart part,
                             const std::vector<Tensor>& d_features, Tensor d,
                             const std::function<void(int)>& on_layer_done) const {
  StackHooks hooks;
  hooks.after_weight_grad = on_layer_done;
  const int begin = LayersOf(a.stage).begin;
  if (part == BackwardPart::kWeight) {
    stack_.Backward(ctx, a.sequence, begin, a.stack, grads, part, hooks, d);
    return;
  }
  if (a.stage == place_.num_stages - 1) {
    final_norm_.Backward(ctx, a.d_hidden, a.output(), a.final_norm, Write::kOverwrite, d);
  }
  hooks.before_backward = [&](int layer, const Tensor& dx) {
    const size_t k = static_cast<size_t>(layer) + 1;
    if (a.num_item_rows > 0 && k < d_features.size()) {
      GatherRows(ctx, dx, a.item_rows, Write::kOverwrite, d_features[k]);
    }
  };
  stack_.Backward(ctx, a.sequence, begin, a.stack, grads, part, hooks, d);
  if (a.stage != 0) return;
  if (a.num_item_rows > 0 && !d_features.empty()) {
    GatherRows(ctx, d, a.item_rows, Write::kOverwrite, d_features[0]);
  }
  if (!params_->is_frozen(embed_)) ScatterAddRows(ctx, d, a.embed_ids, params_->grad(embed_));
}

void LanguageModel::Logits(Context& ctx, const LlmActivations& a, int64_t begin,
                           Tensor logits) const {
  LinearForward(ctx, a.hidden.Rows(begin, logits.rows()), HeadWeight(), Tensor(), Write::kOverwrite,
                logits);
}

double LanguageModel::ForwardFlops(const std::vector<int64_t>& segments,
                                   int64_t num_loss_tokens) const {
  return stack_.ForwardFlops(segments) + 2.0 * static_cast<double>(num_loss_tokens) *
                                             static_cast<double>(config_.width) *
                                             static_cast<double>(config_.vocab_size);
}

}  // namespace omnitrain
