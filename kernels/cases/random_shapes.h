#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/base/rng.h"

namespace omnitrain {

/// Draws sizes for op cases: mostly odd ones, with 0 and 1 among them.
class RandomShapes {
 public:
  explicit RandomShapes(uint64_t seed) : seed_(seed) {}

  /// From `least` to `most`, log-uniform; the ends come up often.
  int64_t Size(int64_t least, int64_t most) {
    const double u = Uniform();
    if (u < 0.1) return least;
    if (u < 0.15) return most;
    const double low = std::log(static_cast<double>(std::max<int64_t>(least, 1)));
    const double high = std::log(static_cast<double>(most) + 1);
    const auto size = static_cast<int64_t>(std::exp(low + (high - low) * Uniform()));
    return std::clamp(size, least, most);
  }
  /// Tokens of a batch: none now and then.
  int64_t Rows(int64_t most) { return Coin(0.06) ? 0 : Size(1, most); }
  /// Elements between rows: none, a few, or as many as keep rows aligned.
  int64_t Pad() { return Coin(0.4) ? 0 : Coin(0.5) ? Size(1, 9) : 8 * Size(1, 4); }
  bool Coin(double p = 0.5) { return Uniform() < p; }
  /// Lengths of packed sequences, empty ones among them, of `most` rows in all.
  std::vector<int64_t> Lengths(int64_t most) {
    std::vector<int64_t> lengths;
    int64_t left = Rows(most);
    while (left > 0 && lengths.size() < 9) {
      lengths.push_back(std::min(left, Coin(0.2) ? int64_t{0} : Size(1, left)));
      left -= lengths.back();
    }
    if (lengths.empty()) lengths.push_back(0);
    return lengths;
  }
  double Uniform() { return RandomUniform(seed_, 0, num_drawn_++); }

 private:
  uint64_t seed_, num_drawn_ = 0;
};

}  // namespace omnitrain
