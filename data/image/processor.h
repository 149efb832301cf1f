#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/image/image.h"

namespace omnitrain {

/// What preprocessor_config.json says of the Qwen2-VL family of image processors; the defaults are
/// theirs.
struct ImageProcessorConfig {
  int patch_size = 14;          // pixels
  int temporal_patch_size = 2;  // frames
  int merge_size = 2;           // patches per side of the block that becomes one LLM token
  bool do_resize = true;
  int64_t min_pixels = 56 * 56;
  int64_t max_pixels = 28 * 28 * 1280;
  bool do_rescale = true;
  double rescale_factor = 1.0 / 255.0;
  bool do_normalize = true;
  std::array<float, 3> mean = {0.48145466f, 0.4578275f, 0.40821073f};  // RGB, after rescaling
  std::array<float, 3> std = {0.26862954f, 0.26130258f, 0.27577711f};

  /// Sides of a resized image are multiples of this many pixels.
  int factor() const { return patch_size * merge_size; }
  /// Floats in one patch.
  int patch_dim() const { return 3 * temporal_patch_size * patch_size * patch_size; }
};

/// Parses the text of a preprocessor_config.json; `name` is what errors call it.
/// As in transformers, min_pixels and max_pixels win over size.shortest_edge and size.longest_edge
/// (pixel counts, despite their names), and keys that are absent or null take the class's default.
/// Keys of a processor that also serves audio are ignored.
/// Errors: kSpec for another image_processor_type than those of Qwen2-VL to Qwen3-Omni, a resample
/// other than bicubic, do_convert_rgb false, or values of the wrong type or range; the message
/// names file and key.
ImageProcessorConfig ParseImageProcessorConfig(std::string_view json, std::string_view name);

/// The same of a file. Errors: also kSpec when it cannot be read.
ImageProcessorConfig LoadImageProcessorConfig(const std::string& path);

/// The (height, width) an image is resized to: multiples of `factor`, near the aspect ratio, with
/// min_pixels <= height * width <= max_pixels as far as both allow.
/// Source: transformers, smart_resize (rounds half to even; sides that round to 0 grow through
/// min_pixels).
/// Errors: kData when a side is below 1 or one is more than 200 times the other.
std::pair<int, int> SmartResize(int height, int width, int factor, int64_t min_pixels,
                                int64_t max_pixels);

/// Patches in time, height and width: a row of image_grid_thw.
struct PatchGrid {
  int t = 0;
  int h = 0;
  int w = 0;

  int64_t num_patches() const { return int64_t{t} * h * w; }
  /// Rows that the encoder hands to the LLM.
  int64_t num_tokens(int merge_size) const { return num_patches() / (merge_size * merge_size); }
  bool operator==(const PatchGrid& o) const { return t == o.t && h == o.h && w == o.w; }
  bool operator!=(const PatchGrid& o) const { return !(*this == o); }
};

/// The grid that ProcessImage gives an image of this size: planning needs the header only.
/// Errors: as SmartResize; kData when do_resize is off and the sides are no multiples of
/// config.factor().
PatchGrid GridOf(int height, int width, const ImageProcessorConfig& config);

/// Resizes, rescales, normalises and cuts a picture into patches.
/// Shapes: out [P, patch_dim], P = GridOf(...).num_patches(). Patches run over blocks of merge_size
/// x merge_size in raster order, row-major inside a block; a patch holds [3, temporal_patch_size,
/// patch_size, patch_size], the picture repeated in time.
/// Numerics: 8-bit resize (ResizeBicubic), then (float(v * rescale_factor) - mean) / std in fp32:
/// bitwise what transformers' PIL processor gives; its torchvision processor resizes to within one
/// level of 255 of this (two in rare cases).
/// Errors: as GridOf.
/// Thread safety: reentrant, no shared state, one thread.
PatchGrid ProcessImage(const Image& image, const ImageProcessorConfig& config, float* out);
PatchGrid ProcessImage(const Image& image, const ImageProcessorConfig& config,
                       std::vector<float>* out);

/// The last part of the above for frames that have their size already.
/// Shapes: frames [temporal_patch_size], all [H, W] with multiples of config.factor(); out [(H /
/// patch_size) * (W / patch_size), patch_dim], one time step. A video repeats its last frame where
/// frames are missing (the same pointer twice costs a copy only).
void PatchifyFrames(const Image* const* frames, const ImageProcessorConfig& config, float* out);

}  // namespace omnitrain
