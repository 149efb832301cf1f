#pragma once

#include <string>
#include <vector>

#include "core/model/param_store.h"
#include "core/runtime/carver.h"
#include "core/runtime/context.h"
#include "core/runtime/write.h"

namespace omnitrain {

// Layers: parameters declared in a ParamStore, with forward and backward as a pair. They hold no
// activations: callers pass what the forward saw. Gradients of frozen parameters are skipped.

/// One piece of a fused projection as Hugging Face names it: `PREFIX.weight` (and `.bias`) with so
/// many output rows.
struct LinearPart {
  std::string hf_prefix;
  int64_t out_features = 0;
};

/// The `index`-th of `count` equal pieces; the default is the whole.
struct Piece {
  int count = 1, index = 0;
};

/// y = x W^T + b.  Shapes: x [T, I]; y [T, O]; O is the sum of the parts. Over tensor parallelism,
/// I or O are those of the slice that this rank holds; slices of I give summands of y.
class Linear {
 public:
  Linear() = default;
  struct Config {
    std::string name;  // ours: "llm.layers.0.qkv"
    ParamGroup group = ParamGroup::kLlm;
    int64_t in_features = 0;
    std::vector<LinearPart> parts;
    bool has_bias = false;
    std::vector<int64_t> hf_weight_shape;  // when stored in other dims than [O, I] (one part only)
    // What this rank holds of the sizes above, which are those of the whole: of the rows of each
    // part, or of the columns. Columns allow no bias: every rank would add it.
    Piece rows = {}, columns = {};
    ParamSharing sharing = ParamSharing::kSlice;  // in the LLM; encoders are whole on all ranks
  };
  Linear(ParamStore* params, const Config& config);

  void Forward(Context& ctx, const Tensor& x, Write write, Tensor y) const;
  void InputGrad(Context& ctx, const Tensor& dy, Write write, Tensor dx) const;
  void WeightGrad(Context& ctx, const Tensor& x, const Tensor& dy) const;
  int64_t in_features() const { return in_features_; }
  int64_t out_features() const { return out_features_; }
  ParamId weight() const { return weight_; }
  /// Whether WeightGrad does anything.
  bool is_trained() const { return !params_->is_frozen(weight_); }

 private:
  ParamStore* params_ = nullptr;
  ParamId weight_ = -1, bias_ = -1;
  int64_t in_features_ = 0, out_features_ = 0;
};

enum class NormKind { kRms, kLayer };

/// What a norm's backward needs besides its input.
struct NormStats {
  Tensor rstd, mean;  // mean is absent for RMSNorm
};

/// RMSNorm or LayerNorm over the last dim.  Shapes: x, y [T, D] or, RMSNorm only, [T, H, D].
class Norm {
 public:
  Norm() = default;
  /// `hf_prefix` + ".weight" (and ".bias" of a LayerNorm).
  Norm(ParamStore* params, NormKind kind, const std::string& name, ParamGroup group,
       const std::string& hf_prefix, int64_t width, double eps);

  NormStats Carve(Carver& carver, Shape rows) const;
  void Forward(Context& ctx, const Tensor& x, Tensor y, const NormStats& stats) const;
  /// dx (= or +=); weight gradients are added in the same pass.
  void Backward(Context& ctx, const Tensor& dy, const Tensor& x, const NormStats& stats,
                Write write, Tensor dx) const;

 private:
  ParamStore* params_ = nullptr;
  NormKind kind_ = NormKind::kRms;
  ParamId weight_ = -1, bias_ = -1;
  double eps_ = 0;
};

/// The dtype of statistics that goes with a compute dtype: f32, or f64 for f64.
DType StatsDType(DType compute);

}  // namespace omnitrain
