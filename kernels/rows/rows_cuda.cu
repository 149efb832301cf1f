#include "kernels/common/row_group.cuh"
#include "kernels/rows/row_sums_cuda.h"
#include "kernels/rows/rows_impl.h"

namespace omnitrain::cuda {
namespace {

/// dst[to(i)] (= or +=) src[from(i)] for the rows that index joins.
template <typename T, bool kGathers>
struct MoveRows {
  const T* src;
  int64_t src_stride;
  const int32_t* index;
  bool accumulates;
  T* dst;
  int64_t dst_stride;

  template <int N>
  __device__ void Run(int64_t row, int64_t column) const {
    const int64_t other = index[row];
    if constexpr (!kGathers) {
      if (other < 0) return;
    }
    const int64_t from = kGathers ? other : row, target = kGathers ? row : other;
    auto& to = *reinterpret_cast<Pack<T, N>*>(dst + target * dst_stride + column);
    Pack<T, N> out;
    if (from >= 0) {
      out = *reinterpret_cast<const Pack<T, N>*>(src + from * src_stride + column);
    } else {
      if (accumulates) return;
#pragma unroll
      for (int i = 0; i < N; ++i) out.v[i] = FromFloat<T>(0);
    }
    if (accumulates) {
      const Pack<T, N> before = to;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        out.v[i] = FromFloat<T>(ToFloat(before.v[i]) + ToFloat(out.v[i]));
      }
    }
    to = out;
  }
};

template <typename T>
struct Interpolate {
  const T* table;
  int64_t table_stride;
  const int32_t* index;
  const T* weight;
  bool accumulates;
  T* dst;
  int64_t dst_stride;

  template <int N>
  __device__ void Run(int64_t row, int64_t column) const {
    float sum[N] = {};
    auto& to = *reinterpret_cast<Pack<T, N>*>(dst + row * dst_stride + column);
    if (accumulates) {
      const Pack<T, N> before = to;
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] = ToFloat(before.v[i]);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int64_t from = index[4 * row + k];
      if (from < 0) continue;
      const float scale = ToFloat(weight[4 * row + k]);
      const auto p = *reinterpret_cast<const Pack<T, N>*>(table + from * table_stride + column);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += scale * ToFloat(p.v[i]);
    }
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.v[i] = FromFloat<T>(sum[i]);
    to = out;
  }
};

template <bool kGathers>
void Move(Context& ctx, const char* name, const Tensor& src, const Tensor& index, Write write,
          const Tensor& dst) {
  DispatchCompute(dst.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const MoveRows<T, kGathers> move{Data<T>(src),         src.row_stride,
                                     Data<int32_t>(index), write == Write::kAccumulate,
                                     Data<T>(dst),         dst.row_stride};
    DispatchPack<T>({PackOf<T>(src), PackOf<T>(dst)}, [&](auto pack) {
      ForPacks<decltype(pack)::value>(ctx, name, index.rows(), dst.shape[1], move);
    });
  });
}

}  // namespace

void GatherRows(Context& ctx, const Tensor& src, const Tensor& index, Write write, Tensor dst) {
  Move<true>(ctx, "gather_rows", src, index, write, dst);
}

void ScatterRows(Context& ctx, const Tensor& src, const Tensor& index, Write write, Tensor dst) {
  Move<false>(ctx, "scatter_rows", src, index, write, dst);
}

void ScatterAddRows(Context& ctx, const Tensor& src, const Tensor& index, Tensor dst) {
  AddRowSums(ctx, src, index, Tensor(), dst);
}

void InterpolateRows(Context& ctx, const Tensor& table, const Tensor& index, const Tensor& weight,
                     Write write, Tensor dst) {
  DispatchCompute(dst.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const Interpolate<T> interpolate{Data<T>(table),
                                     table.row_stride,
                                     Data<int32_t>(index),
                                     Data<T>(weight),
                                     write == Write::kAccumulate,
                                     Data<T>(dst),
                                     dst.row_stride};
    DispatchPack<T>({PackOf<T>(table), PackOf<T>(dst)}, [&](auto pack) {
      ForPacks<decltype(pack)::value>(ctx, "interpolate_rows", dst.shape[0], dst.shape[1],
                                      interpolate);
    });
  });
}

void InterpolateRowsBackward(Context& ctx, const Tensor& d, const Tensor& index,
                             const Tensor& weight, Tensor dtable) {
  AddRowSums(ctx, d, index, weight, dtable);
}

}  // namespace omnitrain::cuda
