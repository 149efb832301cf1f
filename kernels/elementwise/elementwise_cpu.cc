#include <immintrin.h>

#include <cstring>

#include "kernels/common/parallel.h"
#include "kernels/elementwise/elementwise_impl.h"

namespace omnitrain::cpu {
namespace {

int64_t Width(const Tensor& t) { return t.shape.rank() == 0 ? 1 : t.shape.row_elements(); }

/// Calls f(T{}) with the element type of a floating dtype.
template <typename F>
void DispatchFloating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kBF16:
      return f(BFloat16{});
    case DType::kF16:
      return f(Float16{});
    default:
      return DispatchReal(dtype, f);
  }
}

uint32_t Bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
float FromBits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Inline twins of the conversions in core/tensor/dtype.h, bit for bit, that loops can vectorise.

inline float Widen(BFloat16 x) { return FromBits(static_cast<uint32_t>(x.bits) << 16); }
inline float Widen(Float16 x) { return _cvtsh_ss(x.bits); }
inline float Widen(float x) { return x; }
inline double Widen(double x) { return x; }

inline void Narrow(float x, BFloat16* y) {
  const uint32_t bits = Bits(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40;
  y->bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}
inline void Narrow(float x, Float16* y) { y->bits = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }
inline void Narrow(float x, float* y) { *y = x; }
inline void Narrow(float x, double* y) { *y = x; }
inline void Narrow(double x, float* y) { *y = static_cast<float>(x); }
inline void Narrow(double x, double* y) { *y = x; }

/// Rounded to odd: a second rounding to fewer bits then gives what one rounding would have given.
/// Source: Boldo & Melquiond 2008, "Emulation of FMA and correctly rounded sums", theorem 1.
inline float ToOdd(double x) {
  const float nearest = static_cast<float>(x);
  const uint32_t bits = Bits(nearest);
  const double error = static_cast<double>(nearest) - x;
  if (error == 0 || !(error == error) || (bits & 1)) return nearest;
  const bool is_above = (error > 0) == (nearest > 0 || (nearest == 0 && x > 0));
  return FromBits(is_above ? bits - 1 : bits + 1);
}
inline void Narrow(double x, BFloat16* y) { Narrow(ToOdd(x), y); }
inline void Narrow(double x, Float16* y) { Narrow(ToOdd(x), y); }

template <typename From, typename To>
void CastSpan(const From* src, int64_t n, To* dst) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) Narrow(Widen(src[i]), dst + i);
}

void CastSpan(const float* src, int64_t n, Float16* dst) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
  }
  for (; i < n; ++i) Narrow(src[i], dst + i);
}

void CastSpan(const Float16* src, int64_t n, float* dst) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(dst + i,
                     _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i))));
  }
  for (; i < n; ++i) dst[i] = Widen(src[i]);
}

/// Bytes alone, whatever they mean.
void CopyRows(const Tensor& src, const Tensor& dst) {
  const auto bytes = static_cast<int64_t>(DTypeBytes(dst.dtype));
  const auto* from = static_cast<const char*>(src.data);
  auto* to = static_cast<char*>(dst.data);
  ParallelPieces(dst.rows(), Width(dst), src.is_dense() && dst.is_dense(),
                 [&](int64_t r, int64_t begin, int64_t n) {
                   std::memcpy(to + (r * dst.row_stride + begin) * bytes,
                               from + (r * src.row_stride + begin) * bytes,
                               static_cast<size_t>(n * bytes));
                 });
}

}  // namespace

void Cast(const Tensor& src, Tensor dst) {
  if (src.dtype == dst.dtype) return CopyRows(src, dst);
  DispatchFloating(src.dtype, [&](auto from) {
    using From = decltype(from);
    const auto* source = static_cast<const From*>(src.data);
    DispatchFloating(dst.dtype, [&](auto to) {
      using To = decltype(to);
      auto* destination = static_cast<To*>(dst.data);
      ParallelPieces(dst.rows(), Width(dst), src.is_dense() && dst.is_dense(),
                     [&](int64_t r, int64_t begin, int64_t n) {
                       CastSpan(source + r * src.row_stride + begin, n,
                                destination + r * dst.row_stride + begin);
                     });
    });
  });
}

void AddInto(const Tensor& x, Tensor y) {
  DispatchReal(y.dtype, [&](auto zero) {
    using S = decltype(zero);
    const S* from = x.ptr<S>();
    S* to = y.ptr<S>();
    ParallelPieces(y.rows(), Width(y), x.is_dense() && y.is_dense(),
                   [&](int64_t r, int64_t begin, int64_t n) {
                     const S* a = from + r * x.row_stride + begin;
                     S* b = to + r * y.row_stride + begin;
#pragma omp simd
                     for (int64_t i = 0; i < n; ++i) b[i] += a[i];
                   });
  });
}

void Zero(Tensor y) {
  const auto bytes = static_cast<int64_t>(DTypeBytes(y.dtype));
  auto* data = static_cast<char*>(y.data);
  ParallelPieces(y.rows(), Width(y), y.is_dense(), [&](int64_t r, int64_t begin, int64_t n) {
    std::memset(data + (r * y.row_stride + begin) * bytes, 0, static_cast<size_t>(n * bytes));
  });
}

void Scale(double factor, Tensor y) {
  DispatchReal(y.dtype, [&](auto zero) {
    using S = decltype(zero);
    S* data = y.ptr<S>();
    const S scale = static_cast<S>(factor);
    ParallelPieces(1, y.num_elements(), true, [=](int64_t, int64_t begin, int64_t n) {
      S* p = data + begin;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) p[i] *= scale;
    });
  });
}

}  // namespace omnitrain::cpu
