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

ParamId AddMatrix(ParamStore* params, const char* name, const std::string& hf_name, int64_t rows,
                  int64_t columns) {
  ParamSpec spec;
  spec.name = name;
  spec.shape = {rows, columns};
  spec.hf_parts = {{hf_name, 0, rows, {rows, columns}}};
  return params->Add(std::move(spec));
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

LanguageModel::LanguageModel(ParamStore* params, const TextConfig& config)
    : config_(config),
      params_(params),
      embed_(AddMatrix(params, "llm.embed.weight", std::string(kPrefix) + "embed_tokens.weight",
                       config.vocab_size, config.width)),
      stack_(params, StackOf(config), Names()),
      final_norm_(params, NormKind::kRms, "llm.final_norm", ParamGroup::kLlm,
                  std::string(kPrefix) + "norm", config.width, config.rms_eps) {
  if (!config.tie_word_embeddings) {
    head_ = AddMatrix(params, "llm.head.weight", "lm_head.weight", config.vocab_size, config.width);
  }
}

LlmActivations LanguageModel::Carve(Carver& carver, const MicroBatch& batch, LossMode mode,
                                    Recompute recompute) const {
  const int64_t T = batch.num_tokens();
  const DType dtype = params_->dtype();
  LlmActivations a;
  a.num_tokens = T;
  a.num_item_rows = static_cast<int64_t>(batch.item_rows.size());
  a.embed_ids = carver.Take(DType::kI32, {T});
  const int64_t M = static_cast<int64_t>(LossRows(batch).size());
  a.loss_rows = carver.Take(DType::kI32, {M});
  a.labels = carver.Take(DType::kI32, {M});
  if (!batch.loss_weights.empty()) a.weights = carver.Take(DType::kF32, {M});
  a.item_rows = carver.Take(DType::kI32, {a.num_item_rows});
  a.sequence.cos = carver.Take(StatsDType(dtype), {T, config_.head_dim / 2});
  a.sequence.sin = carver.Take(StatsDType(dtype), {T, config_.head_dim / 2});
  a.sequence.segments = CarveSegments(carver, batch.cu_seqlens);
  a.stack = stack_.Carve(carver, T, 0, config_.num_layers, recompute);
  a.final_norm = final_norm_.Carve(carver, {T});
  a.hidden = carver.Take(dtype, {T, config_.width});
  if (mode == LossMode::kGradients) a.d_hidden = carver.Take(dtype, {T, config_.width});
  return a;
}

void LanguageModel::Upload(Context& ctx, const MicroBatch& batch, LlmActivations* a) const {
  std::vector<int32_t> embed_ids = batch.ids;
  for (int32_t row : batch.item_rows) embed_ids[row] = -1;
  omnitrain::Upload(ctx, embed_ids, a->embed_ids);
  const std::vector<int32_t> loss_rows = LossRows(batch);
  omnitrain::Upload(ctx, loss_rows, a->loss_rows);
  omnitrain::Upload(ctx, Pick(batch.labels, loss_rows), a->labels);
  if (a->weights) omnitrain::Upload(ctx, Pick(batch.loss_weights, loss_rows), a->weights);
  omnitrain::Upload(ctx, batch.item_rows, a->item_rows);
  std::vector<float> cos(static_cast<size_t>(a->sequence.cos.num_elements())), sin(cos.size());
  BuildMropeTables(config_.rope, batch.position_ids.data(), a->num_tokens, cos.data(), sin.data());
  omnitrain::Upload(ctx, cos, a->sequence.cos);
  omnitrain::Upload(ctx, sin, a->sequence.sin);
  omnitrain::Upload(ctx, batch.cu_seqlens, a->sequence.segments.cu_seqlens);
}

void LanguageModel::Forward(Context& ctx, const LlmActivations& a,
                            const std::vector<Tensor>& features, LossMode mode,
                            Tensor loss_sum) const {
  const Tensor x = a.stack.input();
  GatherRows(ctx, params_->value(embed_), a.embed_ids, Write::kOverwrite, x);
  if (a.num_item_rows > 0) {
    ScatterRows(ctx, features[0], a.item_rows, Write::kOverwrite, x);
  }
  StackHooks hooks;
  hooks.after_forward = [&](int layer, const Tensor& out) {
    const size_t k = static_cast<size_t>(layer) + 1;
    if (a.num_item_rows > 0 && k < features.size()) {
      ScatterRows(ctx, features[k], a.item_rows, Write::kAccumulate, out);
    }
  };
  stack_.Forward(ctx, a.sequence, 0, a.stack, hooks);
  final_norm_.Forward(ctx, a.stack.out, a.hidden, a.final_norm);
  if (mode == LossMode::kNone) return;
  const ParamId head = head_ >= 0 ? head_ : embed_;
  const bool with_gradients = mode == LossMode::kGradients;
  LinearCrossEntropy(ctx, a.hidden, HeadWeight(), a.loss_rows, a.labels, a.weights, loss_sum,
                     with_gradients ? a.d_hidden : Tensor(),
                     with_gradients ? params_->grad(head) : Tensor());
}

void LanguageModel::CarveTemporaries(Carver& carver, int64_t num_tokens) const {
  carver.Take(params_->dtype(), {num_tokens, config_.width});
  stack_.CarveGradients(carver, num_tokens, BackwardPart::kBoth);
}

void LanguageModel::Backward(Context& ctx, const LlmActivations& a,
                             const std::vector<Tensor>& d_features, Carver temp,
                             const std::function<void(int)>& on_layer_done) const {
  const Tensor d = temp.Take(params_->dtype(), {a.num_tokens, config_.width});
  const LayerGradients grads = stack_.CarveGradients(temp, a.num_tokens, BackwardPart::kBoth);
  final_norm_.Backward(ctx, a.d_hidden, a.stack.out, a.final_norm, Write::kOverwrite, d);
  StackHooks hooks;
  hooks.after_weight_grad = on_layer_done;
  hooks.before_backward = [&](int layer, const Tensor& dx) {
    const size_t k = static_cast<size_t>(layer) + 1;
    if (a.num_item_rows > 0 && k < d_features.size()) {
      GatherRows(ctx, dx, a.item_rows, Write::kOverwrite, d_features[k]);
    }
  };
  stack_.Backward(ctx, a.sequence, 0, a.stack, {grads}, BackwardPart::kBoth, hooks, d);
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
