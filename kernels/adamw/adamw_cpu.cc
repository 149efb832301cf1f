#include <cmath>

#include "kernels/adamw/adamw_impl.h"
#include "kernels/common/parallel.h"

namespace omnitrain::cpu {
namespace {

/// Scalars of the step, computed in f64 and rounded once, as PyTorch does.
template <typename S>
struct StepFactors {
  explicit StepFactors(const AdamWParams& p)
      : decay(static_cast<S>(1 - p.lr * p.weight_decay)),
        beta1(static_cast<S>(p.beta1)),
        one_minus_beta1(static_cast<S>(1 - p.beta1)),
        beta2(static_cast<S>(p.beta2)),
        one_minus_beta2(static_cast<S>(1 - p.beta2)),
        step_size(static_cast<S>(p.lr / (1 - std::pow(p.beta1, static_cast<double>(p.step))))),
        root_correction(
            static_cast<S>(std::sqrt(1 - std::pow(p.beta2, static_cast<double>(p.step))))),
        eps(static_cast<S>(p.eps)),
        grad_scale(static_cast<S>(p.grad_scale)) {}
  S decay, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction, eps,
      grad_scale;
};

template <typename S>
void Update(const StepFactors<S>& f, const S* grad, int64_t n, S* master, S* m, S* v) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const S g = grad[i] * f.grad_scale;
    const S m_new = f.beta1 * m[i] + f.one_minus_beta1 * g;
    const S v_new = f.beta2 * v[i] + f.one_minus_beta2 * (g * g);
    m[i] = m_new;
    v[i] = v_new;
    master[i] = master[i] * f.decay -
                f.step_size * (m_new / (std::sqrt(v_new) / f.root_correction + f.eps));
  }
}

}  // namespace

void AdamWStep(const AdamWParams& params, const Tensor& grad, Tensor master, Tensor m, Tensor v,
               Tensor param) {
  DispatchReal(master.dtype, [&](auto zero) {
    using S = decltype(zero);
    const StepFactors<S> factors(params);
    const S* g = grad.ptr<S>();
    S *w = master.ptr<S>(), *m_out = m.ptr<S>(), *v_out = v.ptr<S>(), *copy = param.ptr<S>();
    ParallelPieces(1, master.num_elements(), true, [=](int64_t, int64_t begin, int64_t n) {
      Update(factors, g + begin, n, w + begin, m_out + begin, v_out + begin);
      if (copy != w) std::copy(w + begin, w + begin + n, copy + begin);
    });
  });
}

}  // namespace omnitrain::cpu
