#include <type_traits>

#include "kernels/attention/attention_mma.cuh"
#include "kernels/attention/attention_split.cuh"

namespace omnitrain::cuda {
namespace {

// Two kernels, so that each sum has one owner and one order: keys walk all queries that see them
// (dk, dv), queries walk their keys (dq). P is recomputed in both. Source: Dao 2023, algorithm 2.

// dk and dv: a block has kTile keys of a kv head, a warp 16 of them; scores are kept transposed,
// [keys, queries], so that P^T and dS^T are left operands as they come.
constexpr int kTile = 64;

template <int kHeadDim>
constexpr size_t KeyGradSharedBytes() {
  return TileBytes<kHeadDim>(6 * kTile) + 4 * kTile * sizeof(float);
}

template <int kHeadDim>
__global__ void __launch_bounds__(kMmaThreads, 2)
    MmaKeyGradKernel(Heads<const Bf16> d_o, Heads<const Bf16> q, Heads<const Bf16> k,
                     Heads<const Bf16> v, const float* lse, const float* delta, Sequences s,
                     Split split, GradHeads<Bf16> dk, GradHeads<Bf16> dv) {
  constexpr int kN = kTile / 8, pitch = kPitch<kHeadDim>;
  extern __shared__ __align__(16) unsigned char shared[];
  Bf16* k_tile = reinterpret_cast<Bf16*>(shared);
  Bf16* v_tile = k_tile + kTile * pitch;
  Bf16* query_tiles = v_tile + kTile * pitch;
  float* query_values = reinterpret_cast<float*>(query_tiles + 4 * kTile * pitch);
  const auto q_tile = [&](int stage) { return query_tiles + (2 * stage) * kTile * pitch; };
  const auto do_tile = [&](int stage) { return query_tiles + (2 * stage + 1) * kTile * pitch; };
  const auto lse_tile = [&](int stage) { return query_values + (2 * stage) * kTile; };
  const auto delta_tile = [&](int stage) { return query_values + (2 * stage + 1) * kTile; };

  const int64_t last_key = s.keys[blockIdx.z + 1];
  const int64_t begin = s.keys[blockIdx.z] + static_cast<int64_t>(blockIdx.x) * kTile;
  if (begin >= last_key) return;
  const int kv_head = static_cast<int>(blockIdx.y) / split.count;
  const int part = static_cast<int>(blockIdx.y) % split.count;
  const int num_heads = s.group / split.count, first_head = kv_head * s.group + part * num_heads;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  // The tiles of queries, head by head.
  const int64_t query_begin = s.is_causal ? begin : s.queries[blockIdx.z];
  const int64_t last = s.queries[blockIdx.z + 1];
  const int tiles_per_head = static_cast<int>((last - query_begin + kTile - 1) / kTile);
  const int tiles = tiles_per_head * num_heads;
  const auto head_of = [&](int i) { return first_head + i / tiles_per_head; };
  const auto query_of = [&](int i) { return query_begin + i % tiles_per_head * kTile; };
  const auto copy_queries = [&](int i, int stage) {
    const int64_t queries = query_of(i);
    const int head = head_of(i);
    CopyTileAsync<kHeadDim, kTile>(q, queries, last, head, q_tile(stage));
    CopyTileAsync<kHeadDim, kTile>(d_o, queries, last, head, do_tile(stage));
    const int r = static_cast<int>(threadIdx.x) % kTile;
    const bool is_real = queries + r < last;
    const int64_t token = is_real ? queries + r : 0;
    if (threadIdx.x < kTile) {
      CopyAsync<4>(lse_tile(stage) + r, lse + head * s.lse_stride + token, is_real);
    } else {
      CopyAsync<4>(delta_tile(stage) + r, delta + head * s.num_queries + token, is_real);
    }
  };

  CopyTileAsync<kHeadDim, kTile>(k, begin, last_key, kv_head, k_tile);
  CopyTileAsync<kHeadDim, kTile>(v, begin, last_key, kv_head, v_tile);
  copy_queries(0, 0);

  const float scale = s.scale * kLog2E;
  float dk_acc[1][kHeadDim / 8][4] = {}, dv_acc[1][kHeadDim / 8][4] = {};
  for (int i = 0, stage = 0; i < tiles; ++i, stage ^= 1) {
    AwaitCopies();
    if (i + 1 < tiles) copy_queries(i + 1, stage ^ 1);
    const int64_t queries = query_of(i);
    float p[1][kN][4] = {};
    MultiplyTransposed<kHeadDim>(k_tile + warp_row * pitch, q_tile(stage), p);
    const bool has_unseen =
        queries + kTile > last || (s.is_causal && begin + warp_row + 15 > queries);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int column = FragmentColumn(n, c);
        p[0][n][c] = Exp2(p[0][n][c] * scale - lse_tile(stage)[column] * kLog2E);
        if (has_unseen) {
          const int64_t key = begin + warp_row + FragmentRow(0, c);
          if (queries + column >= last || (s.is_causal && key > queries + column)) p[0][n][c] = 0;
        }
      }
    }
    MultiplyRounded<kHeadDim>(p, do_tile(stage), dv_acc);
    float ds[1][kN][4] = {};
    MultiplyTransposed<kHeadDim>(v_tile + warp_row * pitch, do_tile(stage), ds);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        ds[0][n][c] = p[0][n][c] * (ds[0][n][c] - delta_tile(stage)[FragmentColumn(n, c)]);
      }
    }
    MultiplyRounded<kHeadDim>(ds, q_tile(stage), dk_acc);
  }
  // Read again: the loop has no register to keep it in.
  const int64_t key_end = s.keys[blockIdx.z + 1];
  if (split.count > 1) {
    const auto store = [&](const float(&acc)[1][kHeadDim / 8][4], float* sums) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t token = begin + warp_row + FragmentRow(0, 2 * half);
        if (token >= key_end) continue;
        float* row = sums + split.Row(part, token, kv_head);
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          if (8 * n >= split.head_dim) continue;
          *reinterpret_cast<float2*>(row + FragmentColumn(n, 0)) =
              make_float2(acc[0][n][2 * half], acc[0][n][2 * half + 1]);
        }
      }
    };
    store(dk_acc, split.dk);
    store(dv_acc, split.dv);
    return;
  }
  StoreGradRows<kHeadDim, 1>(dk_acc, begin + warp_row, key_end, kv_head, dk, s.scale);
  StoreGradRows<kHeadDim, 1>(dv_acc, begin + warp_row, key_end, kv_head, dv, 1.0f);
}

// dq: a block has kQueries queries of a head, a warp 16 kM of them.
constexpr int kM = 2, kQueries = 16 * kM * kMmaWarps, kKeys = 32;

template <int kHeadDim>
constexpr size_t QueryGradSharedBytes() {
  return TileBytes<kHeadDim>(2 * kQueries + 4 * kKeys);
}

template <int kHeadDim>
__global__ void __launch_bounds__(kMmaThreads, 2)
    MmaQueryGradKernel(Heads<const Bf16> d_o, Heads<const Bf16> q, Heads<const Bf16> k,
                       Heads<const Bf16> v, const float* lse, const float* delta, Sequences s,
                       GradHeads<Bf16> dq) {
  constexpr int kN = kKeys / 8, pitch = kPitch<kHeadDim>;
  extern __shared__ __align__(16) unsigned char shared[];
  Bf16* q_tile = reinterpret_cast<Bf16*>(shared);
  Bf16* do_tile = q_tile + kQueries * pitch;
  Bf16* kv_tiles = do_tile + kQueries * pitch;
  const auto k_tile = [&](int stage) { return kv_tiles + (2 * stage) * kKeys * pitch; };
  const auto v_tile = [&](int stage) { return kv_tiles + (2 * stage + 1) * kKeys * pitch; };

  const int64_t first_query = s.queries[blockIdx.z], last_query = s.queries[blockIdx.z + 1];
  const int64_t tiles = (last_query - first_query + kQueries - 1) / kQueries;
  if (blockIdx.x >= tiles) return;
  const int64_t begin = first_query + (tiles - 1 - blockIdx.x) * kQueries;
  const int64_t first = s.keys[blockIdx.z], last = s.keys[blockIdx.z + 1];
  const int head = blockIdx.y, kv_head = head / s.group;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * 16 * kM;
  const int64_t key_end = s.is_causal ? min(last, begin + kQueries) : last;

  CopyTileAsync<kHeadDim, kQueries>(q, begin, last_query, head, q_tile);
  CopyTileAsync<kHeadDim, kQueries>(d_o, begin, last_query, head, do_tile);
  CopyTileAsync<kHeadDim, kKeys>(k, first, last, kv_head, k_tile(0));
  CopyTileAsync<kHeadDim, kKeys>(v, first, last, kv_head, v_tile(0));

  float row_lse[kM][2], row_delta[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t token = begin + warp_row + FragmentRow(m, 2 * half);
      const bool is_real = token < last_query;
      row_lse[m][half] = is_real ? lse[head * s.lse_stride + token] * kLog2E : 0;
      row_delta[m][half] = is_real ? delta[head * s.num_queries + token] : 0;
    }
  }

  const float scale = s.scale * kLog2E;
  float acc[kM][kHeadDim / 8][4] = {};
  int stage = 0;
  for (int64_t keys = first; keys < key_end; keys += kKeys, stage ^= 1) {
    AwaitCopies();
    if (keys + kKeys < key_end) {
      CopyTileAsync<kHeadDim, kKeys>(k, keys + kKeys, last, kv_head, k_tile(stage ^ 1));
      CopyTileAsync<kHeadDim, kKeys>(v, keys + kKeys, last, kv_head, v_tile(stage ^ 1));
    }
    float p[kM][kN][4] = {}, ds[kM][kN][4] = {};
    MultiplyTransposed<kHeadDim>(q_tile + warp_row * pitch, k_tile(stage), p);
    MultiplyTransposed<kHeadDim>(do_tile + warp_row * pitch, v_tile(stage), ds);
    const bool has_unseen =
        keys + kKeys > last || (s.is_causal && keys + kKeys - 1 > begin + warp_row);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          float value = Exp2(p[m][n][c] * scale - row_lse[m][c / 2]);
          if (has_unseen) {
            const int64_t key = keys + FragmentColumn(n, c);
            const int64_t token = begin + warp_row + FragmentRow(m, c);
            if (key >= last || (s.is_causal && key > token)) value = 0;
          }
          ds[m][n][c] = value * (ds[m][n][c] - row_delta[m][c / 2]);
        }
      }
    }
    MultiplyRounded<kHeadDim>(ds, k_tile(stage), acc);
  }
  StoreGradRows<kHeadDim, kM>(acc, begin + warp_row, s.queries[blockIdx.z + 1], head, dq, s.scale);
}

}  // namespace

size_t SplitSumsBytes(const Tensor& q, const Tensor& k) {
  const int64_t T = k.shape[0], G = k.shape[1], K = k.shape[2];
  const int count = NumSplits(T, G, static_cast<int>(q.shape[1] / G));
  return count == 1 ? 0 : 2 * sizeof(float) * static_cast<size_t>(count * T * G * K);
}

void MmaAttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                          const Tensor& v, const Tensor& lse, const float* delta, float* split_sums,
                          const AttentionSegments& segments, const AttentionParams& params,
                          const AttentionGradients& gradients) {
  const Sequences s = SequencesOf(q, k, lse, segments, params);
  const auto dq = GradHeadsOf<Bf16>(gradients.dq, gradients.dq_write);
  const auto dk = GradHeadsOf<Bf16>(gradients.dk, gradients.dkv_write);
  const auto dv = GradHeadsOf<Bf16>(gradients.dv, gradients.dkv_write);
  const Split split = SplitOf(k, s.group, split_sums);
  DispatchHeadDim(q.shape[2], [&](auto head_dim) {
    constexpr int kHeadDim = decltype(head_dim)::value;
    const auto key_grad = MmaKeyGradKernel<kHeadDim>;
    constexpr size_t kKeyBytes = KeyGradSharedBytes<kHeadDim>();
    AllowShared(key_grad, kKeyBytes);
    key_grad<<<TileGrid(segments.k, segments.max_k, k.shape[1] * split.count, kTile), kMmaThreads,
               kKeyBytes, StreamOf(ctx)>>>(HeadsOf<const Bf16>(d_o), HeadsOf<const Bf16>(q),
                                           HeadsOf<const Bf16>(k), HeadsOf<const Bf16>(v),
                                           Data<float>(lse), delta, s, split, dk, dv);
    CheckLaunch("attention backward: keys");
    SumSplits(ctx, split, s.scale, dk, dv);
    const auto query_grad = MmaQueryGradKernel<kHeadDim>;
    constexpr size_t kQueryBytes = QueryGradSharedBytes<kHeadDim>();
    AllowShared(query_grad, kQueryBytes);
    query_grad<<<TileGrid(segments.q, segments.max_q, q.shape[1], kQueries), kMmaThreads,
                 kQueryBytes, StreamOf(ctx)>>>(HeadsOf<const Bf16>(d_o), HeadsOf<const Bf16>(q),
                                               HeadsOf<const Bf16>(k), HeadsOf<const Bf16>(v),
                                               Data<float>(lse), delta, s, dq);
    CheckLaunch("attention backward: queries");
  });
}

}  // namespace omnitrain::cuda
