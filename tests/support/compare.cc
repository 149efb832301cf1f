#include "tests/support/compare.h"

#include <cmath>

namespace omnitrain {
namespace {

/// "[2, 0, 5]" of flat index `flat` in `shape`.
std::string Coordinate(const Shape& shape, int64_t flat) {
  Shape at = shape;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    at[i] = flat % shape[i];
    flat /= shape[i];
  }
  return at.ToString();
}

}  // namespace

double ElementAt(const Tensor& t, int64_t flat_idx) {
  const int64_t row_elements = t.shape.rank() == 0 ? 1 : t.shape.row_elements();
  const int64_t i = flat_idx / row_elements * t.row_stride + flat_idx % row_elements;
  switch (t.dtype) {
    case DType::kF64:
      return static_cast<const double*>(t.data)[i];
    case DType::kF32:
      return static_cast<const float*>(t.data)[i];
    case DType::kBF16:
      return ToFloat(static_cast<const BFloat16*>(t.data)[i]);
    case DType::kF16:
      return ToFloat(static_cast<const Float16*>(t.data)[i]);
    case DType::kI64:
      return static_cast<double>(static_cast<const int64_t*>(t.data)[i]);
    case DType::kI32:
      return static_cast<const int32_t*>(t.data)[i];
    case DType::kU8:
      return static_cast<const uint8_t*>(t.data)[i];
  }
  OT_CHECK(false, "dtype {}", static_cast<int>(t.dtype));
  return 0;
}

Comparison Compare(const Tensor& got, const Tensor& want, const Bound& bound) {
  OT_CHECK(got.device == DeviceKind::kCpu && want.device == DeviceKind::kCpu,
           "Compare reads host tensors");
  Comparison c;
  if (got.shape != want.shape) {
    c.message = fmt::format("got {}, want {}", Describe(got), Describe(want));
    return c;
  }
  double difference_sq = 0, want_sq = 0;
  int64_t num_bad = 0;
  bool has_nan = false;
  for (int64_t i = 0; i < got.num_elements(); ++i) {
    const double g = ElementAt(got, i), w = ElementAt(want, i);
    if (std::isfinite(w)) want_sq += w * w;
    if (g == w) continue;
    const double difference = std::fabs(g - w);
    if (!(difference <= bound.abs + bound.rel * std::fabs(w)) || !std::isfinite(difference)) {
      if (num_bad++ == 0) c.first_bad = i;
    }
    has_nan |= std::isnan(difference);
    if (difference > c.max_abs) c.max_abs = difference;
    difference_sq += difference * difference;
  }
  if (has_nan) c.max_abs = std::numeric_limits<double>::quiet_NaN();
  c.rel_l2 = difference_sq == 0 ? 0 : std::sqrt(difference_sq / want_sq);
  c.ok = num_bad == 0 && !has_nan && c.rel_l2 <= bound.rel_l2;
  c.message = fmt::format("{} max_abs {:.3e} rel_l2 {:.3e}", Describe(got), c.max_abs, c.rel_l2);
  if (num_bad > 0) {
    c.message += fmt::format(
        "; {} out of bound (abs {:.1e} + rel {:.1e}), first at {}: got {:.17g}, want {:.17g}",
        num_bad, bound.abs, bound.rel, Coordinate(got.shape, c.first_bad),
        ElementAt(got, c.first_bad), ElementAt(want, c.first_bad));
  }
  if (!(c.rel_l2 <= bound.rel_l2)) c.message += fmt::format("; rel_l2 above {:.1e}", bound.rel_l2);
  return c;
}

std::ostream& operator<<(std::ostream& out, const Comparison& comparison) {
  return out << comparison.message;
}

}  // namespace omnitrain
