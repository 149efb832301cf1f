#include <type_traits>

#include "kernels/attention/attention_mma.cuh"

namespace omnitrain::cuda {
namespace {

// FlashAttention-2 (Dao 2023, algorithm 1): a block has a tile of queries of one head and walks the
// keys; a warp has 16 kM of the queries. The next keys are copied while these are used.

constexpr int kKeys = 64;

template <int kHeadDim, int kM>
constexpr size_t ForwardSharedBytes() {
  return TileBytes<kHeadDim>(16 * kM * kMmaWarps + 4 * kKeys);
}

template <int kHeadDim, int kM>
__global__ void __launch_bounds__(kMmaThreads, 2)
    MmaForwardKernel(Heads<const Bf16> q, Heads<const Bf16> k, Heads<const Bf16> v, Sequences s,
                     Heads<Bf16> o, float* lse) {
  constexpr int kQueries = 16 * kM * kMmaWarps, kN = kKeys / 8, pitch = kPitch<kHeadDim>;
  extern __shared__ __align__(16) unsigned char shared[];
  Bf16* q_tile = reinterpret_cast<Bf16*>(shared);
  Bf16* kv_tiles = q_tile + kQueries * pitch;
  const auto k_tile = [&](int stage) { return kv_tiles + (2 * stage) * kKeys * pitch; };
  const auto v_tile = [&](int stage) { return kv_tiles + (2 * stage + 1) * kKeys * pitch; };

  const int64_t first_query = s.queries[blockIdx.z], last_query = s.queries[blockIdx.z + 1];
  const int64_t tiles = (last_query - first_query + kQueries - 1) / kQueries;
  if (blockIdx.x >= tiles) return;
  // The last queries of a causal sequence have the most keys: they go first.
  const int64_t begin = first_query + (tiles - 1 - blockIdx.x) * kQueries;
  const int64_t first = s.keys[blockIdx.z], last = s.keys[blockIdx.z + 1];
  const int head = blockIdx.y, kv_head = head / s.group;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * 16 * kM;
  const int64_t key_end = s.is_causal ? min(last, begin + kQueries) : last;

  CopyTileAsync<kHeadDim, kQueries>(q, begin, last_query, head, q_tile);
  CopyTileAsync<kHeadDim, kKeys>(k, first, last, kv_head, k_tile(0));
  CopyTileAsync<kHeadDim, kKeys>(v, first, last, kv_head, v_tile(0));

  const float scale = s.scale * 1.4426950408889634f;  // exponentials to base 2
  float acc[kM][kHeadDim / 8][4] = {};
  float row_max[kM][2], row_sum[kM][2] = {};  // sums over this thread's columns
#pragma unroll
  for (int m = 0; m < kM; ++m) row_max[m][0] = row_max[m][1] = -INFINITY;

  int stage = 0;
  for (int64_t keys = first; keys < key_end; keys += kKeys, stage ^= 1) {
    AwaitCopies();
    if (keys + kKeys < key_end) {
      CopyTileAsync<kHeadDim, kKeys>(k, keys + kKeys, last, kv_head, k_tile(stage ^ 1));
      CopyTileAsync<kHeadDim, kKeys>(v, keys + kKeys, last, kv_head, v_tile(stage ^ 1));
    }
    float p[kM][kN][4] = {};
    MultiplyTransposed<kHeadDim>(q_tile + warp_row * pitch, k_tile(stage), p);
    const bool has_unseen =
        keys + kKeys > last || (s.is_causal && keys + kKeys - 1 > begin + warp_row);
    if (has_unseen) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const int64_t key = keys + FragmentColumn(n, c);
            const int64_t token = begin + warp_row + FragmentRow(m, c);
            if (key >= last || (s.is_causal && key > token)) p[m][n][c] = -INFINITY;
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float max = row_max[m][half];
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          max = fmaxf(max, fmaxf(p[m][n][2 * half], p[m][n][2 * half + 1]));
        }
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
        // Finite: every query sees the first key.
        const float rescale = Exp2((row_max[m][half] - max) * scale), base = max * scale;
        row_max[m][half] = max;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int c = 2 * half; c < 2 * half + 2; ++c) {
            p[m][n][c] = Exp2(p[m][n][c] * scale - base);
            sum += p[m][n][c];
          }
        }
        row_sum[m][half] = row_sum[m][half] * rescale + sum;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          acc[m][n][2 * half] *= rescale;
          acc[m][n][2 * half + 1] *= rescale;
        }
      }
    }
    MultiplyRounded<kHeadDim>(p, v_tile(stage), acc);
  }

  // Read again: the loop has no register to keep it in.
  const int64_t query_end = s.queries[blockIdx.z + 1];
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& sum = row_sum[m][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int64_t token = begin + warp_row + FragmentRow(m, 2 * half);
      if (token < query_end && threadIdx.x % 4 == 0) {
        lse[head * s.lse_stride + token] = row_max[m][half] * s.scale + logf(sum);
      }
    }
  }
  StoreRows<kHeadDim, kM>(acc, begin + warp_row, query_end, head, o,
                          [&](int m, int half) { return 1.0f / row_sum[m][half]; });
}

bool IsAligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.row_stride % 8 == 0;
}

}  // namespace

bool FitsMma(const Tensor& q, const Tensor& k, const Tensor& v) {
  return q.dtype == DType::kBF16 && q.shape[2] % 8 == 0 && q.shape[2] <= 128 && IsAligned(q) &&
         IsAligned(k) && IsAligned(v);
}

void MmaAttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                         const AttentionSegments& segments, const AttentionParams& params, Tensor o,
                         Tensor lse) {
  DispatchHeadDim(q.shape[2], [&](auto head_dim) {
    constexpr int kHeadDim = decltype(head_dim)::value;
    const auto launch = [&](auto rows) {
      constexpr int kM = decltype(rows)::value;
      constexpr size_t kBytes = ForwardSharedBytes<kHeadDim, kM>();
      const auto kernel = MmaForwardKernel<kHeadDim, kM>;
      AllowShared(kernel, kBytes);
      kernel<<<TileGrid(segments.q, segments.max_q, q.shape[1], 16 * kM * kMmaWarps), kMmaThreads,
               kBytes, StreamOf(ctx)>>>(
          HeadsOf<const Bf16>(q), HeadsOf<const Bf16>(k), HeadsOf<const Bf16>(v),
          SequencesOf(q, k, lse, segments, params), HeadsOf<Bf16>(o), Data<float>(lse));
    };
    // Windows are often 64 long.
    if (segments.max_q <= 64) {
      launch(std::integral_constant<int, 1>{});
    } else {
      launch(std::integral_constant<int, 2>{});
    }
    CheckLaunch("attention forward");
  });
}

}  // namespace omnitrain::cuda
