#include "kernels/activation/activation_impl.h"
#include "kernels/common/row_group.cuh"

namespace omnitrain::cuda {
namespace {

__device__ __forceinline__ float Sigmoid(float x) { return 1 / (1 + expf(-x)); }

/// act(x) and act'(x); the unused one is optimised away.
struct ValueSlope {
  float value, slope;
};

template <Activation kAct>
__device__ __forceinline__ ValueSlope Evaluate(float x) {
  if constexpr (kAct == Activation::kSilu) {
    const float s = Sigmoid(x);
    return {x * s, s * (1 + x * (1 - s))};
  } else if constexpr (kAct == Activation::kQuickGelu) {
    const float s = Sigmoid(1.702f * x);
    return {x * s, s * (1 + 1.702f * x * (1 - s))};
  } else if constexpr (kAct == Activation::kGeluErf) {
    // normcdff keeps its digits on the left tail, where 1 + erf cancels.
    const float cdf = normcdff(x);
    const float density = 0.398942280401432678f * expf(-0.5f * x * x);
    return {x * cdf, cdf + x * density};
  } else {
    // 0.5 (1 + tanh(u)) = sigmoid(2u).
    constexpr float kRoot = 0.797884560802865356f, kCubic = 0.044715f;
    const float s = Sigmoid(2 * kRoot * (x + kCubic * x * x * x));
    return {x * s, s + x * s * (1 - s) * 2 * kRoot * (1 + 3 * kCubic * x * x)};
  }
}

template <typename T, Activation kAct>
struct Forward {
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;

  template <int N>
  __device__ void Run(int64_t row, int64_t column) const {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(x + row * x_stride + column);
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.v[i] = FromFloat<T>(Evaluate<kAct>(ToFloat(p.v[i])).value);
    *reinterpret_cast<Pack<T, N>*>(y + row * y_stride + column) = out;
  }
};

template <typename T, Activation kAct>
struct Backward {
  const T* dy;
  int64_t dy_stride;
  const T* x;
  int64_t x_stride;
  T* dx;
  int64_t dx_stride;

  template <int N>
  __device__ void Run(int64_t row, int64_t column) const {
    const auto g = *reinterpret_cast<const Pack<T, N>*>(dy + row * dy_stride + column);
    const auto p = *reinterpret_cast<const Pack<T, N>*>(x + row * x_stride + column);
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out.v[i] = FromFloat<T>(ToFloat(g.v[i]) * Evaluate<kAct>(ToFloat(p.v[i])).slope);
    }
    *reinterpret_cast<Pack<T, N>*>(dx + row * dx_stride + column) = out;
  }
};

/// gate in columns [0, width), up behind it.
template <typename T, Activation kAct>
struct GatedForward {
  const T* gate_up;
  int64_t stride;
  T* y;
  int64_t y_stride, width;

  template <int N>
  __device__ void Run(int64_t row, int64_t column) const {
    const T* from = gate_up + row * stride + column;
    const auto gate = *reinterpret_cast<const Pack<T, N>*>(from);
    const auto up = *reinterpret_cast<const Pack<T, N>*>(from + width);
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out.v[i] = FromFloat<T>(Evaluate<kAct>(ToFloat(gate.v[i])).value * ToFloat(up.v[i]));
    }
    *reinterpret_cast<Pack<T, N>*>(y + row * y_stride + column) = out;
  }
};

/// d may be gate_up: each thread reads what it writes.
template <typename T, Activation kAct>
struct GatedBackward {
  const T* dy;
  int64_t dy_stride;
  const T* gate_up;
  int64_t stride;
  T* d;
  int64_t d_stride, width;

  template <int N>
  __device__ void Run(int64_t row, int64_t column) const {
    const auto g = *reinterpret_cast<const Pack<T, N>*>(dy + row * dy_stride + column);
    const T* from = gate_up + row * stride + column;
    const auto gate = *reinterpret_cast<const Pack<T, N>*>(from);
    const auto up = *reinterpret_cast<const Pack<T, N>*>(from + width);
    Pack<T, N> d_gate, d_up;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const ValueSlope a = Evaluate<kAct>(ToFloat(gate.v[i]));
      d_gate.v[i] = FromFloat<T>(ToFloat(g.v[i]) * ToFloat(up.v[i]) * a.slope);
      d_up.v[i] = FromFloat<T>(ToFloat(g.v[i]) * a.value);
    }
    T* to = d + row * d_stride + column;
    *reinterpret_cast<Pack<T, N>*>(to) = d_gate;
    *reinterpret_cast<Pack<T, N>*>(to + width) = d_up;
  }
};

template <typename F>
void DispatchActivation(Activation act, F&& f) {
  switch (act) {
    case Activation::kSilu:
      return f(std::integral_constant<Activation, Activation::kSilu>());
    case Activation::kGeluTanh:
      return f(std::integral_constant<Activation, Activation::kGeluTanh>());
    case Activation::kGeluErf:
      return f(std::integral_constant<Activation, Activation::kGeluErf>());
    case Activation::kQuickGelu:
      return f(std::integral_constant<Activation, Activation::kQuickGelu>());
  }
}

/// Calls f with the scalar, activation and pack that suit rows of `width` in all `operands`.
template <typename F>
void Dispatch(Activation act, int64_t width, std::initializer_list<Tensor> operands, F&& f) {
  DispatchCompute(operands.begin()->dtype, [&](auto scalar) {
    using T = decltype(scalar);
    int narrowest = 16 / static_cast<int>(sizeof(T));
    for (const Tensor& t : operands) {
      const int pack = PackWidth<T>(t.data, t.row_stride, width);
      if (pack < narrowest) narrowest = pack;
    }
    DispatchPack<T>({narrowest}, [&](auto pack) {
      DispatchActivation(act, [&](auto activation) { f(scalar, activation, pack); });
    });
  });
}

}  // namespace

void ActivationForward(Context& ctx, Activation act, const Tensor& x, Tensor y) {
  Dispatch(act, x.shape[1], {x, y}, [&](auto scalar, auto activation, auto pack) {
    using T = decltype(scalar);
    const Forward<T, decltype(activation)::value> f{Data<T>(x), x.row_stride, Data<T>(y),
                                                    y.row_stride};
    ForPacks<decltype(pack)::value>(ctx, "activation forward", x.shape[0], x.shape[1], f);
  });
}

void ActivationBackward(Context& ctx, Activation act, const Tensor& dy, const Tensor& x,
                        Tensor dx) {
  Dispatch(act, x.shape[1], {x, dy, dx}, [&](auto scalar, auto activation, auto pack) {
    using T = decltype(scalar);
    const Backward<T, decltype(activation)::value> f{Data<T>(dy),  dy.row_stride, Data<T>(x),
                                                     x.row_stride, Data<T>(dx),   dx.row_stride};
    ForPacks<decltype(pack)::value>(ctx, "activation backward", x.shape[0], x.shape[1], f);
  });
}

void GatedActivationForward(Context& ctx, Activation act, const Tensor& gate_up, Tensor y) {
  const int64_t rows = y.shape[0], width = y.shape[1];
  Dispatch(act, width, {gate_up, y}, [&](auto scalar, auto activation, auto pack) {
    using T = decltype(scalar);
    const GatedForward<T, decltype(activation)::value> f{Data<T>(gate_up), gate_up.row_stride,
                                                         Data<T>(y), y.row_stride, width};
    ForPacks<decltype(pack)::value>(ctx, "gated_activation forward", rows, width, f);
  });
}

void GatedActivationBackward(Context& ctx, Activation act, const Tensor& dy, const Tensor& gate_up,
                             Tensor d_gate_up) {
  const int64_t rows = dy.shape[0], width = dy.shape[1];
  Dispatch(act, width, {gate_up, dy, d_gate_up}, [&](auto scalar, auto activation, auto pack) {
    using T = decltype(scalar);
    const GatedBackward<T, decltype(activation)::value> f{Data<T>(dy),
                                                          dy.row_stride,
                                                          Data<T>(gate_up),
                                                          gate_up.row_stride,
                                                          Data<T>(d_gate_up),
                                                          d_gate_up.row_stride,
                                                          width};
    ForPacks<decltype(pack)::value>(ctx, "gated_activation backward", rows, width, f);
  });
}

}  // namespace omnitrain::cuda
