#include "data/image/parity.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "data/image/decode.h"

namespace omnitrain {
namespace {

constexpr double kLeastShareWithin = 0.999;
// Levels are recovered from normalised fp32 values, whose rounding is worth about 1e-5 of a level.
constexpr double kRounding = 1e-3;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

ImageCaseResult CheckImageCase(const ImageCase& c) {
  const Image image = DecodeImage(c.bytes, DecodeOptions{}, c.name);
  std::vector<float> pixels;
  ImageCaseResult result;
  result.name = c.name;
  result.expected_grid = c.grid;
  result.grid = ProcessImage(image, c.config, &pixels);
  if (result.grid != c.grid || static_cast<int64_t>(pixels.size()) != c.num_values) return result;

  const int64_t channel_dim = c.config.patch_dim() / 3;
  std::array<double, 3> levels_per_unit;
  for (int i = 0; i < 3; ++i) {
    levels_per_unit[i] = c.config.do_normalize ? c.config.std[i] : 1.0;
    if (c.config.do_rescale) levels_per_unit[i] /= c.config.rescale_factor;
  }
  result.num_values = c.num_values;
  for (int64_t i = 0; i < c.num_values; ++i) {
    const double difference = std::fabs(static_cast<double>(pixels[i]) - c.pixels[i]);
    const double levels = difference * levels_per_unit[i / channel_dim % 3];
    if (levels <= kRounding) ++result.num_equal;
    if (levels <= 1.0 + kRounding) ++result.num_within;
    result.max_abs_level = std::max(result.max_abs_level, std::isnan(levels) ? kInfinity : levels);
  }
  result.ok = result.num_within >= kLeastShareWithin * result.num_values;
  return result;
}

}  // namespace

bool PreprocessReport::ok() const {
  return !cases.empty() &&
         std::all_of(cases.begin(), cases.end(), [](const ImageCaseResult& c) { return c.ok; });
}

PreprocessReport CheckImageCases(const std::vector<ImageCase>& cases) {
  PreprocessReport report;
  for (const ImageCase& c : cases) report.cases.push_back(CheckImageCase(c));
  return report;
}

std::string Describe(const ImageCaseResult& r) {
  if (r.num_values == 0) {
    return fmt::format(
        "{}: FAILED: grid [{}, {}, {}], expected [{}, {}, {}] or another number of values", r.name,
        r.grid.t, r.grid.h, r.grid.w, r.expected_grid.t, r.expected_grid.h, r.expected_grid.w);
  }
  return fmt::format(
      "{}: {}: grid [{}, {}, {}], {:.4f} % within one level, {:.4f} % equal, at most {:.4f} levels "
      "off",
      r.name, r.ok ? "ok" : "FAILED", r.grid.t, r.grid.h, r.grid.w,
      100.0 * r.num_within / r.num_values, 100.0 * r.num_equal / r.num_values, r.max_abs_level);
}

}  // namespace omnitrain
