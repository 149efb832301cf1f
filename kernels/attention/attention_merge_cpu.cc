#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention/attention_impl.h"
#include "kernels/common/parallel.h"

namespace omnitrain::cpu {

template <typename T>
void AttentionMerge(const Tensor& o_part, const Tensor& lse_part, Tensor o, Tensor lse) {
  const int64_t num_heads = o.shape[1], head_dim = o.shape[2];
  const RowPointers<const T> from{o_part.ptr<T>(), o_part.row_stride, num_heads, head_dim};
  const RowPointers<T> to{o.ptr<T>(), o.row_stride, num_heads, head_dim};
  const T* lse_from = lse_part.ptr<T>();
  T* lse_to = lse.ptr<T>();
  ParallelFor(o.shape[0] * num_heads, head_dim, [&](int64_t i) {
    const int64_t token = i / num_heads, head = i % num_heads;
    T& both = lse_to[head * lse.row_stride + token];
    const T mine = both, part = lse_from[head * lse_part.row_stride + token];
    const T max = std::max(mine, part);
    if (max == -std::numeric_limits<T>::infinity()) return;
    both = max + std::log(std::exp(mine - max) + std::exp(part - max));
    const T keep = std::exp(mine - both), add = std::exp(part - both);
    for (int64_t d = 0; d < head_dim; ++d) to[i][d] = keep * to[i][d] + add * from[i][d];
  });
}

template void AttentionMerge<float>(const Tensor&, const Tensor&, Tensor, Tensor);
template void AttentionMerge<double>(const Tensor&, const Tensor&, Tensor, Tensor);

}  // namespace omnitrain::cpu
