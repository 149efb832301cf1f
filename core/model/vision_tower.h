#pragma once

#include <functional>
#include <vector>

#include "core/model/config.h"
#include "core/model/transformer_stack.h"
#include "data/batch/batch.h"

namespace omnitrain {

/// Folds merge x merge neighbouring patches into one row of the LLM's width: norm, then
/// fc2(gelu(fc1 x)). Shapes: x [P, D] -> y [N, out], N = P / merge^2; the patches of a row are
/// consecutive.
class Merger {
 public:
  /// kEachPatch norms [P, D] and then folds (the main merger of Qwen-VL); kFoldedRow folds first
  /// (deep-stack mergers).
  enum class NormOver { kEachPatch, kFoldedRow };
  struct Activations {
    Tensor normed, fc1, act;  // [N, merge^2 D]
    NormStats stats;
  };

  Merger(ParamStore* params, const VisionConfig& vision, const std::string& name,
         const std::string& hf_prefix, NormOver norm_over);

  Activations Carve(Carver& carver, int64_t num_patches) const;
  void Forward(Context& ctx, const Tensor& x, const Activations& acts, Tensor y) const;
  /// Adds (or writes) the gradient of x to dx [P, D], given dy [N, out]; temporaries from `temp`.
  /// An absent dx skips it: only the merger's own weights are trained.
  void Backward(Context& ctx, const Tensor& dy, const Tensor& x, const Activations& acts,
                Carver temp, Write write, Tensor dx) const;
  int64_t out_width() const { return fc2_.out_features(); }

 private:
  Tensor NormView(const Tensor& x) const;  // x as the rows that the norm sees

  ParamStore* params_;
  NormOver norm_over_;
  int64_t width_, merged_width_;
  Norm norm_;
  Linear fc1_, fc2_;
};

/// What a forward of the tower leaves for its backward, its inputs on the device included.
struct VisionActivations {
  int64_t num_patches = 0;
  Tensor patches;                // [P, patch_dim]
  Tensor pos_index, pos_weight;  // [P, 4]; absent without learned positions
  SequenceInputs sequence;
  StackActivations stack;
  std::vector<Merger::Activations> mergers;  // the main one, then the deep-stack ones
};

/// Patches to rows of the LLM: patch embedding, learned positions (Qwen3-VL), a TransformerStack,
/// mergers. With windowed attention (Qwen2.5-VL) rows are in the order of ItemBatch throughout, the
/// features too.
/// Feature 0 replaces the placeholder rows of the LLM, feature k + 1 is added to them after LLM
/// layer k.
class VisionTower {
 public:
  VisionTower(ParamStore* params, const VisionConfig& config);

  const VisionConfig& config() const { return config_; }
  int num_features() const { return static_cast<int>(mergers_.size()); }
  const TransformerStack& stack() const { return stack_; }

  /// Lays out everything a forward and backward over these items needs. Sizes come from the items'
  /// grids only. `scratch`: see TransformerStack::Carve.
  VisionActivations Carve(Carver& carver, const ItemBatch& items,
                          const RecomputePlan& recompute = {}, Carver* scratch = nullptr) const;
  /// Fills the inputs: patches, rotation tables, segments, interpolation.
  void Upload(Context& ctx, const ItemBatch& items, VisionActivations* acts) const;
  /// features[k] [N, D of the LLM], overwritten.
  void Forward(Context& ctx, const VisionActivations& acts,
               const std::vector<Tensor>& features) const;
  /// Adds all weight gradients, given those of the features. `on_layer_done`: see
  /// StackHooks::after_weight_grad.
  void Backward(Context& ctx, const VisionActivations& acts, const std::vector<Tensor>& d_features,
                Carver temp, const std::function<void(int)>& on_layer_done = nullptr) const;
  /// Lays out the temporaries of Backward: call with a counting carver to plan them.
  void CarveTemporaries(Carver& carver, int64_t num_patches) const;

  /// Of one forward over items with these frame segments (and windows, where the tower has any).
  double ForwardFlops(const std::vector<int64_t>& segments,
                      const std::vector<int64_t>& windows) const;

 private:
  int FeatureAfter(int layer) const;  // the deep-stack feature tapped after a layer, or -1

  VisionConfig config_;
  ParamStore* params_;
  Linear patch_embed_;
  ParamId pos_embed_ = -1;
  TransformerStack stack_;
  std::vector<Merger> mergers_;
};

}  // namespace omnitrain
