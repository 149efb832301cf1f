#include <cmath>

#include "kernels/rope/rope.h"

namespace omnitrain {
namespace {

/// 1 / theta^(2j / width), every operation rounded to f32 in the order of transformers:
/// 1.0 / (base ** (arange(0, width, 2, int64).float() / width)).
std::vector<float> InverseFrequencies(double theta, int width) {
  std::vector<float> inverse(width / 2);
  for (int j = 0; j < width / 2; ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(width);
    inverse[j] = 1.0f / std::pow(static_cast<float>(theta), exponent);
  }
  return inverse;
}

/// The position row that drives each of the K/2 frequencies.
std::vector<int> PositionRows(const MropeParams& p) {
  const int half = p.head_dim / 2;
  std::vector<int> rows(half, 0);
  for (int j = 0; j < half; ++j) {
    if (p.layout == MropeLayout::kChunked) {
      rows[j] = j < p.section[0] ? 0 : j < p.section[0] + p.section[1] ? 1 : 2;
    } else if (j % 3 != 0 && j < 3 * p.section[j % 3]) {
      rows[j] = j % 3;
    }
  }
  return rows;
}

}  // namespace

void BuildMropeTables(const MropeParams& params, const int64_t* position_ids, int64_t num_tokens,
                      float* cos, float* sin) {
  const int half = params.head_dim / 2;
  const int total = params.section[0] + params.section[1] + params.section[2];
  OT_CHECK(params.head_dim % 2 == 0 && params.theta > 0, "rope: head_dim {}, theta {}",
           params.head_dim, params.theta);
  OT_CHECK(total == half, "rope: sections {} + {} + {} of {} frequencies", params.section[0],
           params.section[1], params.section[2], half);
  const std::vector<float> inverse = InverseFrequencies(params.theta, params.head_dim);
  const std::vector<int> rows = PositionRows(params);
#pragma omp parallel for schedule(static) if (num_tokens * half >= 4096)
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int j = 0; j < half; ++j) {
      const float angle = static_cast<float>(position_ids[rows[j] * num_tokens + t]) * inverse[j];
      cos[t * half + j] = std::cos(angle);
      sin[t * half + j] = std::sin(angle);
    }
  }
}

void BuildVisionRopeTables(int head_dim, double theta, const int32_t* coordinates,
                           int64_t num_patches, float* cos, float* sin) {
  OT_CHECK(head_dim % 4 == 0 && theta > 0, "vision rope: head_dim {}, theta {}", head_dim, theta);
  const int half = head_dim / 2, quarter = head_dim / 4;
  const std::vector<float> inverse = InverseFrequencies(theta, half);
#pragma omp parallel for schedule(static) if (num_patches * half >= 4096)
  for (int64_t p = 0; p < num_patches; ++p) {
    for (int j = 0; j < half; ++j) {
      const auto coordinate = static_cast<float>(coordinates[2 * p + j / quarter]);
      const float angle = coordinate * inverse[j % quarter];
      cos[p * half + j] = std::cos(angle);
      sin[p * half + j] = std::sin(angle);
    }
  }
}

}  // namespace omnitrain
