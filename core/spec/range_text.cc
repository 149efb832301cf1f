#include "core/spec/range_text.h"

#include <fmt/ranges.h>

#include <cmath>

namespace omnitrain {

std::string RangeText(IntRange range) {
  // Type limits bound every key; only the int keys' are near enough to run into.
  if (range.max >= std::numeric_limits<int32_t>::max()) return fmt::format(">= {}", range.min);
  return fmt::format("{} .. {}", range.min, range.max);
}

std::string RangeText(RealRange range) {
  const bool is_min_open = range.ends == RealRange::Ends::kOpenMin;
  const bool is_max_open = range.ends == RealRange::Ends::kOpenMax;
  if (std::isinf(range.max)) return fmt::format("{} {}", is_min_open ? ">" : ">=", range.min);
  return fmt::format("{} {} x {} {}", range.min,
                     is_min_open ? "<" : "<=", is_max_open ? "<" : "<=", range.max);
}

std::string ChoicesText(EnumNames names) {
  return fmt::format("{}", fmt::join(names.names, names.names + names.count, ", "));
}

}  // namespace omnitrain
