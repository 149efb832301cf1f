#include "data/image/processor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>

#include "core/base/check.h"
#include "data/image/resize.h"

namespace omnitrain {
namespace {

constexpr double kMaxAspectRatio = 200.0;

/// The normalised value of every channel and level: [3, 256]. One rounding to fp32 per operation,
/// as numpy does.
using LevelTable = std::array<std::array<float, 256>, 3>;

LevelTable MakeLevelTable(const ImageProcessorConfig& config) {
  LevelTable table;
  for (int c = 0; c < 3; ++c) {
    for (int level = 0; level < 256; ++level) {
      const double rescaled = config.do_rescale ? level * config.rescale_factor : level;
      float value = static_cast<float>(rescaled);
      if (config.do_normalize) value = (value - config.mean[c]) / config.std[c];
      table[c][level] = value;
    }
  }
  return table;
}

/// One frame of one patch: pixels of row_bytes a row -> out + c * channel_stride, [patch_size,
/// patch_size] each.
void CopyPatch(const LevelTable& table, const uint8_t* pixels, size_t row_bytes, int patch_size,
               size_t channel_stride, float* out) {
  float* red = out;
  float* green = out + channel_stride;
  float* blue = out + 2 * channel_stride;
  for (int y = 0; y < patch_size; ++y, pixels += row_bytes) {
    const uint8_t* in = pixels;
    for (int x = 0; x < patch_size; ++x, in += 3) {
      *red++ = table[0][in[0]];
      *green++ = table[1][in[1]];
      *blue++ = table[2][in[2]];
    }
  }
}

}  // namespace

std::pair<int, int> SmartResize(int height, int width, int factor, int64_t min_pixels,
                                int64_t max_pixels) {
  OT_REQUIRE(height >= 1 && width >= 1, ErrorCode::kData, "image of {} x {} pixels", width, height);
  const double aspect_ratio =
      static_cast<double>(std::max(height, width)) / std::min(height, width);
  OT_REQUIRE(aspect_ratio <= kMaxAspectRatio, ErrorCode::kData,
             "image of {} x {} pixels: one side is more than {} times the other", width, height,
             kMaxAspectRatio);
  const double h = height, w = width, f = factor;
  // nearbyint rounds half to even, as Python's round does.
  double rounded_h = std::nearbyint(h / f) * f;
  double rounded_w = std::nearbyint(w / f) * f;
  if (rounded_h * rounded_w > max_pixels) {
    const double beta = std::sqrt(h * w / max_pixels);
    rounded_h = std::max(f, std::floor(h / beta / f) * f);
    rounded_w = std::max(f, std::floor(w / beta / f) * f);
  } else if (rounded_h * rounded_w < min_pixels) {
    const double beta = std::sqrt(min_pixels / (h * w));
    rounded_h = std::ceil(h * beta / f) * f;
    rounded_w = std::ceil(w * beta / f) * f;
  }
  return {static_cast<int>(rounded_h), static_cast<int>(rounded_w)};
}

PatchGrid GridOf(int height, int width, const ImageProcessorConfig& config) {
  if (config.do_resize) {
    std::tie(height, width) =
        SmartResize(height, width, config.factor(), config.min_pixels, config.max_pixels);
  }
  OT_REQUIRE(
      height >= 1 && width >= 1 && height % config.factor() == 0 && width % config.factor() == 0,
      ErrorCode::kData,
      "image of {} x {} pixels: do_resize is off, and its sides are no multiples of {}", width,
      height, config.factor());
  return {1, height / config.patch_size, width / config.patch_size};
}

void PatchifyFrames(const Image* const* frames, const ImageProcessorConfig& config, float* out) {
  const int patch = config.patch_size, merge = config.merge_size,
            num_frames = config.temporal_patch_size;
  const int height = frames[0]->height, width = frames[0]->width;
  OT_CHECK(height % config.factor() == 0 && width % config.factor() == 0, "{} x {}, factor {}",
           height, width, config.factor());
  const size_t row_bytes = static_cast<size_t>(width) * 3;
  for (int t = 0; t < num_frames; ++t) {
    OT_CHECK(frames[t]->height == height && frames[t]->width == width &&
                 frames[t]->rgb.size() == row_bytes * height,
             "frame {}: {} x {}, frame 0: {} x {}", t, frames[t]->height, frames[t]->width, height,
             width);
  }
  const LevelTable table = MakeLevelTable(config);
  const size_t plane = static_cast<size_t>(patch) * patch;
  const size_t channel_stride = plane * num_frames;
  const int block = config.factor();
  for (int block_y = 0; block_y < height; block_y += block) {
    for (int block_x = 0; block_x < width; block_x += block) {
      for (int i = 0; i < merge * merge; ++i, out += 3 * channel_stride) {
        const int y = block_y + i / merge * patch;
        const int x = block_x + i % merge * patch;
        for (int t = 0; t < num_frames; ++t) {
          float* planes = out + t * plane;
          if (t > 0 && frames[t] == frames[t - 1]) {
            for (int c = 0; c < 3; ++c, planes += channel_stride)
              std::memcpy(planes, planes - plane, plane * 4);
          } else {
            CopyPatch(table, &frames[t]->rgb[y * row_bytes + x * 3], row_bytes, patch,
                      channel_stride, planes);
          }
        }
      }
    }
  }
}

PatchGrid ProcessImage(const Image& image, const ImageProcessorConfig& config, float* out) {
  const PatchGrid grid = GridOf(image.height, image.width, config);
  const int height = grid.h * config.patch_size, width = grid.w * config.patch_size;
  Image resized;
  const Image* frame = &image;
  if (height != image.height || width != image.width) {
    resized = ResizeBicubic(image, height, width);
    frame = &resized;
  }
  const std::vector<const Image*> frames(config.temporal_patch_size, frame);
  PatchifyFrames(frames.data(), config, out);
  return grid;
}

PatchGrid ProcessImage(const Image& image, const ImageProcessorConfig& config,
                       std::vector<float>* out) {
  const PatchGrid grid = GridOf(image.height, image.width, config);
  out->resize(grid.num_patches() * config.patch_dim());
  return ProcessImage(image, config, out->data());
}

}  // namespace omnitrain
