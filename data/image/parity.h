#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/image/processor.h"

namespace omnitrain {

/// One reference case of the folder golden/preprocess: an image file and what transformers made of
/// it.
struct ImageCase {
  std::string name;               // what reports and errors call it, e.g. "qwen3_vl.q85.jpg"
  std::string bytes;              // the image file
  ImageProcessorConfig config;    // ParseImageProcessorConfig of meta.json's images.<config>.config
  PatchGrid grid;                 // expected grid_thw
  const float* pixels = nullptr;  // expected pixel_values, num_values floats; not owned
  int64_t num_values = 0;
};

struct ImageCaseResult {
  std::string name;
  PatchGrid grid;  // ours
  PatchGrid expected_grid;
  int64_t num_values = 0;    // compared; 0 when the sizes differ
  int64_t num_equal = 0;     // the same level of 255, before normalisation
  int64_t num_within = 0;    // at most one level apart
  double max_abs_level = 0;  // largest difference; 0: bitwise equal; infinite if one is NaN
  bool ok = false;           // grids equal, and at least 99.9 % of the values within one level
};

struct PreprocessReport {
  std::vector<ImageCaseResult> cases;
  bool ok() const;  // there were cases, and all are ok
};

/// Decodes (alpha onto white) and processes every case and compares. Errors: kData when an image
/// does not decode.
PreprocessReport CheckImageCases(const std::vector<ImageCase>& cases);

/// One line: name, grid, share of values within one level, exact share, largest difference.
std::string Describe(const ImageCaseResult& result);

}  // namespace omnitrain
