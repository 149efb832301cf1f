#include "kernels/attention/attention_wgmma.cuh"

namespace omnitrain::cuda {
namespace {

// FlashAttention-3 (Shah et al. 2024, algorithms 1 and 2) without its turns of warp groups: a block
// has kBlockRows queries of a head and walks the keys. A warp group has its scores of the next keys
// computed while it weighs the values of these.

constexpr int kKeys = 128, kStages = 2;

template <int kHeadDim>
struct ForwardShared {
  HeadTile<kHeadDim, kBlockRows> q;
  HeadTile<kHeadDim, kKeys> k[kStages], v[kStages];
  PhaseBarrier q_full, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};

#ifdef OT_HOPPER

/// What a warp group knows of its rows: [half] as accumulators have them.
struct RowState {
  float max[2], sum[2];  // sums over this thread's columns
};

/// scores become exp(scale (scores - max)), `rescale` what the sums so far are to be multiplied by.
__device__ __forceinline__ void Softmax(float scale, float (&scores)[kKeys / 2], RowState* rows,
                                        float (&rescale)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = rows->max[half];
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      max = fmaxf(max, fmaxf(scores[4 * j + 2 * half], scores[4 * j + 2 * half + 1]));
    }
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
    // Finite: every query sees the first key.
    rescale[half] = Exp2((rows->max[half] - max) * scale);
    rows->max[half] = max;
    const float base = max * scale;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int i = 4 * j + 2 * half; i < 4 * j + 2 * half + 2; ++i) {
        scores[i] = Exp2(scores[i] * scale - base);
        sum += scores[i];
      }
    }
    rows->sum[half] = rows->sum[half] * rescale[half] + sum;
  }
}

template <int kHeadDim>
__device__ __forceinline__ void Compute(const Sequences& s, int head, int64_t begin, int64_t end,
                                        int64_t first, int64_t last, int tiles,
                                        ForwardShared<kHeadDim>& shared, const Heads<Bf16>& o,
                                        float* lse) {
  const int group_row =
      __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpGroupThreads - 1, 0) *
      kGroupRows;
  const int64_t group_begin = begin + group_row;
  const float scale = s.scale * kLog2E;
  const auto mask = [&](int tile, float(&scores)[kKeys / 2]) {
    const int64_t keys = first + static_cast<int64_t>(tile) * kKeys;
    if (keys + kKeys <= last && !(s.is_causal && keys + kKeys - 1 > group_begin)) return;
    const int num_keys = static_cast<int>(min(last - keys, int64_t{kKeys}));
    const int diagonal =
        static_cast<int>(max(min(group_begin - keys, int64_t{kKeys}), -int64_t{kKeys}));
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) {
      const int key = AccColumn(i);
      if (key >= num_keys || (s.is_causal && key > diagonal + AccRow(i % 4 / 2))) {
        scores[i] = -INFINITY;
      }
    }
  };
  const auto await_values = [&](int tile) {
    const int stage = tile % kStages;
    shared.v_full[stage].Wait(tile / kStages % 2);
    const int64_t num_keys = last - first - static_cast<int64_t>(tile) * kKeys;
    if (num_keys >= kKeys) return;
    shared.v[stage].ZeroFrom(static_cast<int>(num_keys));
    FenceZeros();
  };
  const auto release = [&](PhaseBarrier& empty) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) empty.Arrive();
  };

  float acc[kHeadDim / 2] = {}, scores[kKeys / 2], rescale[2];
  RowState rows = {{-INFINITY, -INFINITY}, {0, 0}};
  Rounded<kKeys> p;
  shared.q_full.Wait(0);
  shared.k_full[0].Wait(0);
  FenceProducts();
  MultiplyHeads<kHeadDim, kKeys>(shared.q, group_row, shared.k[0], scores);
  CommitProducts();
  AwaitProducts<0>();
  release(shared.k_empty[0]);
  mask(0, scores);
  Softmax(scale, scores, &rows, rescale);
  p.Set(scores);
  for (int tile = 1; tile < tiles; ++tile) {
    const int stage = tile % kStages, before = (tile - 1) % kStages;
    shared.k_full[stage].Wait(tile / kStages % 2);
    FenceProducts();
    MultiplyHeads<kHeadDim, kKeys>(shared.q, group_row, shared.k[stage], scores);
    CommitProducts();
    await_values(tile - 1);
    MultiplyRounded<kHeadDim, kKeys>(p, shared.v[before], acc);
    CommitProducts();
    AwaitProducts<1>();
    release(shared.k_empty[stage]);
    mask(tile, scores);
    Softmax(scale, scores, &rows, rescale);
    AwaitProducts<0>();
    release(shared.v_empty[before]);
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) acc[i] *= rescale[i % 4 / 2];
    p.Set(scores);
  }
  const int final = (tiles - 1) % kStages;
  await_values(tiles - 1);
  FenceProducts();
  MultiplyRounded<kHeadDim, kKeys>(p, shared.v[final], acc);
  CommitProducts();
  AwaitProducts<0>();

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const int64_t token = group_begin + AccRow(half);
    if (token >= end) continue;
    if (threadIdx.x % 4 == 0) {
      lse[head * s.lse_stride + token] = rows.max[half] * s.scale + logf(sum);
    }
    Bf16* const row = o.Row(token, head);
    const float factor = 1.0f / sum;
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) {
      if (8 * j >= o.head_dim) continue;
      *reinterpret_cast<uint32_t*>(row + AccColumn(4 * j)) =
          PackBf16(acc[4 * j + 2 * half] * factor, acc[4 * j + 2 * half + 1] * factor);
    }
  }
}

#endif  // OT_HOPPER

template <int kHeadDim>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    WgmmaForwardKernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                       const __grid_constant__ CUtensorMap v, Sequences s, Heads<Bf16> o,
                       float* lse) {
#ifdef OT_HOPPER
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<ForwardShared<kHeadDim>*>(memory);
  const int64_t first_query = s.queries[blockIdx.z], end = s.queries[blockIdx.z + 1];
  const int64_t blocks = (end - first_query + kBlockRows - 1) / kBlockRows;
  if (blockIdx.y >= blocks) return;
  // The last queries of a causal sequence have the most keys: they go first.
  const int64_t begin = first_query + (blocks - 1 - blockIdx.y) * kBlockRows;
  const int64_t first = s.keys[blockIdx.z], last = s.keys[blockIdx.z + 1];
  const int head = blockIdx.x;
  const int64_t key_end = s.is_causal ? min(last, begin + kBlockRows) : last;
  const int tiles = static_cast<int>((key_end - first + kKeys - 1) / kKeys);
  if (threadIdx.x == 0) {
    shared.q_full.Init(1);
    for (int i = 0; i < kStages; ++i) {
      shared.k_full[i].Init(1);
      shared.v_full[i].Init(1);
      shared.k_empty[i].Init(kConsumerThreads / 32);
      shared.v_empty[i].Init(kConsumerThreads / 32);
    }
    FenceSharedForAsync();
  }
  __syncthreads();
  if (threadIdx.x < kWarpGroupThreads) {
    ShrinkRegisters<kProducerRegisters>();
    if (threadIdx.x != 0) return;
    using KeyTile = HeadTile<kHeadDim, kKeys>;
    const int kv_head = head / s.group;
    shared.q_full.ArriveExpecting(shared.q.kBytes);
    shared.q.Load(q, static_cast<int>(begin), head, &shared.q_full);
    for (int tile = 0; tile < tiles; ++tile) {
      const int stage = tile % kStages, row = static_cast<int>(first) + tile * kKeys;
      const uint32_t parity = tile / kStages % 2 ^ 1;
      shared.k_empty[stage].Wait(parity);
      shared.k_full[stage].ArriveExpecting(KeyTile::kBytes);
      shared.k[stage].Load(k, row, kv_head, &shared.k_full[stage]);
      shared.v_empty[stage].Wait(parity);
      shared.v_full[stage].ArriveExpecting(KeyTile::kBytes);
      shared.v[stage].Load(v, row, kv_head, &shared.v_full[stage]);
    }
  } else {
    GrowRegisters<kConsumerRegisters>();
    Compute<kHeadDim>(s, head, begin, end, first, last, tiles, shared, o, lse);
  }
#endif
}

}  // namespace

bool FitsWgmma(const AttentionSegments& segments) {
  return IsHopper() && segments.max_q > kGroupRows && segments.max_k > kGroupRows;
}

void WgmmaAttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                           const AttentionSegments& segments, const AttentionParams& params,
                           Tensor o, Tensor lse) {
  DispatchHeadDim(q.shape[2], [&](auto head_dim) {
    constexpr int kHeadDim = decltype(head_dim)::value;
    const auto kernel = WgmmaForwardKernel<kHeadDim>;
    constexpr size_t kBytes = sizeof(ForwardShared<kHeadDim>);
    AllowShared(kernel, kBytes);
    kernel<<<BlockGrid(segments.q, segments.max_q, q.shape[1]), kWgmmaThreads, kBytes,
             StreamOf(ctx)>>>(MapOfHeads<kBlockRows>(q), MapOfHeads<kKeys>(k), MapOfHeads<kKeys>(v),
                              SequencesOf(q, k, lse, segments, params), HeadsOf<Bf16>(o),
                              Data<float>(lse));
    CheckLaunch("attention forward");
  });
}

}  // namespace omnitrain::cuda
