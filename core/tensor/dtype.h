#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/base/check.h"

namespace omnitrain {

enum class DType : uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kU8 };

constexpr size_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

/// "f64", "f32", "f16", "bf16", "i64", "i32", "u8".
const char* DTypeName(DType dtype);

/// The upper half of an IEEE single: storage only on the CPU, converted where it is read or
/// written.
struct BFloat16 {
  uint16_t bits;
};
/// IEEE half: storage only.
struct Float16 {
  uint16_t bits;
};

float ToFloat(BFloat16 x);
float ToFloat(Float16 x);
/// Rounds to nearest even; NaN stays NaN.
BFloat16 ToBFloat16(float x);
Float16 ToFloat16(float x);

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBF16;
};

/// Calls f(float{}) or f(double{}) for the scalar types that CPU ops are instantiated on.
template <typename F>
void DispatchReal(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      f(float{});
      return;
    case DType::kF64:
      f(double{});
      return;
    default:
      OT_CHECK(false, "the CPU computes in f32 and f64, not {}", DTypeName(dtype));
  }
}

}  // namespace omnitrain
