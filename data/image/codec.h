#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/image/decode.h"

// The three codecs behind DecodeImage. Each gets a header whose size passed the caller's limit, and
// refuses a file that turns out to have another size.
namespace omnitrain::internal {

struct Pixels {
  int channels = 3;           // 3: RGB; 4: RGBA, not premultiplied
  std::vector<uint8_t> data;  // [H, W, channels]
};

Pixels DecodeJpeg(std::string_view bytes, const ImageHeader& header, std::string_view name);
Pixels DecodePng(std::string_view bytes, const ImageHeader& header, std::string_view name);
Pixels DecodeWebp(std::string_view bytes, const ImageHeader& header, std::string_view name);

/// round(x / 255) for x in [0, 255 * 255].
inline int DivideBy255(int x) {
  x += 128;
  return ((x >> 8) + x) >> 8;
}

}  // namespace omnitrain::internal
