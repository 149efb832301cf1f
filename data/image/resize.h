#pragma once

#include "data/image/image.h"

namespace omnitrain {

/// Bicubic resize with antialiasing, equal to PIL's Image.resize((width, height), BICUBIC) to the
/// last bit, for Pillow before 13. (Pillow 13 takes the columns first where the height shrinks much
/// more than the width does; here it is always rows first, as for all models trained so far.)
/// Kernel: Keys 1981 with a = -0.5, stretched by the reduction factor when shrinking. Rows first,
/// then columns, rounded to 8 bits after each; weights in 22-bit fixed point (Pillow's Resample.c,
/// 8 bits per channel).
/// Requires: a whole image, height and width >= 1.
/// Cost: about in_h * out_w * taps + out_h * out_w * taps multiply-adds per channel; keeps one band
/// of rows, no copy of the picture. One thread; reentrant.
Image ResizeBicubic(const Image& image, int height, int width);

}  // namespace omnitrain
