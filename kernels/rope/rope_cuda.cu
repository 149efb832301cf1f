#include "kernels/common/row_group.cuh"
#include "kernels/rope/rope_impl.h"

namespace omnitrain::cuda {
namespace {

/// Turns the pairs (column, column + half) of one head.
template <typename T>
struct Turn {
  const T *cos, *sin;
  int64_t table_stride_cos, table_stride_sin;
  float sign;  // -1 turns back
  T* x;
  int64_t stride, head_dim;
  int num_heads;

  template <int N>
  __device__ void Run(int64_t row, int64_t column) const {
    const int64_t t = row / num_heads, h = row % num_heads;
    const auto c = *reinterpret_cast<const Pack<T, N>*>(cos + t * table_stride_cos + column);
    const auto s = *reinterpret_cast<const Pack<T, N>*>(sin + t * table_stride_sin + column);
    T* left = x + t * stride + h * head_dim + column;
    T* right = left + head_dim / 2;
    Pack<T, N> a = *reinterpret_cast<Pack<T, N>*>(left);
    Pack<T, N> b = *reinterpret_cast<Pack<T, N>*>(right);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float u = ToFloat(a.v[i]), v = ToFloat(b.v[i]);
      const float cosine = ToFloat(c.v[i]), sine = sign * ToFloat(s.v[i]);
      a.v[i] = FromFloat<T>(u * cosine - v * sine);
      b.v[i] = FromFloat<T>(v * cosine + u * sine);
    }
    *reinterpret_cast<Pack<T, N>*>(left) = a;
    *reinterpret_cast<Pack<T, N>*>(right) = b;
  }
};

}  // namespace

void ApplyRope(Context& ctx, const Tensor& cos, const Tensor& sin, RopeDirection direction,
               Tensor x) {
  const int64_t num_heads = x.shape[1], half = x.shape[2] / 2;
  DispatchCompute(x.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const Turn<T> turn{Data<T>(cos),
                       Data<T>(sin),
                       cos.row_stride,
                       sin.row_stride,
                       direction == RopeDirection::kForward ? 1.0f : -1.0f,
                       Data<T>(x),
                       x.row_stride,
                       x.shape[2],
                       static_cast<int>(num_heads)};
    // Heads start a multiple of K apart, their halves K/2.
    DispatchPack<T>(
        {PackWidth<T>(x.data, x.row_stride, half), PackWidth<T>(cos.data, cos.row_stride, half),
         PackWidth<T>(sin.data, sin.row_stride, half)},
        [&](auto pack) {
          ForPacks<decltype(pack)::value>(ctx, "rope", x.shape[0] * num_heads, half, turn);
        });
  });
}

}  // namespace omnitrain::cuda
