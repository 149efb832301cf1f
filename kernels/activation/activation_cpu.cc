#include <cmath>

#include "kernels/activation/activation_impl.h"
#include "kernels/common/normal_cdf.h"
#include "kernels/common/parallel.h"
#include "kernels/common/simd_math.h"

namespace omnitrain::cpu {
namespace {

template <typename S>
struct ValueSlope {
  S value, slope;
};

/// sigmoid(z) and its derivative, from exp(-|z|): nothing overflows, and both tails keep their
/// relative precision.
template <typename S>
inline ValueSlope<S> Sigmoid(S z) {
  const S e = ExpSoftmax(-std::fabs(z));
  const S inverse = S(1) / (S(1) + e);
  return {z < 0 ? e * inverse : inverse, e * inverse * inverse};
}

// Each activation gives its value and derivative; where one is unused the compiler drops its cost.

struct Silu {
  template <typename S>
  static inline ValueSlope<S> At(S x) {
    const ValueSlope<S> s = Sigmoid(x);
    return {x * s.value, s.value + x * s.slope};
  }
};

struct QuickGelu {
  template <typename S>
  static inline ValueSlope<S> At(S x) {
    constexpr S kSharpness = S(1.702);
    const ValueSlope<S> s = Sigmoid(kSharpness * x);
    return {x * s.value, s.value + kSharpness * x * s.slope};
  }
};

struct GeluTanh {
  template <typename S>
  static inline ValueSlope<S> At(S x) {
    // (1 + tanh(u)) / 2 = sigmoid(2u).
    constexpr S kScale = S(2 * 0.79788456080286535588), kCubic = S(0.044715);
    const S square = x * x;
    const ValueSlope<S> s = Sigmoid(kScale * x * (S(1) + kCubic * square));
    return {x * s.value, s.value + x * s.slope * kScale * (S(1) + S(3) * kCubic * square)};
  }
};

struct GeluErf {
  template <typename S>
  static inline ValueSlope<S> At(S x) {
    const Normal<S> n = NormalAt(x);
    return {x * n.cdf, n.cdf + x * n.density};
  }
};

template <typename F>
void DispatchActivation(Activation act, F&& f) {
  switch (act) {
    case Activation::kSilu:
      return f(Silu{});
    case Activation::kGeluTanh:
      return f(GeluTanh{});
    case Activation::kGeluErf:
      return f(GeluErf{});
    case Activation::kQuickGelu:
      return f(QuickGelu{});
  }
  OT_CHECK(false, "activation {}", static_cast<int>(act));
}

/// Calls f(act, S{}).
template <typename F>
void Dispatch(Activation act, DType dtype, F&& f) {
  DispatchActivation(act, [&](auto a) { DispatchReal(dtype, [&](auto zero) { f(a, zero); }); });
}

template <typename Act, typename S>
void ForwardSpan(const S* x, int64_t n, S* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = Act::At(x[i]).value;
}

template <typename Act, typename S>
void BackwardSpan(const S* dy, const S* x, int64_t n, S* dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) dx[i] = dy[i] * Act::At(x[i]).slope;
}

template <typename Act, typename S>
void GatedForwardSpan(const S* gate, const S* up, int64_t n, S* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = Act::At(gate[i]).value * up[i];
}

template <typename Act, typename S>
void GatedBackwardSpan(const S* dy, const S* gate, const S* up, int64_t n, S* d_gate, S* d_up) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const ValueSlope<S> a = Act::At(gate[i]);
    const S d = dy[i];
    const S d_gate_value = d * up[i] * a.slope;
    d_up[i] = d * a.value;
    d_gate[i] = d_gate_value;
  }
}

}  // namespace

void ActivationForward(Activation act, const Tensor& x, Tensor y) {
  Dispatch(act, x.dtype, [&](auto a, auto zero) {
    using S = decltype(zero);
    ParallelPieces(x.rows(), x.shape[1], x.is_dense() && y.is_dense(),
                   [&](int64_t r, int64_t begin, int64_t n) {
                     ForwardSpan<decltype(a)>(x.row<S>(r) + begin, n, y.row<S>(r) + begin);
                   });
  });
}

void ActivationBackward(Activation act, const Tensor& dy, const Tensor& x, Tensor dx) {
  const bool is_dense = dy.is_dense() && x.is_dense() && dx.is_dense();
  Dispatch(act, x.dtype, [&](auto a, auto zero) {
    using S = decltype(zero);
    ParallelPieces(x.rows(), x.shape[1], is_dense, [&](int64_t r, int64_t begin, int64_t n) {
      BackwardSpan<decltype(a)>(dy.row<S>(r) + begin, x.row<S>(r) + begin, n, dx.row<S>(r) + begin);
    });
  });
}

void GatedActivationForward(Activation act, const Tensor& gate_up, Tensor y) {
  const int64_t width = y.shape[1];
  Dispatch(act, y.dtype, [&](auto a, auto zero) {
    using S = decltype(zero);
    ParallelFor(y.rows(), width, [&](int64_t r) {
      const S* gate = gate_up.row<S>(r);
      GatedForwardSpan<decltype(a)>(gate, gate + width, width, y.row<S>(r));
    });
  });
}

void GatedActivationBackward(Activation act, const Tensor& dy, const Tensor& gate_up,
                             Tensor d_gate_up) {
  const int64_t width = dy.shape[1];
  Dispatch(act, dy.dtype, [&](auto a, auto zero) {
    using S = decltype(zero);
    ParallelFor(dy.rows(), width, [&](int64_t r) {
      const S* gate = gate_up.row<S>(r);
      S* d_gate = d_gate_up.row<S>(r);
      GatedBackwardSpan<decltype(a)>(dy.row<S>(r), gate, gate + width, width, d_gate,
                                     d_gate + width);
    });
  });
}

}  // namespace omnitrain::cpu
