#include "core/checkpoint/convert.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace omnitrain {
namespace {

// Floats pass through a block of singles that stays in the first-level cache.
constexpr int64_t kBlock = 2048;

bool IsFloat(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 ||
         dtype == DType::kBF16;
}

// Truncates towards zero and sets the last bit when anything was lost: rounding the result to half
// the bits or fewer then equals rounding the double itself (Boldo & Melquiond 2008).
float RoundToOdd(double x) {
  float y = static_cast<float>(x);
  if (std::isnan(x) || static_cast<double>(y) == x) return y;
  uint32_t bits;
  std::memcpy(&bits, &y, sizeof bits);
  if (bits & 1) return y;
  bits += std::fabs(static_cast<double>(y)) > std::fabs(x) ? -1 : 1;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

// The loops below are branch-free so that the compiler vectorises them; they agree with ToFloat and
// ToBFloat16 in every bit.
void LoadBFloat16(const uint16_t* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = static_cast<uint32_t>(in[i]) << 16;
    std::memcpy(out + i, &bits, sizeof bits);
  }
}

void StoreBFloat16(const float* in, uint16_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, in + i, sizeof bits);
    const uint32_t nan = (bits >> 16) | 0x40;
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    out[i] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
  }
}

void LoadFloat16(const uint16_t* in, float* out, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(halves));
  }
#endif
  for (; i < n; ++i) out[i] = ToFloat(Float16{in[i]});
}

void StoreFloat16(const float* in, uint16_t* out, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), halves);
  }
#endif
  for (; i < n; ++i) out[i] = ToFloat16(in[i]).bits;
}

void ConvertFloats(DType from, const char* in, DType to, char* out, int64_t count) {
  const bool is_narrow = to == DType::kF16 || to == DType::kBF16;
  float block[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    const char* source = in + begin * static_cast<int64_t>(DTypeBytes(from));
    char* target = out + begin * static_cast<int64_t>(DTypeBytes(to));
    if (from == DType::kF64) {
      for (int64_t i = 0; i < n; ++i) {
        double x;
        std::memcpy(&x, source + i * 8, sizeof x);
        block[i] = is_narrow ? RoundToOdd(x) : static_cast<float>(x);
      }
    } else if (from == DType::kF32) {
      std::memcpy(block, source, n * sizeof(float));
    } else if (from == DType::kBF16) {
      LoadBFloat16(reinterpret_cast<const uint16_t*>(source), block, n);
    } else {
      LoadFloat16(reinterpret_cast<const uint16_t*>(source), block, n);
    }
    if (to == DType::kF64) {
      for (int64_t i = 0; i < n; ++i) reinterpret_cast<double*>(target)[i] = block[i];
    } else if (to == DType::kF32) {
      std::memcpy(target, block, n * sizeof(float));
    } else if (to == DType::kBF16) {
      StoreBFloat16(block, reinterpret_cast<uint16_t*>(target), n);
    } else {
      StoreFloat16(block, reinterpret_cast<uint16_t*>(target), n);
    }
  }
}

template <typename From, typename To>
int64_t ConvertIntegers(const From* in, To* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t x = in[i];
    if (x < static_cast<int64_t>(std::numeric_limits<To>::min()) ||
        x > static_cast<int64_t>(std::numeric_limits<To>::max())) {
      return i;
    }
    out[i] = static_cast<To>(x);
  }
  return count;
}

template <typename From>
int64_t ConvertIntegersFrom(const void* in, DType to, void* out, int64_t count) {
  const From* source = static_cast<const From*>(in);
  switch (to) {
    case DType::kI64:
      return ConvertIntegers(source, static_cast<int64_t*>(out), count);
    case DType::kI32:
      return ConvertIntegers(source, static_cast<int32_t*>(out), count);
    default:
      return ConvertIntegers(source, static_cast<uint8_t*>(out), count);
  }
}

}  // namespace

bool IsConvertible(DType from, DType to) { return IsFloat(from) == IsFloat(to); }

int64_t ConvertElements(DType from, const void* in, DType to, void* out, int64_t count) {
  OT_CHECK(IsConvertible(from, to), "{} to {}", DTypeName(from), DTypeName(to));
  if (count == 0) return 0;
  if (from == to) {
    std::memcpy(out, in, static_cast<size_t>(count) * DTypeBytes(from));
    return count;
  }
  switch (from) {
    case DType::kI64:
      return ConvertIntegersFrom<int64_t>(in, to, out, count);
    case DType::kI32:
      return ConvertIntegersFrom<int32_t>(in, to, out, count);
    case DType::kU8:
      return ConvertIntegersFrom<uint8_t>(in, to, out, count);
    default:
      ConvertFloats(from, static_cast<const char*>(in), to, static_cast<char*>(out), count);
      return count;
  }
}

}  // namespace omnitrain
