#include "data/image/resize.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/check.h"

namespace omnitrain {
namespace {

constexpr double kBicubicSupport = 2.0;
constexpr int kPrecisionBits = 32 - 8 - 2;  // of the weights, as in Pillow
// A weight has 23 bits and a sign, too many for the 16-bit multiply-add of the CPU. It is split as
// weight = high * 2^15 + low with 0 <= low < 2^15; both sums are exact modulo 2^32, and so is their
// combination.
constexpr int kSplitBits = 15;
constexpr int32_t kLowMask = (1 << kSplitBits) - 1;

constexpr int kGroup = 4;     // taps per step of the row pass
constexpr int kChunk = 16;    // bytes per step of the column pass
constexpr int kPadding = 32;  // bytes that vector loads and stores may touch behind a row

double Bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

/// The weights of one direction. Unused taps at the end of a row of `weights` are 0.
struct Taps {
  int max_count = 0;             // rounded up to a multiple of kGroup
  std::vector<int> first;        // [out] first input position
  std::vector<int> count;        // [out] input positions used
  std::vector<int32_t> weights;  // [out, max_count]
};

Taps MakeTaps(int in_size, int out_size) {
  const double scale = static_cast<double>(in_size) / out_size;
  const double filter_scale = std::max(scale, 1.0);
  const double support = kBicubicSupport * filter_scale;

  Taps taps;
  taps.first.resize(out_size);
  taps.count.resize(out_size);
  for (int i = 0; i < out_size; ++i) {
    const double center = (i + 0.5) * scale;
    taps.first[i] = std::max(0, static_cast<int>(center - support + 0.5));
    taps.count[i] = std::min(in_size, static_cast<int>(center + support + 0.5)) - taps.first[i];
    taps.max_count = std::max(taps.max_count, taps.count[i]);
  }
  taps.max_count = (taps.max_count + kGroup - 1) / kGroup * kGroup;

  taps.weights.resize(static_cast<size_t>(out_size) * taps.max_count);
  std::vector<double> exact(taps.max_count);
  for (int i = 0; i < out_size; ++i) {
    const double center = (i + 0.5) * scale;
    double sum = 0.0;
    for (int k = 0; k < taps.count[i]; ++k) {
      exact[k] = Bicubic((k + taps.first[i] - center + 0.5) * (1.0 / filter_scale));
      sum += exact[k];
    }
    int32_t* weights = &taps.weights[static_cast<size_t>(i) * taps.max_count];
    for (int k = 0; k < taps.count[i]; ++k) {
      const double weight = sum != 0.0 ? exact[k] / sum : exact[k];
      weights[k] = static_cast<int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kPrecisionBits));
    }
  }
  return taps;
}

// [out, groups, 8]: the low halves of four weights, then their high halves.
std::vector<int16_t> SplitWeights(const Taps& taps) {
  std::vector<int16_t> split(taps.weights.size() * 2);
  for (size_t i = 0; i < taps.weights.size(); ++i) {
    const size_t at = i / kGroup * kGroup * 2 + i % kGroup;
    split[at] = static_cast<int16_t>(taps.weights[i] & kLowMask);
    split[at + kGroup] = static_cast<int16_t>(taps.weights[i] >> kSplitBits);
  }
  return split;
}

/// One row, [in_w, 3] -> [out_w, 3]. `in` is readable for a group behind its end, `out` writable
/// for kPadding.
void ResizeRow(const Taps& taps, const int16_t* weights, const uint8_t* in, uint8_t* out) {
  const int out_width = static_cast<int>(taps.first.size());
  const int num_groups = taps.max_count / kGroup;
  // Twelve bytes hold four pixels. Low lane: pixels 0 and 1 as pairs (R0 R1, G0 G1, B0 B1) of 16
  // bits; high lane: 2 and 3.
  const __m256i pair_up =
      _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                       6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const __m256i pick_low = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  const __m256i pick_high = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
  const __m128i half = _mm_set1_epi32(1 << (kPrecisionBits - 1));
  for (int x = 0; x < out_width; ++x) {
    const uint8_t* pixels = in + 3 * taps.first[x];
    __m256i low = _mm256_setzero_si256();
    __m256i high = _mm256_setzero_si256();
    for (int g = 0; g < num_groups; ++g, pixels += 3 * kGroup, weights += 2 * kGroup) {
      const __m256i bytes =
          _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels)));
      const __m256i pairs = _mm256_shuffle_epi8(bytes, pair_up);
      const __m256 both = _mm256_castsi256_ps(
          _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights))));
      const __m256i low_weights = _mm256_castps_si256(_mm256_permutevar_ps(both, pick_low));
      const __m256i high_weights = _mm256_castps_si256(_mm256_permutevar_ps(both, pick_high));
      low = _mm256_add_epi32(low, _mm256_madd_epi16(pairs, low_weights));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(pairs, high_weights));
    }
    const __m256i lanes = _mm256_add_epi32(low, _mm256_slli_epi32(high, kSplitBits));
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    sum = _mm_srai_epi32(_mm_add_epi32(sum, half), kPrecisionBits);
    sum = _mm_packs_epi32(sum, sum);
    const int rgbx = _mm_cvtsi128_si32(_mm_packus_epi16(sum, sum));
    std::memcpy(out + 3 * x, &rgbx,
                4);  // the fourth byte is overwritten by the next pixel, or falls into the padding
  }
}

__m256i PairOfWeights(int32_t first, int32_t second) {
  return _mm256_set1_epi32((first & 0xffff) |
                           static_cast<int32_t>(static_cast<uint32_t>(second) << 16));
}

/// One output row from `count` rows of row_bytes, readable to a multiple of kChunk; exactly
/// row_bytes are written.
void ResizeColumns(const std::vector<const uint8_t*>& rows, const int32_t* weights,
                   size_t row_bytes, uint8_t* out) {
  const int count = static_cast<int>(rows.size());
  const __m256i half = _mm256_set1_epi32(1 << (kPrecisionBits - 1));
  for (size_t at = 0; at < row_bytes; at += kChunk) {
    __m256i low_a = _mm256_setzero_si256(), low_b = low_a, high_a = low_a, high_b = low_a;
    for (int k = 0; k < count; k += 2) {
      const int32_t w0 = weights[k];
      const int32_t w1 = k + 1 < count ? weights[k + 1] : 0;
      const uint8_t* row1 = k + 1 < count ? rows[k + 1] : rows[k];
      const __m256i low_weights = PairOfWeights(w0 & kLowMask, w1 & kLowMask);
      const __m256i high_weights = PairOfWeights(w0 >> kSplitBits, w1 >> kSplitBits);
      const __m256i p0 =
          _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[k] + at)));
      const __m256i p1 =
          _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row1 + at)));
      const __m256i a = _mm256_unpacklo_epi16(p0, p1);
      const __m256i b = _mm256_unpackhi_epi16(p0, p1);
      low_a = _mm256_add_epi32(low_a, _mm256_madd_epi16(a, low_weights));
      low_b = _mm256_add_epi32(low_b, _mm256_madd_epi16(b, low_weights));
      high_a = _mm256_add_epi32(high_a, _mm256_madd_epi16(a, high_weights));
      high_b = _mm256_add_epi32(high_b, _mm256_madd_epi16(b, high_weights));
    }
    __m256i a = _mm256_add_epi32(low_a, _mm256_slli_epi32(high_a, kSplitBits));
    __m256i b = _mm256_add_epi32(low_b, _mm256_slli_epi32(high_b, kSplitBits));
    a = _mm256_srai_epi32(_mm256_add_epi32(a, half), kPrecisionBits);
    b = _mm256_srai_epi32(_mm256_add_epi32(b, half), kPrecisionBits);
    const __m256i words = _mm256_packs_epi32(a, b);  // undoes the order of the unpacks
    const __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    if (at + kChunk <= row_bytes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + at), bytes);
    } else {
      alignas(16) uint8_t tail[kChunk];
      _mm_store_si128(reinterpret_cast<__m128i*>(tail), bytes);
      std::memcpy(out + at, tail, row_bytes - at);
    }
  }
}

}  // namespace

Image ResizeBicubic(const Image& image, int height, int width) {
  OT_CHECK(height >= 1 && width >= 1 && image.height >= 1 && image.width >= 1, "{} x {} to {} x {}",
           image.height, image.width, height, width);
  const size_t in_row_bytes = static_cast<size_t>(image.width) * 3;
  const size_t out_row_bytes = static_cast<size_t>(width) * 3;
  OT_CHECK(image.rgb.size() == in_row_bytes * image.height, "{} bytes for {} x {}",
           image.rgb.size(), image.height, image.width);
  if (height == image.height && width == image.width) return image;

  const Taps across = MakeTaps(image.width, width);
  const Taps down = MakeTaps(image.height, height);
  const std::vector<int16_t> across_weights = SplitWeights(across);

  // The rows that an output row needs form a window that only moves down: row r of the input,
  // resized across, waits in slot r % num_slots until the window has passed it.
  const int num_slots = std::min(down.max_count, image.height);
  const size_t slot_bytes = out_row_bytes + kPadding;
  std::vector<uint8_t> slots(num_slots * slot_bytes);
  std::vector<uint8_t> in_row(in_row_bytes + 3 * across.max_count + kPadding);
  std::vector<const uint8_t*> window;

  Image out{height, width, std::vector<uint8_t>(out_row_bytes * height)};
  int next_row = down.first[0];
  for (int y = 0; y < height; ++y) {
    const int first = down.first[y];
    const int end = first + down.count[y];
    for (; next_row < end; ++next_row) {
      std::memcpy(in_row.data(), &image.rgb[next_row * in_row_bytes], in_row_bytes);
      ResizeRow(across, across_weights.data(), in_row.data(),
                &slots[next_row % num_slots * slot_bytes]);
    }
    window.clear();
    for (int row = first; row < end; ++row) window.push_back(&slots[row % num_slots * slot_bytes]);
    ResizeColumns(window, &down.weights[static_cast<size_t>(y) * down.max_count], out_row_bytes,
                  &out.rgb[y * out_row_bytes]);
  }
  return out;
}

}  // namespace omnitrain
