#include <cub/device/device_radix_sort.cuh>

#include "core/runtime/carver.h"
#include "kernels/common/row_group.cuh"
#include "kernels/rows/row_sums_cuda.h"

namespace omnitrain::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void CountKernel(int32_t* order, int count) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < count) order[i] = i;
}

/// One block an entry; the first entry of a run of equal indices adds up the whole run.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    AddRunsKernel(const int32_t* sorted, const int32_t* order, int count, int fanout, const T* src,
                  int64_t src_stride, const T* weight, int64_t width, float* dst,
                  int64_t dst_stride) {
  const int begin = blockIdx.x;
  const int32_t index = sorted[begin];
  if (index < 0 || (begin > 0 && sorted[begin - 1] == index)) return;
  int end = begin + 1;
  while (end < count && sorted[end] == index) ++end;
  for (int64_t j = threadIdx.x * N; j < width; j += kThreads * N) {
    float sum[N] = {};
    for (int k = begin; k < end; ++k) {
      const int entry = order[k];
      const float scale = weight == nullptr ? 1.0f : ToFloat(weight[entry]);
      const auto p = *reinterpret_cast<const Pack<T, N>*>(
          src + static_cast<int64_t>(entry / fanout) * src_stride + j);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += scale * ToFloat(p.v[i]);
    }
    float* to = dst + index * dst_stride + j;
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] += sum[i];
  }
}

}  // namespace

void AddRowSums(Context& ctx, const Tensor& src, const Tensor& index, const Tensor& weight,
                const Tensor& dst) {
  const int64_t entries = index.num_elements(), width = src.shape[1];
  if (entries == 0 || width == 0) return;
  OT_CHECK(entries < INT32_MAX - kThreads, "{} indices", entries);
  const int count = static_cast<int>(entries);
  const cudaStream_t stream = StreamOf(ctx);
  const auto* keys = Data<int32_t>(index);
  size_t sort_bytes = 0;
  OT_CUDA(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, keys, static_cast<int32_t*>(nullptr),
                                          static_cast<const int32_t*>(nullptr),
                                          static_cast<int32_t*>(nullptr), count, 0, 32, stream));
  struct Work {
    Tensor sorted, identity, order, temporary;
  };
  const auto carve = [&](Carver& carver) {
    Work w;
    w.sorted = carver.Take(DType::kI32, {entries});
    w.identity = carver.Take(DType::kI32, {entries});
    w.order = carver.Take(DType::kI32, {entries});
    w.temporary = carver.Take(DType::kU8, {static_cast<int64_t>(sort_bytes)});
    return w;
  };
  Carver measure(DeviceKind::kCuda);
  carve(measure);
  Carver carver(ctx.Scratch(measure.used()), measure.used(), DeviceKind::kCuda);
  const Work w = carve(carver);

  CountKernel<<<static_cast<unsigned>(CeilDiv(count, kThreads)), kThreads, 0, stream>>>(
      Data<int32_t>(w.identity), count);
  CheckLaunch("CountKernel");
  OT_CUDA(cub::DeviceRadixSort::SortPairs(w.temporary.data, sort_bytes, keys,
                                          Data<int32_t>(w.sorted), Data<int32_t>(w.identity),
                                          Data<int32_t>(w.order), count, 0, 32, stream));
  DispatchCompute(src.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    DispatchPack<T>({PackOf<T>(src)}, [&](auto pack) {
      AddRunsKernel<T, decltype(pack)::value>
          <<<static_cast<unsigned>(count), kThreads, 0, stream>>>(
              Data<int32_t>(w.sorted), Data<int32_t>(w.order), count,
              static_cast<int>(entries / src.shape[0]), Data<T>(src), src.row_stride,
              weight ? Data<T>(weight) : nullptr, width, Data<float>(dst), dst.row_stride);
      CheckLaunch("AddRunsKernel");
    });
  });
}

}  // namespace omnitrain::cuda
