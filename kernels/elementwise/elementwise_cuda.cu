#include <cuda_fp16.h>

#include "kernels/common/row_group.cuh"
#include "kernels/elementwise/elementwise_impl.h"

namespace omnitrain::cuda {
namespace {

/// Any floating dtype to any other, by one rounding to nearest even.
template <typename From>
__device__ __forceinline__ double Widen(From x) {
  return static_cast<double>(x);
}
template <>
__device__ __forceinline__ double Widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <>
__device__ __forceinline__ double Widen(__half x) {
  return __half2float(x);
}
template <typename To>
__device__ __forceinline__ To Narrow(double x);
template <>
__device__ __forceinline__ double Narrow(double x) {
  return x;
}
template <>
__device__ __forceinline__ float Narrow(double x) {
  return static_cast<float>(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 Narrow(double x) {
  return __double2bfloat16(x);
}
template <>
__device__ __forceinline__ __half Narrow(double x) {
  return __double2half(x);
}

template <typename From, typename To>
__device__ __forceinline__ To Convert(From x) {
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<From, __nv_bfloat16> && std::is_same_v<To, float>) {
    return __bfloat162float(x);
  } else {
    return Narrow<To>(Widen(x));
  }
}

template <typename From, typename To>
struct CastPacks {
  const From* src;
  int64_t src_stride;
  To* dst;
  int64_t dst_stride;

  template <int N>
  __device__ void Run(int64_t row, int64_t column) const {
    const auto p = *reinterpret_cast<const Pack<From, N>*>(src + row * src_stride + column);
    Pack<To, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.v[i] = Convert<From, To>(p.v[i]);
    *reinterpret_cast<Pack<To, N>*>(dst + row * dst_stride + column) = out;
  }
};

template <typename T>
struct AddPacks {
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;

  template <int N>
  __device__ void Run(int64_t row, int64_t column) const {
    const auto p = *reinterpret_cast<const Pack<T, N>*>(x + row * x_stride + column);
    auto& to = *reinterpret_cast<Pack<T, N>*>(y + row * y_stride + column);
    Pack<T, N> out = to;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (std::is_same_v<T, double>) {
        out.v[i] += p.v[i];
      } else {
        out.v[i] = FromFloat<T>(ToFloat(out.v[i]) + ToFloat(p.v[i]));
      }
    }
    to = out;
  }
};

template <typename T>
struct ScalePacks {
  double factor;
  T* y;

  template <int N>
  __device__ void Run(int64_t, int64_t column) const {
    auto& to = *reinterpret_cast<Pack<T, N>*>(y + column);
    Pack<T, N> out = to;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (std::is_same_v<T, double>) {
        out.v[i] *= factor;
      } else {
        out.v[i] = FromFloat<T>(ToFloat(out.v[i]) * static_cast<float>(factor));
      }
    }
    to = out;
  }
};

template <typename F>
void DispatchFloating(DType dtype, F&& f) {
  if (dtype == DType::kF64) return f(double{});
  if (dtype == DType::kF16) return f(__half{});
  DispatchCompute(dtype, f);
}

struct Rectangle {
  int64_t rows, width;
};
/// Dense tensors are one row.
Rectangle Extent(const Tensor& t, bool is_dense) {
  if (is_dense || t.shape.rank() == 0) return {1, t.num_elements()};
  return {t.rows(), t.shape.row_elements()};
}
int64_t Stride(const Tensor& t, bool is_dense) { return is_dense ? 0 : t.row_stride; }

}  // namespace

void Cast(Context& ctx, const Tensor& src, Tensor dst) {
  const bool is_dense = src.is_dense() && dst.is_dense();
  const auto [rows, width] = Extent(dst, is_dense);
  const int64_t src_stride = Stride(src, is_dense), dst_stride = Stride(dst, is_dense);
  if (src.dtype == dst.dtype) {
    const size_t item = DTypeBytes(dst.dtype);
    if (is_dense) {
      OT_CUDA(cudaMemcpyAsync(dst.data, src.data, static_cast<size_t>(width) * item,
                              cudaMemcpyDeviceToDevice, StreamOf(ctx)));
    } else {
      OT_CUDA(cudaMemcpy2DAsync(dst.data, static_cast<size_t>(dst_stride) * item, src.data,
                                static_cast<size_t>(src_stride) * item,
                                static_cast<size_t>(width) * item, static_cast<size_t>(rows),
                                cudaMemcpyDeviceToDevice, StreamOf(ctx)));
    }
    return;
  }
  DispatchFloating(src.dtype, [&, rows = rows, width = width](auto from) {
    DispatchFloating(dst.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      constexpr int kPack = 4;
      const CastPacks<From, To> cast{Data<From>(src), src_stride, Data<To>(dst), dst_stride};
      if (PackWidth<From>(src.data, src_stride, width) % kPack == 0 &&
          PackWidth<To>(dst.data, dst_stride, width) % kPack == 0) {
        ForPacks<kPack>(ctx, "cast", rows, width, cast);
      } else {
        ForPacks<1>(ctx, "cast", rows, width, cast);
      }
    });
  });
}

void AddInto(Context& ctx, const Tensor& x, Tensor y) {
  const bool is_dense = x.is_dense() && y.is_dense();
  const auto [rows, width] = Extent(y, is_dense);
  DispatchFloating(y.dtype, [&, rows = rows, width = width](auto scalar) {
    using T = decltype(scalar);
    if constexpr (std::is_same_v<T, __half>) {
      OT_CHECK(false, "add_into: f16 is storage only");
    } else {
      const AddPacks<T> add{Data<T>(x), Stride(x, is_dense), Data<T>(y), Stride(y, is_dense)};
      DispatchPack<T>(
          {PackWidth<T>(x.data, add.x_stride, width), PackWidth<T>(y.data, add.y_stride, width)},
          [&](auto pack) { ForPacks<decltype(pack)::value>(ctx, "add_into", rows, width, add); });
    }
  });
}

void Zero(Context& ctx, Tensor y) {
  if (y.num_elements() == 0) return;
  const bool is_dense = y.is_dense();
  const auto [rows, width] = Extent(y, is_dense);
  const size_t item = DTypeBytes(y.dtype);
  OT_CUDA(cudaMemset2DAsync(y.data, static_cast<size_t>(is_dense ? width : y.row_stride) * item, 0,
                            static_cast<size_t>(width) * item, static_cast<size_t>(rows),
                            StreamOf(ctx)));
}

void Scale(Context& ctx, double factor, Tensor y) {
  DispatchFloating(y.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    if constexpr (std::is_same_v<T, __half>) {
      OT_CHECK(false, "scale: f16 is storage only");
    } else {
      const ScalePacks<T> scale{factor, Data<T>(y)};
      const int64_t width = y.num_elements();
      DispatchPack<T>({PackWidth<T>(y.data, 0, width)}, [&](auto pack) {
        ForPacks<decltype(pack)::value>(ctx, "scale", 1, width, scale);
      });
    }
  });
}

}  // namespace omnitrain::cuda
