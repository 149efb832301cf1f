#pragma once

#include <functional>
#include <vector>

#include "core/model/config.h"
#include "core/model/transformer_stack.h"
#include "data/batch/batch.h"

namespace omnitrain {

/// What a forward of the LLM leaves for its backward, its inputs on the device included.
struct LlmActivations {
  int64_t num_tokens = 0, num_item_rows = 0;
  Tensor embed_ids;  // [T] int32, -1 in rows that an encoder fills
  Tensor loss_rows;  // [M] int32, the rows with a label
  Tensor labels;     // [M] int32
  Tensor weights;    // [M] f32 or absent
  Tensor item_rows;  // [N] int32
  SequenceInputs sequence;
  StackActivations stack;
  NormStats final_norm;
  Tensor hidden;    // [T, D] after the final norm
  Tensor d_hidden;  // [T, D] its gradient, made with the loss; absent for evaluation
};

enum class LossMode {
  kNone,      // hidden states only
  kLoss,      // evaluation
  kGradients  // training: the head's gradients are made in the forward
};

/// Embedding, decoder, final norm, head and loss. Encoder features replace (feature 0) and join
/// (deep-stack) its rows.
class LanguageModel {
 public:
  LanguageModel(ParamStore* params, const TextConfig& config);

  const TextConfig& config() const { return config_; }
  const TransformerStack& stack() const { return stack_; }

  LlmActivations Carve(Carver& carver, const MicroBatch& batch, LossMode mode,
                       Recompute recompute = Recompute::kNone) const;
  void Upload(Context& ctx, const MicroBatch& batch, LlmActivations* acts) const;
  /// loss_sum [1] f64 += the (weighted) sum over labels of -log p; absent with kNone.
  /// features[k] [N, D]: in the order of item_rows.
  void Forward(Context& ctx, const LlmActivations& acts, const std::vector<Tensor>& features,
               LossMode mode, Tensor loss_sum) const;
  /// Adds all weight gradients; writes d_features[k] [N, D].  Gradients are of the loss sum,
  /// unscaled. `on_layer_done`: see StackHooks::after_weight_grad.
  void Backward(Context& ctx, const LlmActivations& acts, const std::vector<Tensor>& d_features,
                Carver temp, const std::function<void(int)>& on_layer_done = nullptr) const;
  void CarveTemporaries(Carver& carver, int64_t num_tokens) const;

  /// logits [R, V] of rows [begin, begin + R) after a forward in any mode.
  void Logits(Context& ctx, const LlmActivations& acts, int64_t begin, Tensor logits) const;

  /// Of one forward over samples of these lengths; `num_loss_tokens` rows pass the head.
  double ForwardFlops(const std::vector<int64_t>& segments, int64_t num_loss_tokens) const;

 private:
  const Tensor& HeadWeight() const { return params_->value(head_ >= 0 ? head_ : embed_); }

  TextConfig config_;
  ParamStore* params_;
  ParamId embed_ = -1, head_ = -1;  // no head of its own when tied
  TransformerStack stack_;
  Norm final_norm_;
};

}  // namespace omnitrain
