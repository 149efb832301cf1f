#include "data/image/decode.h"

#include <webp/decode.h>

#include <string>
#include <utility>

#include "core/base/check.h"
#include "data/image/codec.h"

namespace omnitrain {
namespace {

uint8_t ByteAt(std::string_view bytes, size_t i) { return static_cast<uint8_t>(bytes[i]); }

uint32_t BigEndian(std::string_view bytes, size_t at, int num_bytes) {
  uint32_t value = 0;
  for (int i = 0; i < num_bytes; ++i) value = value << 8 | ByteAt(bytes, at + i);
  return value;
}

bool StartsWith(std::string_view bytes, std::string_view magic) {
  return bytes.substr(0, magic.size()) == magic;
}

ImageFormat DetectFormat(std::string_view bytes, std::string_view name) {
  if (StartsWith(bytes, "\xff\xd8\xff")) return ImageFormat::kJpeg;
  if (StartsWith(bytes, "\x89PNG\r\n\x1a\n")) return ImageFormat::kPng;
  if (bytes.size() >= 12 && StartsWith(bytes, "RIFF") && bytes.substr(8, 4) == "WEBP")
    return ImageFormat::kWebp;
  std::string start;
  for (size_t i = 0; i < bytes.size() && i < 8; ++i) {
    start += fmt::format(" {:02x}", ByteAt(bytes, i));
  }
  Fail(ErrorCode::kData, "{}: unknown image format (JPEG, PNG and WebP are known), {} bytes{}{}",
       name, bytes.size(), start.empty() ? "" : " starting with", start);
}

// Walks the marker segments up to the frame header (ITU T.81, B.2.2).
ImageHeader ReadJpegHeader(std::string_view bytes, std::string_view name) {
  size_t at = 2;
  while (at + 4 <= bytes.size()) {
    if (ByteAt(bytes, at) != 0xff) {  // stray bytes between segments: the decoder skips them too
      ++at;
      continue;
    }
    const int marker = ByteAt(bytes, at + 1);
    if (marker == 0xff) {  // fill byte
      ++at;
      continue;
    }
    const bool stands_alone = marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8);
    if (stands_alone) {
      at += 2;
      continue;
    }
    if (marker == 0xd9 || marker == 0xda) break;  // end of image, or a scan without a frame
    const bool is_frame =
        marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (is_frame && at + 9 <= bytes.size()) {
      return {ImageFormat::kJpeg, static_cast<int>(BigEndian(bytes, at + 5, 2)),
              static_cast<int>(BigEndian(bytes, at + 7, 2))};
    }
    at += 2 + BigEndian(bytes, at + 2, 2);
  }
  Fail(ErrorCode::kData, "{}: truncated or corrupt JPEG: no frame header in {} bytes", name,
       bytes.size());
}

ImageHeader ReadPngHeader(std::string_view bytes, std::string_view name) {
  OT_REQUIRE(bytes.size() >= 24 && bytes.substr(12, 4) == "IHDR", ErrorCode::kData,
             "{}: truncated or corrupt PNG: no IHDR chunk in {} bytes", name, bytes.size());
  const uint32_t width = BigEndian(bytes, 16, 4);
  const uint32_t height = BigEndian(bytes, 20, 4);
  OT_REQUIRE(width <= 0x7fffffff && height <= 0x7fffffff, ErrorCode::kData,
             "{}: corrupt PNG: the header claims {} x {} pixels", name, width, height);
  return {ImageFormat::kPng, static_cast<int>(height), static_cast<int>(width)};
}

ImageHeader ReadWebpHeader(std::string_view bytes, std::string_view name) {
  WebPBitstreamFeatures features;
  const VP8StatusCode status =
      WebPGetFeatures(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), &features);
  OT_REQUIRE(status == VP8_STATUS_OK, ErrorCode::kData,
             "{}: truncated or corrupt WebP: no image header in {} bytes", name, bytes.size());
  return {ImageFormat::kWebp, features.height, features.width};
}

// [H, W, 4] -> [H, W, 3], in place: the write never overtakes the read.
void FlattenAlpha(DecodeOptions::AlphaMode mode, std::vector<uint8_t>* data) {
  const size_t num_pixels = data->size() / 4;
  const uint8_t* in = data->data();
  uint8_t* out = data->data();
  for (size_t i = 0; i < num_pixels; ++i, in += 4, out += 3) {
    const int alpha = mode == DecodeOptions::AlphaMode::kWhite ? in[3] : 255;
    const int white = (255 - alpha) * 255;
    for (int c = 0; c < 3; ++c) {
      out[c] = static_cast<uint8_t>(internal::DivideBy255(alpha * in[c] + white));
    }
  }
  data->resize(num_pixels * 3);
}

}  // namespace

const char* FormatName(ImageFormat format) {
  switch (format) {
    case ImageFormat::kJpeg:
      return "JPEG";
    case ImageFormat::kPng:
      return "PNG";
    case ImageFormat::kWebp:
      return "WebP";
  }
  return "unknown";
}

ImageHeader ReadImageHeader(std::string_view bytes, std::string_view name) {
  ImageHeader header;
  switch (DetectFormat(bytes, name)) {
    case ImageFormat::kJpeg:
      header = ReadJpegHeader(bytes, name);
      break;
    case ImageFormat::kPng:
      header = ReadPngHeader(bytes, name);
      break;
    case ImageFormat::kWebp:
      header = ReadWebpHeader(bytes, name);
      break;
  }
  OT_REQUIRE(header.height > 0 && header.width > 0, ErrorCode::kData, "{}: {} with {} x {} pixels",
             name, FormatName(header.format), header.width, header.height);
  return header;
}

Image DecodeImage(std::string_view bytes, const DecodeOptions& options, std::string_view name) {
  const ImageHeader header = ReadImageHeader(bytes, name);
  const int64_t num_pixels = int64_t{header.height} * header.width;
  OT_REQUIRE(num_pixels <= options.max_pixels, ErrorCode::kData,
             "{}: {} of {} x {} = {} pixels is above the limit of {}", name,
             FormatName(header.format), header.width, header.height, num_pixels,
             options.max_pixels);
  internal::Pixels pixels;
  switch (header.format) {
    case ImageFormat::kJpeg:
      pixels = internal::DecodeJpeg(bytes, header, name);
      break;
    case ImageFormat::kPng:
      pixels = internal::DecodePng(bytes, header, name);
      break;
    case ImageFormat::kWebp:
      pixels = internal::DecodeWebp(bytes, header, name);
      break;
  }
  if (pixels.channels == 4) FlattenAlpha(options.alpha, &pixels.data);
  OT_CHECK(pixels.data.size() == static_cast<size_t>(num_pixels) * 3, "{}: {} bytes for {} pixels",
           name, pixels.data.size(), num_pixels);
  return {header.height, header.width, std::move(pixels.data)};
}

}  // namespace omnitrain
