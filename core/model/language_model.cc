#include "core/model/language_model.h"

#include <algorithm>

#include "core/model/check_place.h"
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
  for (int layer = 0; layer < t.num_layers; ++layer) {
    if (t.IsMoeLayer(layer)) c.sparse_layers.push_back(layer);
  }
  c.moe.width = t.width;
  c.moe.num_experts = t.num_experts;
  c.moe.top_k = t.experts_per_token;
  c.moe.ffn = t.expert_ffn_width;
  c.moe.activation = t.activation;
  c.moe.weights = t.norm_topk_prob ? MoeWeights::kNormalized : MoeWeights::kPlain;
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
  n.moe = "mlp";
  return n;
}

TextConfig Checked(const TextConfig& config, const LlmPlace& place) {
  ParallelDegrees degrees;
  degrees.tp = place.tp.size;
  degrees.cp = place.cp.size;
  degrees.ep = place.ep.size;
  degrees.pp = place.num_stages;
  CheckPlace(config, degrees);
  return config;
}

VocabRange VocabOf(const TextConfig& config, const AxisSeat& tp) {
  const int64_t first = config.vocab_size * tp.rank / tp.size;
  return {first, config.vocab_size * (tp.rank + 1) / tp.size - first};
}

ParamId AddMatrix(ParamStore* params, const char* name, const std::string& hf_name,
                  const TextConfig& config, const LlmPlace& place) {
  const VocabRange slice = VocabOf(config, place.tp);
  ParamSpec spec;
  spec.name = name;
  spec.shape = {slice.count, config.width};
  spec.hf_parts = {{hf_name, 0, slice.count, {config.vocab_size, config.width}, slice.first, 0}};
  if (config.tie_word_embeddings && !(place.has_first_stage() && place.has_last_stage())) {
    spec.sharing = ParamSharing::kTied;
  }
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

/// Which of `rows` predict something, in order.
std::vector<int32_t> LossRows(const MicroBatch& batch, const std::vector<int32_t>& rows) {
  std::vector<int32_t> loss_rows;
  if (batch.labels.empty()) return loss_rows;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] >= 0 && batch.labels[rows[i]] >= 0) loss_rows.push_back(static_cast<int32_t>(i));
  }
  return loss_rows;
}

template <typename T>
std::vector<T> Pick(const std::vector<T>& values, const std::vector<int32_t>& rows) {
  std::vector<T> picked;
  picked.reserve(rows.size());
  for (int32_t row : rows) picked.push_back(values[static_cast<size_t>(row)]);
  return picked;
}

}  // namespace

LanguageModel::LanguageModel(ParamStore* params, const TextConfig& config, const LlmPlace& place)
    : config_(Checked(config, place)),
      place_(place),
      params_(params),
      embed_(HoldsEmbedding(config, place)
                 ? AddMatrix(params, "llm.embed.weight",
                             std::string(kPrefix) + "embed_tokens.weight", config, place)
                 : -1),
      stack_(params, StackOf(config), Names(), HeldLayers(config, place), place) {
  if (!place.has_last_stage()) return;
  final_norm_ = Norm(params, NormKind::kRms, "llm.final_norm", ParamGroup::kLlm,
                     std::string(kPrefix) + "norm", config.width, config.rms_eps);
  if (!config.tie_word_embeddings) {
    head_ = AddMatrix(params, "llm.head.weight", "lm_head.weight", config, place);
  }
}

VocabRange LanguageModel::vocab() const { return VocabOf(config_, place_.tp); }

RowLayout LanguageModel::LayoutOf(const MicroBatch& batch) const {
  return MakeRowLayout(batch.num_tokens(), batch.cu_seqlens, place_, stack_.heads());
}

RowRuns LanguageModel::ContextRowsAt(const MicroBatch& batch, int cp_rank) const {
  return LayoutOf(batch).CpRows(cp_rank);
}

RowRuns LanguageModel::RowsAt(const MicroBatch& batch, int cp_rank, int tp_rank) const {
  return LayoutOf(batch).LocalRows(cp_rank, tp_rank);
}

std::vector<int32_t> LanguageModel::ContextRows(const MicroBatch& batch) const {
  std::vector<int32_t> rows;
  for (const RowRun& run : ContextRowsAt(batch, place_.cp.rank)) {
    for (int64_t row = run.begin; row < run.end(); ++row) {
      rows.push_back(row < batch.num_tokens() ? static_cast<int32_t>(row) : -1);
    }
  }
  return rows;
}

LocalItems LanguageModel::ItemsAt(const MicroBatch& batch, int cp_rank, int tp_rank) const {
  const RowRuns runs = RowsAt(batch, cp_rank, tp_rank);
  LocalItems items;
  for (size_t n = 0; n < batch.item_rows.size(); ++n) {
    int64_t before = 0;  // local rows in front of the run
    for (const RowRun& run : runs) {
      const int64_t row = batch.item_rows[n] - run.begin;
      if (row >= 0 && row < run.count) {
        items.encoder_rows.push_back(static_cast<int32_t>(n));
        items.rows.push_back(static_cast<int32_t>(before + row));
      }
      before += run.count;
    }
  }
  return items;
}

MoeBalance LanguageModel::BalanceOf(const MicroBatch& batch) const {
  MoeBalance balance;
  const int num_sparse = config_.num_moe_layers();
  if (num_sparse == 0) return balance;
  balance.scale =
      config_.router_aux_loss_coef * static_cast<double>(batch.num_loss_tokens()) / num_sparse;
  balance.num_rows = batch.num_tokens() - batch.num_padding();
  int64_t end = 0;
  for (const RowRun& run : RowsAt(batch, place_.cp.rank, place_.tp.rank)) {
    OT_CHECK(run.begin >= end, "row {} behind row {}: padding may not come last", run.begin, end);
    end = run.end();
    balance.num_rows_here += std::clamp<int64_t>(balance.num_rows - run.begin, 0, run.count);
  }
  if (place_.tp.size * place_.cp.size > 1) balance.comm = place_.rows;
  return balance;
}

bool LanguageModel::TakesFeature(int stage, int feature) const {
  if (feature == 0) return stage == 0;
  const LayerRange layers = LayersOf(stage);
  return feature - 1 >= layers.begin && feature - 1 < layers.end;
}

LlmActivations LanguageModel::Carve(Carver& carver, const MicroBatch& batch, int stage,
                                    LossMode mode, const RecomputePlan& recompute,
                                    Carver* scratch) const {
  const RowLayout layout = LayoutOf(batch);
  const int64_t Tc = layout.rows_per_cp_rank(), Tl = Tc / place_.tp.size;
  const DType dtype = params_->dtype();
  const LayerRange layers = LayersOf(stage);
  LlmActivations a;
  a.stage = stage;
  a.num_rows = Tl;
  a.num_item_rows =
      static_cast<int64_t>(ItemsAt(batch, place_.cp.rank, place_.tp.rank).rows.size());
  if (stage == 0) a.embed_ids = carver.Take(DType::kI32, {Tc});
  a.item_rows = carver.Take(DType::kI32, {a.num_item_rows});
  a.sequence.cos = carver.Take(StatsDType(dtype), {Tc, config_.head_dim / 2});
  a.sequence.sin = carver.Take(StatsDType(dtype), {Tc, config_.head_dim / 2});
  if (place_.cp.size > 1) {
    a.sequence.context = stack_.context().Carve(carver, layout);
  } else {
    a.sequence.segments = CarveSegments(carver, layout.cu_seqlens);
  }
  a.stack = stack_.Carve(carver, Tc, layers.begin, layers.end, recompute, scratch);
  a.balance = BalanceOf(batch);
  if (stage != place_.num_stages - 1) return a;
  const int64_t M = static_cast<int64_t>(LossRows(batch, ContextRows(batch)).size());
  a.loss_rows = carver.Take(DType::kI32, {M});
  a.labels = carver.Take(DType::kI32, {M});
  if (!batch.loss_weights.empty()) a.weights = carver.Take(DType::kF32, {M});
  a.final_norm = final_norm_.Carve(carver, {Tl});
  a.hidden = carver.Take(dtype, {Tl, config_.width});
  if (mode == LossMode::kGradients) a.d_hidden = carver.Take(dtype, {Tc, config_.width});
  return a;
}

void LanguageModel::UploadEmbedIds(Context& ctx, const MicroBatch& batch,
                                   const std::vector<int32_t>& rows, Tensor embed_ids) const {
  std::vector<int32_t> ids = batch.ids;
  for (int32_t row : batch.item_rows) ids[row] = -1;
  const VocabRange slice = vocab();
  std::vector<int32_t> local;
  local.reserve(rows.size());
  for (int32_t row : rows) {
    const int64_t id = row >= 0 ? ids[row] : -1;
    OT_CHECK(id < config_.vocab_size, "id {} in row {}, the vocabulary is {}", id, row,
             config_.vocab_size);
    const bool is_here = id >= slice.first && id < slice.first + slice.count;
    local.push_back(is_here ? static_cast<int32_t>(id - slice.first) : -1);
  }
  omnitrain::Upload(ctx, local, embed_ids);
}

void LanguageModel::Upload(Context& ctx, const MicroBatch& batch, LlmActivations* a) const {
  const std::vector<int32_t> rows = ContextRows(batch);
  if (a->embed_ids) UploadEmbedIds(ctx, batch, rows, a->embed_ids);
  if (a->loss_rows) {
    const std::vector<int32_t> loss_rows = LossRows(batch, rows), from = Pick(rows, loss_rows);
    omnitrain::Upload(ctx, loss_rows, a->loss_rows);
    omnitrain::Upload(ctx, Pick(batch.labels, from), a->labels);
    if (a->weights) omnitrain::Upload(ctx, Pick(batch.loss_weights, from), a->weights);
  }
  omnitrain::Upload(ctx, ItemsAt(batch, place_.cp.rank, place_.tp.rank).rows, a->item_rows);
  // Padding stands at position 0.
  std::vector<int64_t> positions(3 * rows.size());
  for (size_t i = 0; i < positions.size(); ++i) {
    const int64_t row = rows[i % rows.size()], axis = static_cast<int64_t>(i / rows.size());
    if (row >= 0) positions[i] = batch.position_ids[axis * batch.num_tokens() + row];
  }
  std::vector<float> cos(static_cast<size_t>(a->sequence.cos.num_elements())), sin(cos.size());
  BuildMropeTables(config_.rope, positions.data(), static_cast<int64_t>(rows.size()), cos.data(),
                   sin.data());
  omnitrain::Upload(ctx, cos, a->sequence.cos);
  omnitrain::Upload(ctx, sin, a->sequence.sin);
  if (place_.cp.size > 1) {
    stack_.context().Upload(ctx, a->sequence.context);
  } else {
    omnitrain::Upload(ctx, LayoutOf(batch).cu_seqlens, a->sequence.segments.cu_seqlens);
  }
}

void LanguageModel::Embed(Context& ctx, const LlmActivations& a) const {
  const Tensor& table = params_->value(embed_);
  if (place_.tp.size == 1) {
    return GatherRows(ctx, table, a.embed_ids, Write::kOverwrite, a.input());
  }
  // A row is in one slice and zero in the others: the sum is exact.
  GatherRows(ctx, table, a.embed_ids, Write::kOverwrite, a.stack.wide);
  stack_.SumOverTp(ctx, a.stack.wide, a.input());
}

void LanguageModel::Loss(Context& ctx, const LlmActivations& a, LossMode mode,
                         Tensor loss_sum) const {
  const ParamId head = head_ >= 0 ? head_ : embed_;
  const bool with_gradients = mode == LossMode::kGradients;
  const AxisSeat& tp = place_.tp;
  VocabShard shard;
  shard.first = vocab().first;
  shard.vocabulary = config_.vocab_size;
  shard.widest = (config_.vocab_size + tp.size - 1) / tp.size;
  shard.max = [&](const Tensor& values) {
    tp.comm->AllReduce(values, ReduceOp::kMax, ctx.stream()).Wait(ctx.stream());
  };
  shard.sum = [&](const Tensor& values) {
    tp.comm->AllReduce(values, ReduceOp::kSum, ctx.stream()).Wait(ctx.stream());
  };
  LinearCrossEntropy(ctx, stack_.GatherOverTp(ctx, a.stack, a.hidden), HeadWeight(), a.loss_rows,
                     a.labels, a.weights, loss_sum, with_gradients ? a.d_hidden : Tensor(),
                     with_gradients ? params_->grad(head) : Tensor(),
                     tp.size > 1 ? &shard : nullptr);
}

void LanguageModel::Forward(Context& ctx, const LlmActivations& a,
                            const std::vector<Tensor>& features, LossMode mode, Tensor loss_sum,
                            const StackHooks& hooks) const {
  if (a.stage == 0) {
    Embed(ctx, a);
    if (a.num_item_rows > 0) {
      ScatterRows(ctx, features[0], a.item_rows, Write::kOverwrite, a.input());
    }
  }
  StackHooks with_features = hooks;
  with_features.after_forward = [&](int layer, const Tensor& out) {
    const size_t k = static_cast<size_t>(layer) + 1;
    if (a.num_item_rows > 0 && k < features.size()) {
      ScatterRows(ctx, features[k], a.item_rows, Write::kAccumulate, out);
    }
    if (hooks.after_forward) hooks.after_forward(layer, out);
  };
  MoeInputs moe;
  moe.has_backward = mode == LossMode::kGradients;
  if (moe.has_backward && a.balance.scale != 0) {
    OT_CHECK(a.balance.comm != nullptr || place_.tp.size * place_.cp.size == 1,
             "no communicator of the ranks that share a micro-batch");
    moe.balance = a.balance;
    moe.balance.loss_sum = loss_sum;
  }
  stack_.Forward(ctx, a.sequence, LayersOf(a.stage).begin, a.stack, with_features, moe);
  if (a.stage != place_.num_stages - 1) return;
  final_norm_.Forward(ctx, a.output(), a.hidden, a.final_norm);
  if (mode != LossMode::kNone) Loss(ctx, a, mode, loss_sum);
}

std::vector<LayerGradients> LanguageModel::CarveGradients(Carver& carver, const MicroBatch& batch,
                                                          int stage, BackwardPart part) const {
  const LayerRange layers = LayersOf(stage);
  const int64_t Tc = LayoutOf(batch).rows_per_cp_rank();
  if (part == BackwardPart::kBoth) {
    return {stack_.CarveGradients(carver, Tc, layers.begin, layers.end, part)};
  }
  std::vector<LayerGradients> grads;
  for (int i = layers.begin; i < layers.end; ++i) {
    grads.push_back(stack_.CarveGradients(carver, Tc, i, i + 1, part));
  }
  return grads;
}

void LanguageModel::Backward(Context& ctx, const LlmActivations& a,
                             const std::vector<LayerGradients>& grads, BackwardPart part,
                             const std::vector<Tensor>& d_features, Tensor d,
                             const StackHooks& hooks) const {
  const int begin = LayersOf(a.stage).begin;
  if (part == BackwardPart::kWeight) {
    stack_.Backward(ctx, a.sequence, begin, a.stack, grads, part, hooks, d);
    return;
  }
  if (a.stage == place_.num_stages - 1) {
    if (place_.tp.size > 1) stack_.SumOverTp(ctx, a.d_hidden, d);
    final_norm_.Backward(ctx, place_.tp.size > 1 ? d : a.d_hidden, a.output(), a.final_norm,
                         Write::kOverwrite, d);
  }
  StackHooks with_features = hooks;
  with_features.before_backward = [&](int layer, const Tensor& dx) {
    if (hooks.before_backward) hooks.before_backward(layer, dx);
    const size_t k = static_cast<size_t>(layer) + 1;
    if (a.num_item_rows > 0 && k < d_features.size()) {
      GatherRows(ctx, dx, a.item_rows, Write::kOverwrite, d_features[k]);
    }
  };
  MoeInputs moe;
  moe.balance = a.balance;
  stack_.Backward(ctx, a.sequence, begin, a.stack, grads, part, with_features, d, moe);
  if (a.stage != 0) return;
  if (a.num_item_rows > 0 && !d_features.empty()) {
    GatherRows(ctx, d, a.item_rows, Write::kOverwrite, d_features[0]);
  }
  if (params_->is_frozen(embed_)) return;
  ScatterAddRows(ctx, stack_.GatherOverTp(ctx, a.stack, d), a.embed_ids, params_->grad(embed_));
}

void LanguageModel::Logits(Context& ctx, const LlmActivations& a, int64_t begin,
                           Tensor logits) const {
  const Tensor hidden = stack_.GatherOverTp(ctx, a.stack, a.hidden);
  LinearForward(ctx, hidden.Rows(begin, logits.rows()), HeadWeight(), Tensor(), Write::kOverwrite,
                logits);
}

double LanguageModel::ForwardFlops(const std::vector<int64_t>& segments,
                                   int64_t num_loss_tokens) const {
  return stack_.ForwardFlops(segments) + 2.0 * static_cast<double>(num_loss_tokens) *
                                             static_cast<double>(config_.width) *
                                             static_cast<double>(config_.vocab_size);
}

}  // namespace omnitrain
