#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "data/image/image.h"

namespace omnitrain {

/// A picture with transparency, as drawn.
struct Stamp {
  int height = 0, width = 0;
  std::string rgba;  // [H, W, 4], not premultiplied
};

/// Errors: kData with the path.
Stamp ReadStamp(const std::string& path);

/// Where a stamp lies on its square canvas.
struct Placement {
  std::array<uint8_t, 3> background{255, 255, 255};
  double scale = 1.0;                   // of the largest size that fits
  double shift_x = 0.5, shift_y = 0.5;  // 0: at the left or upper edge, 1: at the other
};

/// The stamp on a canvas of `size` x `size` pixels. Small stamps grow by at most 4.
Image PlaceStamp(const Stamp& stamp, int size, const Placement& placement);

/// The bytes of a PNG file.
std::string EncodePng(const Image& image);

}  // namespace omnitrain
