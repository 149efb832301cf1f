#include "core/model/layers.h"

#include "kernels/gemm/gemm.h"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/rms_norm/rms_norm.h"

namespace omnitrain {

DType StatsDType(DType compute) { return compute == DType::kF64 ? DType::kF64 : DType::kF32; }

Linear::Linear(ParamStore* params, const Config& config)
    : params_(params), in_features_(config.in_features / config.columns.count) {
  OT_CHECK(in_features_ * config.columns.count == config.in_features, "{}: {} columns in {} pieces",
           config.name, config.in_features, config.columns.count);
  OT_CHECK(config.columns.count == 1 || !config.has_bias, "{}: a bias on a slice of the columns",
           config.name);
  const int64_t first_column = config.columns.index * in_features_;
  ParamSpec weight, bias;
  for (const LinearPart& part : config.parts) {
    const int64_t rows = part.out_features / config.rows.count;
    OT_CHECK(rows * config.rows.count == part.out_features, "{}: {} rows of {} in {} pieces",
             config.name, part.out_features, part.hf_prefix, config.rows.count);
    const int64_t first_row = config.rows.index * rows;
    std::vector<int64_t> shape = config.hf_weight_shape;
    if (shape.empty()) shape = {part.out_features, config.in_features};
    weight.hf_parts.push_back(
        {part.hf_prefix + ".weight", out_features_, rows, shape, first_row, first_column});
    bias.hf_parts.push_back(
        {part.hf_prefix + ".bias", out_features_, rows, {part.out_features}, first_row, 0});
    out_features_ += rows;
  }
  weight.name = config.name + ".weight";
  weight.shape = {out_features_, in_features_};
  weight.group = bias.group = config.group;
  // Encoders are the same on all tp ranks.
  weight.sharing = bias.sharing =
      config.group == ParamGroup::kLlm ? config.sharing : ParamSharing::kWhole;
  weight_ = params->Add(std::move(weight));
  if (config.has_bias) {
    bias.name = config.name + ".bias";
    bias.shape = {out_features_};
    bias.init = ParamInit::kZero;
    bias_ = params->Add(std::move(bias));
  }
}

void Linear::Forward(Context& ctx, const Tensor& x, Write write, Tensor y) const {
  LinearForward(ctx, x, params_->value(weight_), bias_ >= 0 ? params_->value(bias_) : Tensor(),
                write, y);
}

void Linear::InputGrad(Context& ctx, const Tensor& dy, Write write, Tensor dx) const {
  LinearInputGrad(ctx, dy, params_->value(weight_), write, dx);
}

void Linear::WeightGrad(Context& ctx, const Tensor& x, const Tensor& dy) const {
  if (params_->is_frozen(weight_)) return;
  LinearWeightGrad(ctx, x, dy, params_->grad(weight_),
                   bias_ >= 0 ? params_->grad(bias_) : Tensor());
}

Norm::Norm(ParamStore* params, NormKind kind, const std::string& name, ParamGroup group,
           const std::string& hf_prefix, int64_t width, double eps)
    : params_(params), kind_(kind), eps_(eps) {
  const auto add = [&](const char* suffix, ParamInit init) {
    ParamSpec spec;
    spec.name = name + suffix;
    spec.shape = {width};
    spec.group = group;
    spec.init = init;
    spec.sharing = ParamSharing::kWhole;
    spec.hf_parts = {{hf_prefix + suffix, 0, width, {width}}};
    return params->Add(std::move(spec));
  };
  weight_ = add(".weight", ParamInit::kOne);
  if (kind == NormKind::kLayer) bias_ = add(".bias", ParamInit::kZero);
}

NormStats Norm::Carve(Carver& carver, Shape rows) const {
  NormStats stats;
  const DType dtype = StatsDType(params_->dtype());
  stats.rstd = carver.Take(dtype, rows);
  if (kind_ == NormKind::kLayer) stats.mean = carver.Take(dtype, rows);
  return stats;
}

void Norm::Forward(Context& ctx, const Tensor& x, Tensor y, const NormStats& stats) const {
  const Tensor& w = params_->value(weight_);
  if (kind_ == NormKind::kRms) {
    RmsNormForward(ctx, x, w, eps_, y, stats.rstd);
  } else {
    LayerNormForward(ctx, x, w, params_->value(bias_), eps_, y, stats.mean, stats.rstd);
  }
}

void Norm::Backward(Context& ctx, const Tensor& dy, const Tensor& x, const NormStats& stats,
                    Write write, Tensor dx) const {
  const Tensor& w = params_->value(weight_);
  if (kind_ == NormKind::kRms) {
    RmsNormBackward(ctx, dy, x, w, stats.rstd, write, dx, params_->grad(weight_));
  } else {
    LayerNormBackward(ctx, dy, x, w, stats.mean, stats.rstd, write, dx, params_->grad(weight_),
                      params_->grad(bias_));
  }
}

}  // namespace omnitrain
