#pragma once

#include <vector>

#include "core/runtime/context.h"

namespace omnitrain {

// Rotary position embedding in the rotate-half form: pairs (j, j + K/2) turn by the angle of
// frequency j. Source: Su et al. 2021, eq. 34; multi-axis positions (M-RoPE): Wang et al. 2024
// (Qwen2-VL), section 2.1. Tables are computed on the host in f32 whatever the precision, as
// transformers does, and kept so as cos, sin [T, K/2] for bf16 too (f64 for f64): a rounded angle
// would be one error more in every q and k.

/// Which of the three position rows (time, height, width) drives frequency j of an LLM head.
enum class MropeLayout {
  kChunked,  // Qwen2-VL, Qwen2.5-VL: the first section[0] frequencies take time, the next height,
             // the last width
  kInterleaved,  // Qwen3-VL: j % 3 == 1 (height) and 2 (width) below 3 * section, time elsewhere
};

struct MropeParams {
  int head_dim = 0;            // K, even
  double theta = 0;            // base of the frequencies
  int section[3] = {0, 0, 0};  // frequencies per row; their sum is K/2
  MropeLayout layout = MropeLayout::kInterleaved;
};

// The power, cosine and sine are the C library's, PyTorch's its own: where both round an f32 in
// another direction, a table entry differs by one ulp, or a frequency by one ulp (for K = 128, one
// frequency of 64 at theta 1e6 and 5e6), which moves its angle by 6e-8 of itself.

/// Angles of an LLM: position_ids [3, T] (host, int64, row-major) to cos and sin, each [T, K/2]
/// (host, f32).
void BuildMropeTables(const MropeParams& params, const int64_t* position_ids, int64_t num_tokens,
                      float* cos, float* sin);

/// Angles of a vision tower: patch coordinates (row, column) [P, 2] (host, int32); frequency j <
/// K/4 of the row, then K/4 of the column: inv[j] = theta^(-2j / (K/2)). cos, sin [P, K/2] (host,
/// f32).
void BuildVisionRopeTables(int head_dim, double theta, const int32_t* coordinates,
                           int64_t num_patches, float* cos, float* sin);

enum class RopeDirection { kForward, kBackward };

/// Turns x in place by +angle (forward) or -angle (backward: the transpose of the rotation).
/// Shapes: x [T, H, K], dim 0 may be strided; cos, sin [T, K/2].  Dtype: x the compute dtype; cos,
/// sin and the arithmetic f32 (f64 for f64).
void ApplyRope(Context& ctx, const Tensor& cos, const Tensor& sin, RopeDirection direction,
               Tensor x);

}  // namespace omnitrain
