#pragma once

#include <cstdint>
#include <vector>

namespace omnitrain {

/// One decoded picture or video frame, row-major with interleaved channels.
struct Image {
  int height = 0;
  int width = 0;
  std::vector<uint8_t> rgb;  // [H, W, 3]
};

}  // namespace omnitrain
