#include <cub/device/device_radix_sort.cuh>

#include "core/runtime/carver.h"
#include "kernels/common/row_group.cuh"
#include "kernels/moe/moe_impl.h"

namespace omnitrain::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void IdentityKernel(int32_t* order, int count) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < count) order[i] = i;
}

/// order[r] is the (token, slot) pair that row r holds.
__global__ void PlacesKernel(const int32_t* order, int count, int top_k, int32_t* row_of,
                             int32_t* token_of) {
  const int r = blockIdx.x * kThreads + threadIdx.x;
  if (r >= count) return;
  row_of[order[r]] = r;
  token_of[r] = order[r] / top_k;
}

/// The first place in `sorted` that holds at least `value`.
__device__ int LowerBound(const int32_t* sorted, int count, int value) {
  int begin = 0;
  while (count > 0) {
    const int half = count / 2;
    if (sorted[begin + half] < value) {
      begin += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return begin;
}

__global__ void RunLengthsKernel(const int32_t* sorted, int count, int num_experts,
                                 int32_t* counts) {
  const int e = blockIdx.x * kThreads + threadIdx.x;
  if (e >= num_experts) return;
  counts[e] = LowerBound(sorted, count, e + 1) - LowerBound(sorted, count, e);
}

/// to[t] (= or +=) sum_k weights[t, k] sorted[row_of[t, k]], weights absent: 1.
template <typename T>
struct SumRows {
  const T* sorted;
  int64_t sorted_stride;
  const int32_t* row_of;
  const float* weights;
  int top_k;
  bool accumulates;
  T* to;
  int64_t to_stride;

  template <int N>
  __device__ void Run(int64_t token, int64_t column) const {
    float sum[N] = {};
    auto& out = *reinterpret_cast<Pack<T, N>*>(to + token * to_stride + column);
    if (accumulates) {
      const Pack<T, N> before = out;
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] = ToFloat(before.v[i]);
    }
    for (int64_t k = token * top_k; k < (token + 1) * top_k; ++k) {
      const float scale = weights == nullptr ? 1.0f : weights[k];
      const auto p =
          *reinterpret_cast<const Pack<T, N>*>(sorted + row_of[k] * sorted_stride + column);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += scale * ToFloat(p.v[i]);
    }
    Pack<T, N> result;
#pragma unroll
    for (int i = 0; i < N; ++i) result.v[i] = FromFloat<T>(sum[i]);
    out = result;
  }
};

void Sum(Context& ctx, const char* name, const Tensor& sorted, const Tensor& row_of,
         const float* weights, Write write, const Tensor& to) {
  DispatchCompute(to.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const SumRows<T> sum{Data<T>(sorted),
                         sorted.row_stride,
                         Data<int32_t>(row_of),
                         weights,
                         static_cast<int>(row_of.shape[1]),
                         write == Write::kAccumulate,
                         Data<T>(to),
                         to.row_stride};
    DispatchPack<T>({PackOf<T>(sorted), PackOf<T>(to)}, [&](auto pack) {
      ForPacks<decltype(pack)::value>(ctx, name, to.shape[0], to.shape[1], sum);
    });
  });
}

/// A group of kLanes a (token, slot) pair. d_sorted may be sorted: each thread reads what it
/// writes.
template <typename T, int N, int kLanes>
__global__ void __launch_bounds__(kRowThreads)
    CombineBackwardKernel(const T* sorted, int64_t sorted_stride, const int32_t* row_of,
                          const float* weights, int top_k, const T* dy, int64_t dy_stride,
                          int64_t width, int64_t num_pairs, T* d_sorted, int64_t d_sorted_stride,
                          float* d_weights) {
  const int64_t pair =
      static_cast<int64_t>(blockIdx.x) * (kRowThreads / kLanes) + threadIdx.x / kLanes;
  if (pair >= num_pairs) return;  // a warp's pairs end together; a block has one
  const int lane = threadIdx.x % kLanes;
  const int64_t row = row_of[pair];
  const T *from = sorted + row * sorted_stride, *d = dy + pair / top_k * dy_stride;
  T* to = d_sorted + row * d_sorted_stride;
  const float weight = weights[pair];
  float sum = 0;
  for (int64_t j = lane * N; j < width; j += kLanes * N) {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(from + j);
    const auto g = *reinterpret_cast<const Pack<T, N>*>(d + j);
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum += ToFloat(g.v[i]) * ToFloat(p.v[i]);
      out.v[i] = FromFloat<T>(weight * ToFloat(g.v[i]));
    }
    *reinterpret_cast<Pack<T, N>*>(to + j) = out;
  }
  sum = RowSum<kLanes>(sum);
  if (lane == 0) d_weights[pair] = sum;
}

}  // namespace

void MoePlan(Context& ctx, const Tensor& expert_ids, Tensor counts, Tensor row_of,
             Tensor token_of) {
  const int64_t entries = expert_ids.num_elements(), num_experts = counts.shape[0];
  OT_CHECK(entries < INT32_MAX - kThreads && num_experts < INT32_MAX - kThreads,
           "moe_plan: {} rows of {} experts", entries, num_experts);
  if (num_experts == 0) return;
  const int count = static_cast<int>(entries), experts = static_cast<int>(num_experts);
  const cudaStream_t stream = StreamOf(ctx);
  const auto blocks = [](int64_t n) { return static_cast<unsigned>(CeilDiv(n, kThreads)); };
  if (count == 0) {
    OT_CUDA(cudaMemsetAsync(counts.data, 0, static_cast<size_t>(counts.num_bytes()), stream));
    return;
  }
  int num_bits = 1;
  while (num_bits < 31 && (int64_t{1} << num_bits) < num_experts) ++num_bits;
  const auto* keys = Data<int32_t>(expert_ids);
  size_t sort_bytes = 0;
  OT_CUDA(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, keys, static_cast<int32_t*>(nullptr),
                                          static_cast<const int32_t*>(nullptr),
                                          static_cast<int32_t*>(nullptr), count, 0, num_bits,
                                          stream));
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

  IdentityKernel<<<blocks(count), kThreads, 0, stream>>>(Data<int32_t>(w.identity), count);
  CheckLaunch("IdentityKernel");
  // Radix sort is stable: rows of one expert stay in the order of tokens and slots.
  OT_CUDA(cub::DeviceRadixSort::SortPairs(w.temporary.data, sort_bytes, keys,
                                          Data<int32_t>(w.sorted), Data<int32_t>(w.identity),
                                          Data<int32_t>(w.order), count, 0, num_bits, stream));
  PlacesKernel<<<blocks(count), kThreads, 0, stream>>>(
      Data<int32_t>(w.order), count, static_cast<int>(expert_ids.shape[1]), Data<int32_t>(row_of),
      Data<int32_t>(token_of));
  CheckLaunch("PlacesKernel");
  RunLengthsKernel<<<blocks(experts), kThreads, 0, stream>>>(Data<int32_t>(w.sorted), count,
                                                             experts, Data<int32_t>(counts));
  CheckLaunch("RunLengthsKernel");
}

void MoeGatherBackward(Context& ctx, const Tensor& d_sorted, const Tensor& row_of, Write write,
                       Tensor dx) {
  Sum(ctx, "moe_gather_backward", d_sorted, row_of, nullptr, write, dx);
}

void MoeCombineForward(Context& ctx, const Tensor& sorted, const Tensor& row_of,
                       const Tensor& weights, Write write, Tensor y) {
  Sum(ctx, "moe_combine_forward", sorted, row_of, Data<float>(weights), write, y);
}

void MoeCombineBackward(Context& ctx, const Tensor& sorted, const Tensor& row_of,
                        const Tensor& weights, const Tensor& dy, Tensor d_sorted,
                        Tensor d_weights) {
  const int64_t num_pairs = row_of.num_elements(), width = dy.shape[1];
  if (num_pairs == 0) return;
  DispatchCompute(dy.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    DispatchPack<T>({PackOf<T>(sorted), PackOf<T>(dy), PackOf<T>(d_sorted)}, [&](auto pack) {
      DispatchLanes(width, kWidestOfWarp, [&](auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        CombineBackwardKernel<T, decltype(pack)::value, kLanes>
            <<<NumRowBlocks<kLanes>(num_pairs), kRowThreads, 0, StreamOf(ctx)>>>(
                Data<T>(sorted), sorted.row_stride, Data<int32_t>(row_of), Data<float>(weights),
                static_cast<int>(row_of.shape[1]), Data<T>(dy), dy.row_stride, width, num_pairs,
                Data<T>(d_sorted), d_sorted.row_stride, Data<float>(d_weights));
        CheckLaunch("CombineBackwardKernel");
      });
    });
  });
}

}  // namespace omnitrain::cuda
