#include "core/model/host_tables.h"

#include <algorithm>
#include <cmath>

#include "kernels/elementwise/elementwise.h"

namespace omnitrain {
namespace {

// Sample points of torch.linspace(0, last, count) in its closed form, rounded to f32 after each
// operation: the weights that follow from them inherit its last bits.
std::vector<float> Linspace(float last, int count) {
  std::vector<float> points(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    points[i] = static_cast<float>(i) * last / static_cast<float>(std::max(count - 1, 1));
  }
  return points;
}

}  // namespace

InterpolationTable BuildInterpolationTable(const ItemBatch& items, int side) {
  InterpolationTable table;
  table.index.resize(static_cast<size_t>(items.num_patches()) * 4);
  table.weight.resize(table.index.size());
  int64_t patch = 0;
  for (const ItemGrid& grid : items.grids) {
    const std::vector<float> ys = Linspace(static_cast<float>(side - 1), grid.h);
    const std::vector<float> xs = Linspace(static_cast<float>(side - 1), grid.w);
    for (int64_t i = 0; i < grid.num_patches(); ++i, ++patch) {
      const float y = ys[items.coordinates[2 * patch]], x = xs[items.coordinates[2 * patch + 1]];
      const int y0 = static_cast<int>(y), x0 = static_cast<int>(x);
      const int y1 = std::min(y0 + 1, side - 1), x1 = std::min(x0 + 1, side - 1);
      const float dy = y - static_cast<float>(y0), dx = x - static_cast<float>(x0);
      const int32_t index[4] = {y0 * side + x0, y0 * side + x1, y1 * side + x0, y1 * side + x1};
      const float weight[4] = {(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx};
      std::copy(index, index + 4, table.index.begin() + 4 * patch);
      std::copy(weight, weight + 4, table.weight.begin() + 4 * patch);
    }
  }
  OT_CHECK(patch == items.num_patches(), "{} patches on the grids, {} coordinates", patch,
           items.num_patches());
  return table;
}

SequenceInputs::Segments CarveSegments(Carver& carver, const std::vector<int32_t>& cu_seqlens) {
  SequenceInputs::Segments segments;
  segments.cu_seqlens = carver.Take(DType::kI32, {static_cast<int64_t>(cu_seqlens.size())});
  for (size_t i = 1; i < cu_seqlens.size(); ++i) {
    segments.max_seqlen = std::max<int64_t>(segments.max_seqlen, cu_seqlens[i] - cu_seqlens[i - 1]);
  }
  return segments;
}

void Upload(Context& ctx, const std::vector<float>& values, Tensor to) {
  OT_CHECK(static_cast<int64_t>(values.size()) == to.num_elements(), "{} values into {}",
           values.size(), Describe(to));
  if (values.empty()) return;
  Tensor staged = to;
  if (to.dtype != DType::kF32) {
    staged = Tensor(ctx.Scratch(values.size() * sizeof(float)), DType::kF32, to.shape, to.device);
  }
  ctx.device().Copy(staged.data, values.data(), values.size() * sizeof(float), ctx.stream());
  if (to.dtype != DType::kF32) Cast(ctx, staged, to);
}

void Upload(Context& ctx, const std::vector<int32_t>& values, Tensor to) {
  OT_CHECK(static_cast<int64_t>(values.size()) == to.num_elements(), "{} values into {}",
           values.size(), Describe(to));
  to.ptr<int32_t>();  // checks the dtype
  ctx.device().Copy(to.data, values.data(), values.size() * sizeof(int32_t), ctx.stream());
}

}  // namespace omnitrain
