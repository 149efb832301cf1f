#include "kernels/common/row_group.cuh"
#include "kernels/rope/rope_impl.h"

namespace omnitrain::cuda {
namespace {

/// N table entries, 16 bytes at a time where there are that many.
template <int N>
__device__ __forceinline__ void Load(const float* from, float* to) {
  constexpr int kStep = N < 4 ? N : 4;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    const auto pack = *reinterpret_cast<const Pack<float, kStep>*>(from + i);
#pragma unroll
    for (int k = 0; k < kStep; ++k) to[i + k] = pack.v[k];
  }
}

/// Turns the pairs (column, column + half) of one head.
template <typename T>
struct Turn {
  const float *cos, *sin;
  int64_t table_stride_cos, table_stride_sin;
  float sign;  // -1 turns back
  T* x;
  int64_t stride, head_dim;
  int num_heads;

  template <int N>
  __device__ void Run(int64_t row, int64_t column) const {
    const int64_t t = row / num_heads, h = row % num_heads;
    float c[N], s[N];
    Load<N>(cos + t * table_stride_cos + column, c);
    Load<N>(sin + t * table_stride_sin + column, s);
    T* left = x + t * stride + h * head_dim + column;
    T* right = left + head_dim / 2;
    Pack<T, N> a = *reinterpret_cast<Pack<T, N>*>(left);
    Pack<T, N> b = *reinterpret_cast<Pack<T, N>*>(right);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float u = ToFloat(a.v[i]), v = ToFloat(b.v[i]);
      const float cosine = c[i], sine = sign * s[i];
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
    const Turn<T> turn{Data<float>(cos),
                       Data<float>(sin),
                       cos.row_stride,
                       sin.row_stride,
                       direction == RopeDirection::kForward ? 1.0f : -1.0f,
                       Data<T>(x),
                       x.row_stride,
                       x.shape[2],
                       static_cast<int>(num_heads)};
    // Heads start a multiple of K apart, their halves K/2. Where x allows packs of 16 bytes, as
    // many table entries start on as fine a border, for they are no narrower.
    DispatchPack<T>(
        {PackWidth<T>(x.data, x.row_stride, half), PackWidth<T>(cos.data, cos.row_stride, half),
         PackWidth<T>(sin.data, sin.row_stride, half)},
        [&](auto pack) {
          ForPacks<decltype(pack)::value>(ctx, "rope", x.shape[0] * num_heads, half, turn);
        });
  });
}

}  // namespace omnitrain::cuda
