#pragma once

#include <cstdint>
#include <string_view>

#include "data/image/image.h"

namespace omnitrain {

enum class ImageFormat { kJpeg, kPng, kWebp };

/// "JPEG", "PNG", "WebP".
const char* FormatName(ImageFormat format);

/// What the planner needs of an image, known without decoding a pixel.
struct ImageHeader {
  ImageFormat format = ImageFormat::kJpeg;
  int height = 0;  // pixels, as stored
  int width = 0;
};

struct DecodeOptions {
  /// What becomes of transparency: RGBA, grey with alpha, palettes and colour keys (tRNS) alike.
  enum class AlphaMode {
    kWhite,  // composited onto white: round((a*c + (255-a)*255) / 255), as transformers 5 does
    kDrop,   // the colour under the alpha, as PIL's convert("RGB")
  };
  AlphaMode alpha = AlphaMode::kWhite;

  /// Refuses larger images before anything is allocated for them. The default is where PIL calls an
  /// image a decompression bomb (twice its MAX_IMAGE_PIXELS).
  int64_t max_pixels = 178956970;
};

/// Reads format and size. The leading bytes of a file do, as long as they reach the size: 24 of a
/// PNG, 30 of a WebP, up to and including the frame header of a JPEG (past its metadata).
/// `name` is what errors call the image.
/// Errors: kData for an unknown format, a truncated or damaged header, a side of 0.
/// Cost: no allocation.
ImageHeader ReadImageHeader(std::string_view bytes, std::string_view name);

/// Decodes JPEG (grey, YCbCr, RGB, CMYK, YCCK; baseline, progressive, arithmetic), PNG (every
/// colour type and depth, interlaced or not) and WebP (of an animation, the first frame) to 8-bit
/// RGB, equal to what PIL's convert("RGB") gives after the alpha rule above: accurate integer DCT,
/// smooth chroma upsampling, 16-bit samples cut to their high byte, colour profiles and gamma
/// ignored. One exception is deliberate: PIL clips 16-bit grey at 255 (a nearly white picture),
/// here its high byte counts as for every other 16-bit image.
/// EXIF orientation is NOT applied: the picture stays as stored, as from PIL's Image.open and
/// qwen-vl-utils, and ImageHeader has the same sizes. (transformers' load_image, which opens paths
/// and URLs, does rotate; its image processors do not.)
/// Errors: kData, with `name` and the reason, for whatever ReadImageHeader refuses, more than
/// max_pixels, and any truncated or corrupt file (a missing end marker included); nothing is
/// printed.
/// Thread safety: reentrant, no shared state.
Image DecodeImage(std::string_view bytes, const DecodeOptions& options, std::string_view name);

}  // namespace omnitrain
