#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/model/context_attention.h"
#include "core/model/layers.h"
#include "core/model/llm_place.h"
#include "core/model/moe_block.h"
#include "kernels/activation/activation.h"
#include "kernels/attention/attention.h"

namespace omnitrain {

/// A pre-norm transformer: x += proj(attention(norm1 x)); x += down(act(up(norm2 x))), or in a
/// sparse layer x += experts(norm2 x). One description for every encoder and the LLM.
struct StackConfig {
  std::string name;  // ours: "llm", "vision"
  ParamGroup group = ParamGroup::kLlm;
  int num_layers = 0;
  int64_t width = 0;         // D
  int64_t num_heads = 0;     // H
  int64_t num_kv_heads = 0;  // G
  int64_t head_dim = 0;      // K
  int64_t ffn = 0;           // F
  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-6;
  bool has_qk_norm = false;  // RMSNorm over K on each q and k head, before the rotation
  bool has_qkv_bias = false, has_proj_bias = false, has_mlp_bias = false;
  bool is_gated = false;  // act(gate x) * (up x)
  Activation activation = Activation::kSilu;
  bool is_causal = false;
  std::vector<int> full_layers;    // with windows: the layers that see whole segments all the same
  std::vector<int> sparse_layers;  // those with a MoeBlock in place of the mlp, ascending
  MoeConfig moe;                   // of these

  bool IsSparse(int layer) const;
};

/// Where a Hugging Face directory keeps a layer: LAYERS + index + "." + one of these.
struct StackNames {
  std::string layers;  // "model.language_model.layers."
  std::string norm1, q_norm, k_norm, proj, norm2, down;
  std::vector<std::string> qkv;  // one fused, or q, k, v
  std::vector<std::string> up;   // one, or gate, up
  std::string moe;               // of sparse layers, see MoeBlock
};

/// What the layers need to know of a packed sequence, on the device of the stack.
struct SequenceInputs {
  struct Segments {
    Tensor cu_seqlens;  // [S + 1] int32
    int64_t max_seqlen = 0;
  };
  Tensor cos, sin;  // [T, K/2]
  Segments segments;
  Segments windows;  // within the segments, for layers that see no further; absent: no such layers
  ContextTables context;  // over several cp ranks, in place of segments
};

/// What a layer's backward makes again instead of finding it. Source: Korthikanti et al. 2022,
/// section 5 (selective recomputation); Chen et al. 2016 (a layer's input alone is kept).
enum class Recompute : uint8_t {
  kNone,
  kNormsAndActivations,  // their outputs cost little to compute and much to keep
  kFull,                 // the whole layer up to its last projection, collectives included
};

/// What the layers of an encoder, or of one stage of the LLM, make again: the first `num_layers`
/// as `kind` says, those behind them as `rest`. The same on all ranks that share a collective of
/// the stack.
struct RecomputePlan {
  static constexpr int kAllLayers = std::numeric_limits<int>::max();

  Recompute kind = Recompute::kNone;
  int num_layers = kAllLayers;
  Recompute rest = Recompute::kNone;

  /// Of the i-th layer that runs.
  Recompute Of(int i) const { return i < num_layers ? kind : rest; }
  bool is_none() const {
    return (kind == Recompute::kNone || num_layers == 0) && rest == Recompute::kNone;
  }
};
/// "none", "selective", "full in the first 3 layers, else selective".
std::string ToString(const RecomputePlan& plan);

// Over tensor parallelism each rank holds H / tp query heads, G / tp kv heads (one, where G < tp)
// and F / tp of the mlp, and the residual and norms of T / tp rows; whole rows T are gathered
// before qkv and up, and the summands of proj and down summed into rows behind them. In the sizes
// below Tl is T / tp and H, G, F are those of the rank. Experts take the rows as they are, Tl.
// Source: Korthikanti et al. 2022, section 4.2 (sequence parallelism).

/// What one layer's forward leaves for its backward. What is recomputed is one place for all layers
/// that do so: n1, n2 and act, or all but x.
struct LayerActivations {
  Recompute recompute = Recompute::kNone;
  Tensor x;    // [Tl, D] input; also the output slot of the layer before
  Tensor n1;   // [Tl, D] norm1 x
  Tensor qkv;  // [T, (H + 2G) K]
  Tensor
      qk;  // [T, (H + G) K] normed and rotated; absent without q/k norms (qkv is rotated in place)
  Tensor lse;    // [H, T]
  Tensor o;      // [T, H K]
  Tensor x_mid;  // [Tl, D] after attention
  Tensor n2;     // [Tl, D] norm2 x_mid
  Tensor up;   // [T, F], or [T, 2F] gated; the backward overwrites it with its gradient where gated
  Tensor act;  // [T, F]
  NormStats norm1, norm2, q_norm, k_norm;
  // Of a sparse layer, in place of up and act. The forward and the backward change what is in it,
  // and copies of these activations share it.
  std::shared_ptr<MoeActivations> moe;
};

struct StackActivations {
  std::vector<LayerActivations> layers;  // of the layers that ran, in order
  Tensor out;                            // [Tl, D]
  Tensor wide;                           // [T, D], what is gathered or to be summed; absent: tp 1
  Tensor input() const { return layers.empty() ? out : layers.front().x; }
};

/// The gradients that weight gradients are made from. One set serves all layers when both gradients
/// are made together; a split backward keeps a set per layer until its weight pass.
struct LayerGradients {
  Tensor d_out, d_mid;  // [Tl, D]: at the outputs of down and proj; kept by a split backward only
  Tensor d_up;          // [T, F] ungated; absent where gated (`up` holds it)
  Tensor d_act;         // [T, F]; the same memory as d_up where ungated
  // d_out, d_up and d_act are absent where all layers are sparse.
  Tensor d_o;     // [T, H K]
  Tensor d_qkv;   // [T, (H + 2G) K]
  Tensor d_norm;  // [Tl, D]
};

/// Which gradients a backward pass makes: the whole, or one half of it for zero-bubble schedules.
enum class BackwardPart { kBoth, kInput, kWeight };

/// What the sparse layers need to know of a micro-batch.
struct MoeInputs {
  MoeBalance balance;        // of each layer
  bool has_backward = true;  // false: a layer's pooled memory goes back with the layer
};

/// Taps and injections, and what keeps parameters elsewhere. Called with layer indices of the whole
/// stack.
struct StackHooks {
  /// Before a layer's forward: from here on its values are read.
  std::function<void(int layer)> before_forward;
  /// After a layer wrote its output x [Tl, D]: read it (tap) or add to it (injection).
  std::function<void(int layer, const Tensor& x)> after_forward;
  /// Before a layer's backward, with dx [Tl, D] at its output: add a tap's gradient or read an
  /// injection's. From here on its values are read and its gradients added.
  std::function<void(int layer, const Tensor& dx)> before_backward;
  /// After the last of a layer's gradients was added: kBoth or kWeight.
  std::function<void(int layer)> after_weight_grad;
};

/// Collective over tp: Forward, Backward, GatherOverTp, SumOverTp. With sparse layers the first two
/// also as MoeBlock says.
/// Pooled memory of sparse layers is the stack's own, for all of its calls on one stream; the
/// device outlives the stack.
class TransformerStack {
 public:
  /// Declares the parameters of the layers in `held`, or this rank's slices of them; the others are
  /// on other ranks and must not be run. Sizes must split over place.tp (CheckPlace).
  TransformerStack(ParamStore* params, const StackConfig& config, const StackNames& names,
                   const std::vector<LayerRange>& held, const LlmPlace& place = {});

  const StackConfig& config() const { return config_; }

  /// Attention over the place's cp ranks; its tables go into SequenceInputs::context.
  ContextAttention& context() const;
  /// The heads of this tp rank.
  AttentionHeads heads() const { return {local_.num_heads, local_.num_kv_heads, local_.head_dim}; }
  /// What sparse layers take of; absent before the first of them ran.
  const BlockPool* pool() const { return pool_.get(); }

  /// Lays out the activations of layers [begin, end) for `rows` rows, a multiple of tp. `scratch`:
  /// where to put what is recomputed, which lives through Forward and again through Backward, not
  /// between; absent: with the rest.
  StackActivations Carve(Carver& carver, int64_t rows, int begin, int end,
                         const RecomputePlan& recompute = {}, Carver* scratch = nullptr) const;
  /// Lays out gradient temporaries that serve layers [begin, end); `part` kInput adds what the
  /// later kWeight pass needs.
  LayerGradients CarveGradients(Carver& carver, int64_t rows, int begin, int end,
                                BackwardPart part) const;

  /// Runs layers [begin, begin + acts.layers.size()) on acts.input(), into acts.out.
  void Forward(Context& ctx, const SequenceInputs& inputs, int begin, const StackActivations& acts,
               const StackHooks& hooks, const MoeInputs& moe = {}) const;

  /// The rows of all tp ranks: x [Tl, D] into acts.wide [T, D]. x itself without tp.
  Tensor GatherOverTp(Context& ctx, const StackActivations& acts, const Tensor& x) const;
  /// This rank's rows of the sum over tp: of partial [T, D] into y [Tl, D]. Requires tp > 1.
  void SumOverTp(Context& ctx, const Tensor& partial, Tensor y) const;

  /// Turns d [Tl, D], the gradient at acts.out, into the gradient at acts.input(), in place; weight
  /// gradients are added to the store. `grads`: one set (kBoth) or one per layer (kInput, then
  /// kWeight, which leaves d alone). `moe`: as for the forward but without
  /// loss_sum, which has its share; of use where layers are recomputed.
  /// Requires: no layer is recomputed, or kBoth.
  void Backward(Context& ctx, const SequenceInputs& inputs, int begin, const StackActivations& acts,
                const std::vector<LayerGradients>& grads, BackwardPart part,
                const StackHooks& hooks, Tensor d, const MoeInputs& moe = {}) const;

  /// Floating-point operations of a forward over the given segment lengths (a multiply-add is two);
  /// the backward costs twice that.  Causal attention counts half the square. `windows`: their
  /// lengths, or empty.
  double ForwardFlops(const std::vector<int64_t>& segments,
                      const std::vector<int64_t>& windows = {}) const;

 private:
  struct Layer {
    Norm norm1, q_norm, k_norm, norm2;
    Linear qkv, proj, up, down;
    Linear kv;                 // absent unless ranks share kv heads: then qkv is q alone
    bool is_windowed = false;  // where the sequence has windows
    bool is_sparse = false;
    MoeBlock moe;  // of a sparse layer, in place of up and down
  };
  struct QkvViews {
    Tensor q, k, v;  // [T, H, K], [T, G, K], [T, G, K]
  };
  bool HasDense(int begin, int end) const;
  BlockPool& Pool(Context& ctx) const;
  QkvViews Views(const LayerActivations& a) const;
  const SequenceInputs::Segments& SegmentsOf(const SequenceInputs& inputs,
                                             const Layer& layer) const;
  void QkvForward(Context& ctx, const Layer& layer, const Tensor& x, const Tensor& qkv) const;
  void QkvInputGrad(Context& ctx, const Layer& layer, const Tensor& d_qkv, const Tensor& dx) const;
  void QkvWeightGrad(Context& ctx, const Layer& layer, const Tensor& x, const Tensor& d_qkv) const;
  /// Makes d_norm [Tl, D], the gradient at a norm's output: input_grad(dx) writes it, over tp this
  /// rank's summand of all T rows.
  template <typename F>
  void NormOutputGrad(Context& ctx, const StackActivations& acts, const LayerGradients& g,
                      F&& input_grad) const;
  /// out [Tl, D] = x + linear(in), over tp the sum of what the ranks' slices give.
  void AddToResidual(Context& ctx, const StackActivations& acts, const Linear& linear,
                     const Tensor& in, const Tensor& x, const Tensor& out) const;
  AttentionParams AttentionOver(const SequenceInputs::Segments& segments) const;
  void LayerForward(Context& ctx, const SequenceInputs& inputs, const StackActivations& acts,
                    const Layer& layer, const LayerActivations& a, const MoeInputs& moe,
                    const Tensor& out) const;
  /// What LayerForward left in `a`, its output left out: that is the next layer's input.
  void LayerForwardAgain(Context& ctx, const SequenceInputs& inputs, const StackActivations& acts,
                         const Layer& layer, const LayerActivations& a, const MoeInputs& moe) const;
  /// The layer up to x_mid, which it writes.
  void AttentionHalf(Context& ctx, const SequenceInputs& inputs, const StackActivations& acts,
                     const Layer& layer, const LayerActivations& a) const;
  /// From n2 to `act`, in a dense layer.
  void MlpUp(Context& ctx, const StackActivations& acts, const Layer& layer,
             const LayerActivations& a) const;
  void LayerInputGrad(Context& ctx, const SequenceInputs& inputs, const StackActivations& acts,
                      const Layer& layer, const LayerActivations& a, const LayerGradients& g,
                      BackwardPart part, Tensor d) const;
  void MlpActivation(Context& ctx, const LayerActivations& a) const;
  /// Makes g.d_norm, the gradient at norm2's output, of d at the layer's, and with kBoth the weight
  /// gradients.
  void MlpBackward(Context& ctx, const StackActivations& acts, const Layer& layer,
                   const LayerActivations& a, const LayerGradients& g, BackwardPart part,
                   const Tensor& d) const;
  void MoeBackward(Context& ctx, const StackActivations& acts, const Layer& layer,
                   const LayerActivations& a, const LayerGradients& g, BackwardPart part,
                   const Tensor& d) const;
  void LayerWeightGrad(Context& ctx, const StackActivations& acts, const Layer& layer,
                       const LayerActivations& a, const LayerGradients& g) const;

  StackConfig config_;  // of the whole
  StackConfig local_;   // the same with this rank's H, G and F
  AxisSeat tp_;
  DType dtype() const { return params_->dtype(); }
  ParamStore* params_;
  std::vector<Layer> layers_;  // all; those that are not held are empty
  AxisSeat cp_;
  // Made at first use, when device and dtype are known.
  mutable std::unique_ptr<BlockPool> pool_;
  mutable std::unique_ptr<ContextAttention> context_;
};

}  // namespace omnitrain
