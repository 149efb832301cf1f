#include "kernels/common/column_sums.cuh"
#include "kernels/gemm/gemm_cuda.h"

namespace omnitrain::cuda {
namespace {

template <typename T>
struct Itself {
  const T* x;
  int64_t stride;

  template <int N>
  __device__ void Run(int64_t row, int64_t column, float (&values)[1][N]) const {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(x + row * stride + column);
#pragma unroll
    for (int i = 0; i < N; ++i) values[0][i] = ToFloat(pack.v[i]);
  }
};

}  // namespace

void AddColumnSums(Context& ctx, const Tensor& x, const Tensor& sums) {
  DispatchCompute(x.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const Itself<T> itself{Data<T>(x), x.row_stride};
    const ColumnSumTargets<1> targets{{Data<float>(sums)}};
    const int64_t rows = x.shape[0], width = x.shape[1];
    if (PackWidth<T>(x.data, x.row_stride, width) >= 4) {
      AddColumnSums<1, 4>(ctx, itself, rows, width, targets);
    } else {
      AddColumnSums<1, 1>(ctx, itself, rows, width, targets);
    }
  });
}

}  // namespace omnitrain::cuda
