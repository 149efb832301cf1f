#include "parallel/comm/reduce.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace omnitrain {
namespace {

// A block of all parts stays in the nearest cache while it is summed.
constexpr int64_t kBlock = 2048;

template <typename T>
T Larger(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a) return a;
    if (b != b) return b;
  }
  return a < b ? b : a;
}

template <typename T>
void Combine(ReduceOp op, T* acc, const T* part, int64_t count) {
  if (op == ReduceOp::kSum) {
    for (int64_t i = 0; i < count; ++i) acc[i] = static_cast<T>(acc[i] + part[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) acc[i] = Larger(acc[i], part[i]);
  }
}

template <typename T>
void Reduce(ReduceOp op, const std::vector<const void*>& parts, void* out, int64_t count) {
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    T* acc = static_cast<T*>(out) + begin;
    const T* first = static_cast<const T*>(parts[0]) + begin;
    if (acc != first) std::memcpy(acc, first, static_cast<size_t>(n) * sizeof(T));
    for (size_t p = 1; p < parts.size(); ++p) {
      Combine(op, acc, static_cast<const T*>(parts[p]) + begin, n);
    }
  }
}

void ReduceBF16(ReduceOp op, const std::vector<const void*>& parts, void* out, int64_t count) {
  float acc[kBlock], part[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    for (size_t p = 0; p < parts.size(); ++p) {
      const auto* from = static_cast<const BFloat16*>(parts[p]) + begin;
      float* to = p == 0 ? acc : part;
      for (int64_t i = 0; i < n; ++i) to[i] = ToFloat(from[i]);
      if (p > 0) Combine(op, acc, part, n);
    }
    auto* to = static_cast<BFloat16*>(out) + begin;
    for (int64_t i = 0; i < n; ++i) to[i] = ToBFloat16(acc[i]);
  }
}

}  // namespace

void ReduceInOrder(DType dtype, ReduceOp op, const std::vector<const void*>& parts, void* out,
                   int64_t count) {
  OT_CHECK(!parts.empty(), "nothing to reduce");
  switch (dtype) {
    case DType::kF64:
      return Reduce<double>(op, parts, out, count);
    case DType::kF32:
      return Reduce<float>(op, parts, out, count);
    case DType::kI64:
      return Reduce<int64_t>(op, parts, out, count);
    case DType::kI32:
      return Reduce<int32_t>(op, parts, out, count);
    case DType::kU8:
      return Reduce<uint8_t>(op, parts, out, count);
    case DType::kBF16:
      return ReduceBF16(op, parts, out, count);
    case DType::kF16:
      break;
  }
  OT_CHECK(false, "{} is not reduced", DTypeName(dtype));
}

}  // namespace omnitrain
