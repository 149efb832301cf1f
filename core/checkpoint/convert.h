#pragma once

#include <cstdint>

#include "core/tensor/dtype.h"

namespace omnitrain {

/// Whether stored elements of `from` may be read as `to`: any float as any float (rounded to
/// nearest even), any integer as any integer (exact). Floats and integers do not mix.
bool IsConvertible(DType from, DType to);

/// Converts `count` elements. f64 goes to the 16-bit types in one rounding, not two.
/// Requires: IsConvertible(from, to); `in` and `out` do not overlap.
/// Returns: `count`, or the index of the first integer that does not fit `to`; elements from there
/// on are not written.
int64_t ConvertElements(DType from, const void* in, DType to, void* out, int64_t count);

}  // namespace omnitrain
