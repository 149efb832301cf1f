#include <algorithm>

#include "kernels/common/cuda.cuh"
#include "kernels/common/tensor_map.cuh"
#include "kernels/moe/grouped_linear_cuda.h"
#include "kernels/moe/grouped_linear_kernel.cuh"

namespace omnitrain::cuda {
namespace {

/// What the kernel needs of the GPU, and its counter of tiles; one per context, whose launches
/// follow each other.
struct Machine {
  int num_multiprocessors = 0;
  Buffer next_tile;

  static Machine& Of(Context& ctx) {
    Machine& machine = ctx.State<Machine>();
    if (machine.num_multiprocessors > 0) return machine;
    int device = 0;
    OT_CUDA(cudaGetDevice(&device));
    OT_CUDA(cudaDeviceGetAttribute(&machine.num_multiprocessors, cudaDevAttrMultiProcessorCount,
                                   device));
    machine.next_tile = Buffer(ctx.device(), sizeof(int));
    ctx.device().Fill(machine.next_tile.data(), 0, sizeof(int), ctx.stream());
    return machine;
  }
};

bool IsAligned(const Tensor& t) {
  const auto bytes = static_cast<int64_t>(DTypeBytes(t.dtype));
  const int rank = t.shape.rank();
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.row_stride * bytes % 16 == 0 &&
         t.shape[rank - 1] * bytes % 16 == 0;
}

/// Boxes of `box_rows` rows of a [rows, width] tensor, or of one of [E, rows, width].
CUtensorMap MapOf(const Tensor& t, int box_rows) {
  const auto bytes = static_cast<int64_t>(DTypeBytes(t.dtype));
  if (t.shape.rank() == 2) {
    const int64_t stride = std::max(t.row_stride, t.shape[1]) * bytes;
    return MakeTensorMap(t.data, t.dtype, {{t.shape[1], t.shape[0], 1}, {stride, stride}},
                         box_rows);
  }
  const int64_t stride = t.shape[2] * bytes;
  return MakeTensorMap(t.data, t.dtype,
                       {{t.shape[2], t.shape[1], t.shape[0]}, {stride, stride * t.shape[1]}},
                       box_rows);
}

template <Product kProduct>
void Launch(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& c,
            const std::vector<int64_t>& offsets, GroupedProblem problem) {
  std::vector<size_t> experts;
  const auto num_rows = [&](size_t e) { return offsets[e + 1] - offsets[e]; };
  for (size_t e = 0; e + 1 < offsets.size(); ++e) {
    if (num_rows(e) > 0) experts.push_back(e);
  }
  if (experts.empty() || c.num_elements() == 0) return;
  // Experts keep their order: large groups, bound by arithmetic, then run beside small ones, bound
  // by what they read of w. But a tile of a weight gradient takes as long as its group is: there
  // the largest come first, lest the last block end late.
  if (kProduct == Product::kWeightGrad) {
    std::stable_sort(experts.begin(), experts.end(),
                     [&](size_t e, size_t f) { return num_rows(e) > num_rows(f); });
  }
  const auto a_map = MapOf(a, kBoxSide), b_map = MapOf(b, kBoxSide), c_map = MapOf(c, kWarpRows);
  Machine& machine = Machine::Of(ctx);
  problem.next_tile = static_cast<int*>(machine.next_tile.data());
  const auto kernel = GroupedLinearKernel<kProduct>;
  OT_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               sizeof(GroupedShared<kProduct>)));
  constexpr size_t kMax = GroupedProblem::kMaxGroups;
  for (size_t first = 0; first < experts.size(); first += kMax) {
    problem.num_groups = static_cast<int>(std::min(experts.size() - first, kMax));
    int num_tiles = 0;
    for (int g = 0; g < problem.num_groups; ++g) {
      const size_t e = experts[first + static_cast<size_t>(g)];
      problem.expert[g] = static_cast<uint16_t>(e);
      problem.first_row[g] = static_cast<int>(offsets[e]);
      problem.num_rows[g] = static_cast<int>(num_rows(e));
      problem.first_tile[g] = num_tiles;
      const int m = kProduct == Product::kWeightGrad ? problem.m : problem.num_rows[g];
      num_tiles += static_cast<int>(CeilDiv(m, kTileM) * CeilDiv(problem.n, kTileN));
    }
    problem.first_tile[problem.num_groups] = num_tiles;
    const int blocks = std::min(num_tiles, machine.num_multiprocessors);
    kernel<<<blocks, kGroupedThreads, sizeof(GroupedShared<kProduct>), StreamOf(ctx)>>>(
        a_map, b_map, c_map, problem);
    CheckLaunch("GroupedLinearKernel");
  }
}

/// c, whose rows are those of the groups.
GroupedProblem RowsProblem(const Tensor& c, int64_t k, Write write) {
  GroupedProblem problem;
  problem.m = 0;
  problem.n = static_cast<int>(c.shape[1]);
  problem.k = static_cast<int>(k);
  problem.c = Data<__nv_bfloat16>(c);
  problem.c_stride = c.row_stride;
  problem.adds = write == Write::kAccumulate;
  return problem;
}

}  // namespace

bool FitsGroupedKernel(const Tensor& x, const Tensor& w, const Tensor& y) {
  constexpr int64_t kMaxRows = int64_t{1} << 30;  // coordinates are 32 bits
  return x.dtype == DType::kBF16 && IsAligned(x) && IsAligned(w) && IsAligned(y) &&
         x.shape[0] < kMaxRows && x.shape[1] > 0 && w.shape[1] > 0 && IsHopper();
}

void GroupedLinearForward(Context& ctx, const Tensor& x, const Tensor& w,
                          const std::vector<int64_t>& offsets, Write write, const Tensor& y) {
  Launch<Product::kForward>(ctx, x, w, y, offsets, RowsProblem(y, x.shape[1], write));
}

void GroupedLinearInputGrad(Context& ctx, const Tensor& dy, const Tensor& w,
                            const std::vector<int64_t>& offsets, Write write, const Tensor& dx) {
  Launch<Product::kInputGrad>(ctx, dy, w, dx, offsets, RowsProblem(dx, dy.shape[1], write));
}

void GroupedLinearWeightGrad(Context& ctx, const Tensor& x, const Tensor& dy,
                             const std::vector<int64_t>& offsets, const Tensor& dw) {
  GroupedProblem problem;
  problem.m = static_cast<int>(dw.shape[1]);
  problem.n = static_cast<int>(dw.shape[2]);
  problem.k = 0;
  problem.c = nullptr;
  problem.c_stride = 0;
  problem.adds = true;
  Launch<Product::kWeightGrad>(ctx, dy, x, dw, offsets, problem);
}

}  // namespace omnitrain::cuda
