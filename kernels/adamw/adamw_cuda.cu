#include <cmath>

#include "kernels/adamw/adamw_impl.h"
#include "kernels/common/row_group.cuh"

namespace omnitrain::cuda {
namespace {

/// Scalars of the step, computed in f64 and rounded once, as PyTorch does.
struct StepFactors {
  explicit StepFactors(const AdamWParams& p)
      : decay(static_cast<float>(1 - p.lr * p.weight_decay)),
        beta1(static_cast<float>(p.beta1)),
        one_minus_beta1(static_cast<float>(1 - p.beta1)),
        beta2(static_cast<float>(p.beta2)),
        one_minus_beta2(static_cast<float>(1 - p.beta2)),
        step_size(static_cast<float>(p.lr / (1 - std::pow(p.beta1, static_cast<double>(p.step))))),
        root_correction(
            static_cast<float>(std::sqrt(1 - std::pow(p.beta2, static_cast<double>(p.step))))),
        eps(static_cast<float>(p.eps)),
        grad_scale(static_cast<float>(p.grad_scale)) {}
  float decay, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction, eps,
      grad_scale;
};

/// `param` is the master weight itself where T is float and both are one.
template <typename T>
struct Update {
  StepFactors f;
  const float* grad;
  float *master, *m, *v;
  T* param;

  template <int N>
  __device__ void Run(int64_t, int64_t column) const {
    const auto grads = *reinterpret_cast<const Pack<float, N>*>(grad + column);
    auto weights = *reinterpret_cast<Pack<float, N>*>(master + column);
    auto first = *reinterpret_cast<Pack<float, N>*>(m + column);
    auto second = *reinterpret_cast<Pack<float, N>*>(v + column);
    Pack<T, N> copy;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float g = grads.v[i] * f.grad_scale;
      first.v[i] = f.beta1 * first.v[i] + f.one_minus_beta1 * g;
      second.v[i] = f.beta2 * second.v[i] + f.one_minus_beta2 * (g * g);
      weights.v[i] = weights.v[i] * f.decay -
                     f.step_size * (first.v[i] / (sqrtf(second.v[i]) / f.root_correction + f.eps));
      copy.v[i] = FromFloat<T>(weights.v[i]);
    }
    *reinterpret_cast<Pack<float, N>*>(master + column) = weights;
    *reinterpret_cast<Pack<float, N>*>(m + column) = first;
    *reinterpret_cast<Pack<float, N>*>(v + column) = second;
    *reinterpret_cast<Pack<T, N>*>(param + column) = copy;
  }
};

}  // namespace

void AdamWStep(Context& ctx, const AdamWParams& params, const Tensor& grad, Tensor master, Tensor m,
               Tensor v, Tensor param) {
  const int64_t count = master.num_elements();
  DispatchCompute(param.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const Update<T> update{StepFactors(params), Data<float>(grad), Data<float>(master),
                           Data<float>(m),      Data<float>(v),    Data<T>(param)};
    constexpr int kPack = 4;
    bool is_wide = PackWidth<T>(param.data, 0, count) % kPack == 0;
    for (const Tensor& t : {grad, master, m, v}) {
      is_wide = is_wide && PackWidth<float>(t.data, 0, count) == kPack;
    }
    if (is_wide) {
      ForPacks<kPack>(ctx, "adamw", 1, count, update);
    } else {
      ForPacks<1>(ctx, "adamw", 1, count, update);
    }
  });
}

}  // namespace omnitrain::cuda
