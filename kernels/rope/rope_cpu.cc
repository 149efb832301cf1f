#include "kernels/common/parallel.h"
#include "kernels/rope/rope_impl.h"

namespace omnitrain::cpu {
namespace {

/// sign = -1 turns back.
template <typename S>
void TurnHead(const S* cos, const S* sin, S sign, int64_t half, S* x) {
  S* y = x + half;
#pragma omp simd
  for (int64_t j = 0; j < half; ++j) {
    const S a = x[j], b = y[j], c = cos[j], s = sign * sin[j];
    x[j] = a * c - b * s;
    y[j] = b * c + a * s;
  }
}

}  // namespace

void ApplyRope(const Tensor& cos, const Tensor& sin, RopeDirection direction, Tensor x) {
  DispatchReal(x.dtype, [&](auto zero) {
    using S = decltype(zero);
    const int64_t num_heads = x.shape[1], head_dim = x.shape[2];
    const S sign = direction == RopeDirection::kForward ? S(1) : S(-1);
    ParallelFor(x.rows(), num_heads * head_dim, [&](int64_t t) {
      const S *c = cos.row<S>(t), *s = sin.row<S>(t);
      S* row = x.row<S>(t);
      for (int64_t h = 0; h < num_heads; ++h)
        TurnHead(c, s, sign, head_dim / 2, row + h * head_dim);
    });
  });
}

}  // namespace omnitrain::cpu
