#include "kernels/common/parallel.h"
#include "kernels/reduce/reduce_impl.h"

namespace omnitrain::cpu {

void SumOfSquares(Context& ctx, const Tensor& x, Tensor result) {
  constexpr int64_t kBlock = 8192;
  const int64_t size = x.num_elements(), num_blocks = (size + kBlock - 1) / kBlock;
  double* partial =
      static_cast<double*>(ctx.Scratch(static_cast<size_t>(num_blocks) * sizeof(double)));
  DispatchReal(x.dtype, [&](auto zero) {
    using S = decltype(zero);
    const S* data = x.ptr<S>();
    ParallelFor(num_blocks, kBlock, [=](int64_t block) {
      const S* p = data + block * kBlock;
      partial[block] = LaneSum<double>(std::min(kBlock, size - block * kBlock), [=](int64_t i) {
        const double value = p[i];
        return value * value;
      });
    });
  });
  *result.ptr<double>() += LaneSum<double>(num_blocks, [=](int64_t i) { return partial[i]; });
}

}  // namespace omnitrain::cpu
