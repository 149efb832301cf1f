#include "tools/dataset/stamp_image.h"

#include <png.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/check.h"
#include "data/image/resize.h"

namespace omnitrain {
namespace {
constexpr double kMaxGrowth = 4.0;
}

Stamp ReadStamp(const std::string& path) {
  png_image png = {};
  png.version = PNG_IMAGE_VERSION;
  OT_REQUIRE(png_image_begin_read_from_file(&png, path.c_str()), ErrorCode::kData, "{}: {}", path,
             png.message);
  png.format = PNG_FORMAT_RGBA;
  Stamp stamp;
  stamp.height = static_cast<int>(png.height);
  stamp.width = static_cast<int>(png.width);
  stamp.rgba.resize(PNG_IMAGE_SIZE(png));
  const bool is_read = png_image_finish_read(&png, nullptr, stamp.rgba.data(), 0, nullptr) != 0;
  OT_REQUIRE(is_read, ErrorCode::kData, "{}: {}", path, png.message);
  return stamp;
}

Image PlaceStamp(const Stamp& stamp, int size, const Placement& placement) {
  Image flat;
  flat.height = stamp.height;
  flat.width = stamp.width;
  flat.rgb.resize(static_cast<size_t>(stamp.height) * static_cast<size_t>(stamp.width) * 3);
  for (size_t i = 0; i < flat.rgb.size() / 3; ++i) {
    const auto* pixel = reinterpret_cast<const unsigned char*>(stamp.rgba.data()) + 4 * i;
    const int alpha = pixel[3];
    for (size_t c = 0; c < 3; ++c) {
      const int mixed = alpha * pixel[c] + (255 - alpha) * placement.background[c];
      flat.rgb[3 * i + c] = static_cast<uint8_t>((mixed + 127) / 255);
    }
  }
  const double fit = static_cast<double>(size) / std::max(stamp.height, stamp.width);
  const double scale = std::min(fit, kMaxGrowth) * placement.scale;
  const auto scaled = [&](int side) {
    return std::clamp(static_cast<int>(std::lround(side * scale)), 1, size);
  };
  const Image small = ResizeBicubic(flat, scaled(stamp.height), scaled(stamp.width));

  Image canvas;
  canvas.height = canvas.width = size;
  canvas.rgb.resize(static_cast<size_t>(size) * static_cast<size_t>(size) * 3);
  for (size_t i = 0; i < canvas.rgb.size(); ++i) canvas.rgb[i] = placement.background[i % 3];
  const auto top = static_cast<size_t>(std::lround((size - small.height) * placement.shift_y));
  const auto left = static_cast<size_t>(std::lround((size - small.width) * placement.shift_x));
  const size_t row_bytes = static_cast<size_t>(small.width) * 3;
  for (size_t y = 0; y < static_cast<size_t>(small.height); ++y) {
    std::memcpy(canvas.rgb.data() + ((top + y) * static_cast<size_t>(size) + left) * 3,
                small.rgb.data() + y * row_bytes, row_bytes);
  }
  return canvas;
}

std::string EncodePng(const Image& image) {
  png_image png = {};
  png.version = PNG_IMAGE_VERSION;
  png.height = static_cast<png_uint_32>(image.height);
  png.width = static_cast<png_uint_32>(image.width);
  png.format = PNG_FORMAT_RGB;
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(png), '\0');
  png_alloc_size_t size = bytes.size();
  const bool is_written =
      png_image_write_to_memory(&png, bytes.data(), &size, 0, image.rgb.data(), 0, nullptr) != 0;
  OT_CHECK(is_written, "{}", png.message);
  bytes.resize(size);
  return bytes;
}

}  // namespace omnitrain
