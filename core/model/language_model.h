#pragma once

#include <vector>

#include "core/model/config.h"
#include "core/model/llm_place.h"
#include "core/model/row_layout.h"
#include "core/model/transformer_stack.h"
#include "data/batch/batch.h"
#include "parallel/shard/row_split.h"

namespace omnitrain {

/// Rows [first, first + count) of the vocabulary.
struct VocabRange {
  int64_t first = 0, count = 0;
};

/// The rows of a micro-batch that an encoder fills and one rank holds.
struct LocalItems {
  std::vector<int32_t> encoder_rows;  // [Nl] which of MicroBatch::item_rows, ascending
  std::vector<int32_t> rows;          // [Nl] where each goes among the rank's Tl rows
};

/// What a forward of one stage leaves for its backward, its inputs on the device included.
struct LlmActivations {
  int stage = 0;
  int64_t num_rows = 0;  // Tl, of the residual on this rank
  int64_t num_item_rows = 0;
  Tensor embed_ids;  // first stage: [Tc] int32, counted in this rank's slice of the vocabulary; -1
                     // where it is in another, an encoder fills the row, or it is padding
  Tensor loss_rows;  // last stage: [M] int32, those of the Tc rows with a label
  Tensor labels;     // [M] int32
  Tensor weights;    // [M] f32 or absent
  Tensor item_rows;  // [Nl] int32; where features are taken
  SequenceInputs sequence;
  StackActivations stack;
  MoeBalance balance;  // of each sparse layer; without its loss_sum
  NormStats final_norm;
  Tensor hidden;    // last stage: [Tl, D] after the final norm
  Tensor d_hidden;  // [Tc, D] its gradient, made with the loss; over tp in summands, which the
                    // backward adds up; absent for evaluation

  /// [Tl, D]: what the stage before sends, and what this one hands on.
  Tensor input() const { return stack.input(); }
  Tensor output() const { return stack.out; }
};

enum class LossMode {
  kNone,      // hidden states only
  kLoss,      // evaluation
  kGradients  // training: the head's gradients are made in the forward
};

/// Embedding, decoder, final norm, head and loss, or the part of them that a place in the layout
/// holds. Encoder features replace (feature 0) and join (deep-stack: feature k + 1 behind layer k)
/// its rows.
/// Sizes, with T the rows of a micro-batch, padded: Tc = T / cp rows of the sequence are on this
/// rank when it attends, Tl = Tc / tp between (RowsAt says which).
/// Collective over the place's groups: Forward, Backward, Logits.
/// Over tp each rank holds a slice of the vocabulary of the embedding and of the head.
class LanguageModel {
 public:
  /// Errors: kSpec if the sizes do not split over the place (CheckPlace).
  LanguageModel(ParamStore* params, const TextConfig& config, const LlmPlace& place = {});

  const TextConfig& config() const { return config_; }
  const LlmPlace& place() const { return place_; }
  const TransformerStack& stack() const { return stack_; }
  LayerRange LayersOf(int stage) const { return place_.LayersOf(stage, config_.num_layers); }

  /// This rank's slice of the vocabulary, uneven where tp does not divide it.
  VocabRange vocab() const;

  /// The Tc rows of the padded sequence that a rank of cp holds when it attends, in its order; its
  /// tp ranks hold the residual in equal pieces of them. The same on all ranks.
  RowRuns ContextRowsAt(const MicroBatch& batch, int cp_rank) const;
  /// The Tl rows of the padded sequence that a rank holds of the residual, in its order. Rows from
  /// batch.num_tokens() on are padding. The same on all ranks.
  RowRuns RowsAt(const MicroBatch& batch, int cp_rank, int tp_rank) const;
  LocalItems ItemsAt(const MicroBatch& batch, int cp_rank, int tp_rank) const;
  /// Whether feature k is taken by layers of `stage`.
  bool TakesFeature(int stage, int feature) const;

  /// `scratch`: see TransformerStack::Carve.
  LlmActivations Carve(Carver& carver, const MicroBatch& batch, int stage, LossMode mode,
                       const RecomputePlan& recompute = {}, Carver* scratch = nullptr) const;
  void Upload(Context& ctx, const MicroBatch& batch, LlmActivations* acts) const;
  /// From acts.input(), which the first stage embeds itself, to acts.output(). Last stage:
  /// loss_sum [1] f64 += the (weighted) sum over this rank's labels of -log p; absent with kNone.
  /// Over tp, rank 0 alone adds.
  /// With kGradients sparse layers of any stage add their balance loss to loss_sum, every rank its
  /// share: a training loss is what its gradients are of, as in transformers with
  /// output_router_logits, while a held-out loss is that of the tokens alone. Without kGradients no
  /// Backward can follow: what sparse layers took of the pool is given back.
  /// features[k] [Nl, D]: in the order of ItemsAt; those that the stage does not take may be
  /// absent. `hooks`, here and below: the caller's, beside the model's own.
  void Forward(Context& ctx, const LlmActivations& acts, const std::vector<Tensor>& features,
               LossMode mode, Tensor loss_sum, const StackHooks& hooks = {}) const;

  /// One set of temporaries for kBoth; for kInput a set per layer, which kWeight needs later.
  std::vector<LayerGradients> CarveGradients(Carver& carver, const MicroBatch& batch, int stage,
                                             BackwardPart part) const;
  /// kBoth, or first kInput and later kWeight, which makes the weight gradients of the layers
  /// alone. d [Tl, D]: the gradient at the stage's output, which the last stage makes itself,
  /// becomes the one at its input. Writes d_features[k] [Nl, D] of the features that the stage
  /// takes. Gradients are of the loss sum, unscaled.
  void Backward(Context& ctx, const LlmActivations& acts, const std::vector<LayerGradients>& grads,
                BackwardPart part, const std::vector<Tensor>& d_features, Tensor d,
                const StackHooks& hooks = {}) const;

  /// logits [R, vocab().count] of rows [begin, begin + R) of the Tc rows of this rank's cp place
  /// (ContextRowsAt), after a forward of the last stage in any mode. The whole logits are the tp
  /// ranks' side by side.
  void Logits(Context& ctx, const LlmActivations& acts, int64_t begin, Tensor logits) const;

  /// Of one forward over samples of these lengths; `num_loss_tokens` rows pass the head.
  double ForwardFlops(const std::vector<int64_t>& segments, int64_t num_loss_tokens) const;

 private:
  /// How the rows of a micro-batch are spread over cp and tp; the same on all ranks.
  RowLayout LayoutOf(const MicroBatch& batch) const;
  /// The balance loss that each sparse layer adds in training, without its loss_sum.
  MoeBalance BalanceOf(const MicroBatch& batch) const;
  /// The global row of each of this rank's Tc rows, -1 where it is padding.
  std::vector<int32_t> ContextRows(const MicroBatch& batch) const;
  void UploadEmbedIds(Context& ctx, const MicroBatch& batch, const std::vector<int32_t>& rows,
                      Tensor embed_ids) const;
  void Embed(Context& ctx, const LlmActivations& acts) const;
  void Loss(Context& ctx, const LlmActivations& acts, LossMode mode, Tensor loss_sum) const;
  const Tensor& HeadWeight() const { return params_->value(head_ >= 0 ? head_ : embed_); }

  TextConfig config_;
  LlmPlace place_;
  ParamStore* params_;
  // Absent (-1) where the place does not hold them; no head of its own when tied.
  ParamId embed_ = -1, head_ = -1;
  TransformerStack stack_;
  Norm final_norm_;
};

}  // namespace omnitrain
