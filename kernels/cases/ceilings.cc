#include "kernels/cases/ceilings.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "core/base/rng.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/gemm/gemm.h"

namespace omnitrain {
namespace {

double BestSeconds(Context& ctx, const std::function<void()>& body) {
  constexpr int kRepetitions = 8;
  const auto begin = ctx.device().NewEvent(), end = ctx.device().NewEvent();
  double best = INFINITY;
  for (int i = 0; i < kRepetitions; ++i) {
    begin->Record(ctx.stream());
    body();
    end->Record(ctx.stream());
    end->Synchronize();
    best = std::min(best, end->ElapsedMsSince(*begin) * 1e-3);
  }
  return best;
}

}  // namespace

double MeasureGemmFlops(Context& ctx, DType dtype) {
  const int64_t side = ctx.is_cuda() ? 8192 : 1024;
  const Shape square = {side, side};
  const OwnedTensor a(ctx.device(), dtype, square), b(ctx.device(), dtype, square),
      c(ctx.device(), dtype, square);
  // A period that no side is a multiple of.
  constexpr size_t kPeriod = 65537;
  std::vector<float> period(kPeriod), values(static_cast<size_t>(side * side));
  for (size_t i = 0; i < kPeriod; ++i) period[i] = static_cast<float>(RandomNormal(3, 0, i));
  for (size_t i = 0; i < values.size(); ++i) values[i] = period[i % kPeriod];
  {
    const OwnedTensor staged(ctx.device(), DType::kF32, square);
    ctx.device().Copy(staged->data, values.data(), values.size() * sizeof(float), ctx.stream());
    Cast(ctx, *staged, *a);
    Cast(ctx, *staged, *b);
    ctx.stream().Synchronize();
  }
  const double flops = 2.0 * static_cast<double>(side) * static_cast<double>(side * side);
  return flops /
         BestSeconds(ctx, [&] { LinearForward(ctx, *a, *b, Tensor(), Write::kOverwrite, *c); });
}

double MeasureCopyRate(Context& ctx, int64_t bytes) {
  const int64_t count = std::max<int64_t>(bytes / 2, 4096) / 4;
  const OwnedTensor from(ctx.device(), DType::kF32, {count}),
      to(ctx.device(), DType::kF32, {count});
  Zero(ctx, *from);
  // An op of ours: a copy of the device's own would have a stream's overhead of another kind.
  return 2.0 * static_cast<double>(from->num_bytes()) /
         BestSeconds(ctx, [&] { Cast(ctx, *from, *to); });
}

}  // namespace omnitrain
