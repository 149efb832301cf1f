#include "kernels/attention/attention_split.cuh"
#include "kernels/attention/attention_wgmma.cuh"

namespace omnitrain::cuda {
namespace {

// Two kernels, as in attention_mma_backward_cuda.cu: each sum has one owner and one order.

constexpr int kStages = 2;

// dk and dv: a block has kBlockRows keys of a kv head and walks the queries that see them; scores
// are kept transposed, [keys, queries], so that P^T and dS^T are left operands as they come.
constexpr int kQueries = 64;

template <int kHeadDim>
struct KeyGradShared {
  HeadTile<kHeadDim, kBlockRows> k, v;
  HeadTile<kHeadDim, kQueries> q[kStages], d_o[kStages];
  float lse[kStages][kQueries], delta[kStages][kQueries];  // lse to base 2
  PhaseBarrier keys_full, full[kStages], empty[kStages];
};

#ifdef OT_HOPPER

/// What a block of the kernel of keys is to do.
struct KeyGradWork {
  int64_t begin, end;               // its keys: to the end of the segment
  int64_t first_query, last_query;  // that see them
  int kv_head, part, first_head, num_heads;
  int tiles_per_head;

  __device__ __forceinline__ int num_tiles() const { return tiles_per_head * num_heads; }
  __device__ __forceinline__ int HeadOf(int tile) const {
    return first_head + tile / tiles_per_head;
  }
  __device__ __forceinline__ int64_t QueryOf(int tile) const {
    return first_query + static_cast<int64_t>(tile % tiles_per_head) * kQueries;
  }
};

/// The first warp: lane 0 has the tiles copied, all of them bring what belongs to the queries.
template <int kHeadDim>
__device__ __forceinline__ void ProduceQueries(const CUtensorMap& d_o, const CUtensorMap& q,
                                               const CUtensorMap& k, const CUtensorMap& v,
                                               const float* lse, const float* delta,
                                               const Sequences& s, const KeyGradWork& work,
                                               KeyGradShared<kHeadDim>& shared) {
  const int lane = threadIdx.x;
  if (lane == 0) {
    shared.keys_full.ArriveExpecting(shared.k.kBytes + shared.v.kBytes);
    shared.k.Load(k, static_cast<int>(work.begin), work.kv_head, &shared.keys_full);
    shared.v.Load(v, static_cast<int>(work.begin), work.kv_head, &shared.keys_full);
  }
  for (int tile = 0; tile < work.num_tiles(); ++tile) {
    const int stage = tile % kStages, head = work.HeadOf(tile);
    const int64_t queries = work.QueryOf(tile);
    PhaseBarrier& full = shared.full[stage];
    shared.empty[stage].Wait(tile / kStages % 2 ^ 1);
    if (lane == 0) {
      full.ArriveExpecting(2 * shared.q[0].kBytes);
      shared.q[stage].Load(q, static_cast<int>(queries), head, &full);
      shared.d_o[stage].Load(d_o, static_cast<int>(queries), head, &full);
    }
#pragma unroll
    for (int r = lane; r < kQueries; r += 32) {
      const int64_t token = min(queries + r, work.last_query - 1);
      shared.lse[stage][r] = lse[head * s.lse_stride + token] * kLog2E;
      shared.delta[stage][r] = delta[head * s.num_queries + token];
    }
    full.Arrive();
  }
}

template <int kHeadDim>
__device__ __forceinline__ void ComputeKeyGrads(const Sequences& s, const KeyGradWork& work,
                                                const Split& split, const GradHeads<Bf16>& dk,
                                                const GradHeads<Bf16>& dv,
                                                KeyGradShared<kHeadDim>& shared) {
  const int group_row =
      __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpGroupThreads - 1, 0) *
      kGroupRows;
  const int64_t group_begin = work.begin + group_row;
  const float scale = s.scale * kLog2E;
  float dk_acc[kHeadDim / 2] = {}, dv_acc[kHeadDim / 2] = {};
  shared.keys_full.Wait(0);
  for (int tile = 0; tile < work.num_tiles(); ++tile) {
    const int stage = tile % kStages;
    const int64_t queries = work.QueryOf(tile);
    float p[kQueries / 2], ds[kQueries / 2];
    shared.full[stage].Wait(tile / kStages % 2);
    if (queries + kQueries > work.last_query) {
      const int num_queries = static_cast<int>(work.last_query - queries);
      shared.q[stage].ZeroFrom(num_queries);
      shared.d_o[stage].ZeroFrom(num_queries);
      FenceZeros();
    }
    FenceProducts();
    MultiplyHeads<kHeadDim, kQueries>(shared.k, group_row, shared.q[stage], p);
    CommitProducts();
    MultiplyHeads<kHeadDim, kQueries>(shared.v, group_row, shared.d_o[stage], ds);
    CommitProducts();
    AwaitProducts<1>();
#pragma unroll
    for (int i = 0; i < kQueries / 2; ++i) {
      p[i] = Exp2(p[i] * scale - shared.lse[stage][AccColumn(i)]);
    }
    const bool has_unseen = queries + kQueries > work.last_query ||
                            (s.is_causal && group_begin + kGroupRows - 1 > queries);
    if (has_unseen) {
      const int num_queries = static_cast<int>(min(work.last_query - queries, int64_t{kQueries}));
      const int diagonal = static_cast<int>(group_begin - queries);  // query of the first key
#pragma unroll
      for (int i = 0; i < kQueries / 2; ++i) {
        const int query = AccColumn(i);
        if (query >= num_queries || (s.is_causal && diagonal + AccRow(i % 4 / 2) > query)) p[i] = 0;
      }
    }
    Rounded<kQueries> p_rounded, ds_rounded;
    p_rounded.Set(p);
    AwaitProducts<0>();
#pragma unroll
    for (int i = 0; i < kQueries / 2; ++i) {
      ds[i] = p[i] * (ds[i] - shared.delta[stage][AccColumn(i)]);
    }
    ds_rounded.Set(ds);
    FenceProducts();
    MultiplyRounded<kHeadDim, kQueries>(p_rounded, shared.d_o[stage], dv_acc);
    MultiplyRounded<kHeadDim, kQueries>(ds_rounded, shared.q[stage], dk_acc);
    CommitProducts();
    AwaitProducts<0>();
    __syncwarp();
    if (threadIdx.x % 32 == 0) shared.empty[stage].Arrive();
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t token = group_begin + AccRow(half);
    if (token >= work.end) continue;
    const int64_t sums = split.Row(work.part, token, work.kv_head);
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) {
      if (8 * j >= split.head_dim) continue;
      const int i = 4 * j + 2 * half, column = AccColumn(4 * j);
      if (split.count > 1) {
        *reinterpret_cast<float2*>(split.dk + sums + column) = {dk_acc[i], dk_acc[i + 1]};
        *reinterpret_cast<float2*>(split.dv + sums + column) = {dv_acc[i], dv_acc[i + 1]};
      } else {
        StorePair(dk, token, work.kv_head, column, dk_acc[i] * s.scale, dk_acc[i + 1] * s.scale);
        StorePair(dv, token, work.kv_head, column, dv_acc[i], dv_acc[i + 1]);
      }
    }
  }
}

#endif  // OT_HOPPER

template <int kHeadDim>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    WgmmaKeyGradKernel(const __grid_constant__ CUtensorMap d_o,
                       const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                       const __grid_constant__ CUtensorMap v, const float* lse, const float* delta,
                       Sequences s, Split split, GradHeads<Bf16> dk, GradHeads<Bf16> dv) {
#ifdef OT_HOPPER
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<KeyGradShared<kHeadDim>*>(memory);
  KeyGradWork work;
  work.end = s.keys[blockIdx.z + 1];
  work.begin = s.keys[blockIdx.z] + static_cast<int64_t>(blockIdx.y) * kBlockRows;
  if (work.begin >= work.end) return;
  work.first_query = s.is_causal ? work.begin : s.queries[blockIdx.z];
  work.last_query = s.queries[blockIdx.z + 1];
  work.kv_head = static_cast<int>(blockIdx.x) / split.count;
  work.part = static_cast<int>(blockIdx.x) % split.count;
  work.num_heads = s.group / split.count;
  work.first_head = work.kv_head * s.group + work.part * work.num_heads;
  work.tiles_per_head =
      static_cast<int>((work.last_query - work.first_query + kQueries - 1) / kQueries);
  if (threadIdx.x == 0) {
    shared.keys_full.Init(1);
    for (int i = 0; i < kStages; ++i) {
      shared.full[i].Init(1 + 32);
      shared.empty[i].Init(kConsumerThreads / 32);
    }
    FenceSharedForAsync();
  }
  __syncthreads();
  if (threadIdx.x < kWarpGroupThreads) {
    ShrinkRegisters<kProducerRegisters>();
    if (threadIdx.x < 32) ProduceQueries<kHeadDim>(d_o, q, k, v, lse, delta, s, work, shared);
  } else {
    GrowRegisters<kConsumerRegisters>();
    ComputeKeyGrads<kHeadDim>(s, work, split, dk, dv, shared);
  }
#endif
}

// dq: a block has kBlockRows queries of a head and walks their keys.
constexpr int kKeys = 128;

template <int kHeadDim>
struct QueryGradShared {
  HeadTile<kHeadDim, kBlockRows> q, d_o;
  HeadTile<kHeadDim, kKeys> k[kStages], v[kStages];
  PhaseBarrier queries_full, full[kStages], k_empty[kStages], v_empty[kStages];
};

#ifdef OT_HOPPER

template <int kHeadDim>
__device__ __forceinline__ void ComputeQueryGrads(const Sequences& s, int head, int64_t begin,
                                                  int64_t end, int64_t first, int64_t last,
                                                  int tiles, const float* lse, const float* delta,
                                                  const GradHeads<Bf16>& dq,
                                                  QueryGradShared<kHeadDim>& shared) {
  const int group_row =
      __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpGroupThreads - 1, 0) *
      kGroupRows;
  const int64_t group_begin = begin + group_row;
  const float scale = s.scale * kLog2E;
  float row_lse[2], row_delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t token = min(group_begin + AccRow(half), end - 1);
    row_lse[half] = lse[head * s.lse_stride + token] * kLog2E;
    row_delta[half] = delta[head * s.num_queries + token];
  }
  const auto release = [&](PhaseBarrier& empty) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) empty.Arrive();
  };
  float acc[kHeadDim / 2] = {};
  shared.queries_full.Wait(0);
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % kStages;
    const int64_t keys = first + static_cast<int64_t>(tile) * kKeys;
    float p[kKeys / 2], ds[kKeys / 2];
    shared.full[stage].Wait(tile / kStages % 2);
    if (keys + kKeys > last) {
      const int num_keys = static_cast<int>(last - keys);
      shared.k[stage].ZeroFrom(num_keys);
      shared.v[stage].ZeroFrom(num_keys);
      FenceZeros();
    }
    FenceProducts();
    MultiplyHeads<kHeadDim, kKeys>(shared.q, group_row, shared.k[stage], p);
    CommitProducts();
    MultiplyHeads<kHeadDim, kKeys>(shared.d_o, group_row, shared.v[stage], ds);
    CommitProducts();
    AwaitProducts<1>();
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) p[i] = Exp2(p[i] * scale - row_lse[i % 4 / 2]);
    if (keys + kKeys > last || (s.is_causal && keys + kKeys - 1 > group_begin)) {
      const int num_keys = static_cast<int>(min(last - keys, int64_t{kKeys}));
      const int diagonal = static_cast<int>(min(group_begin - keys, int64_t{kKeys}));
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        const int key = AccColumn(i);
        if (key >= num_keys || (s.is_causal && key > diagonal + AccRow(i % 4 / 2))) p[i] = 0;
      }
    }
    AwaitProducts<0>();
    release(shared.v_empty[stage]);
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) ds[i] = p[i] * (ds[i] - row_delta[i % 4 / 2]);
    Rounded<kKeys> rounded;
    rounded.Set(ds);
    FenceProducts();
    MultiplyRounded<kHeadDim, kKeys>(rounded, shared.k[stage], acc);
    CommitProducts();
    AwaitProducts<0>();
    release(shared.k_empty[stage]);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t token = group_begin + AccRow(half);
    if (token >= end) continue;
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) {
      if (8 * j >= dq.head_dim) continue;
      const int i = 4 * j + 2 * half;
      StorePair(dq, token, head, AccColumn(4 * j), acc[i] * s.scale, acc[i + 1] * s.scale);
    }
  }
}

#endif  // OT_HOPPER

template <int kHeadDim>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    WgmmaQueryGradKernel(const __grid_constant__ CUtensorMap d_o,
                         const __grid_constant__ CUtensorMap q,
                         const __grid_constant__ CUtensorMap k,
                         const __grid_constant__ CUtensorMap v, const float* lse,
                         const float* delta, Sequences s, GradHeads<Bf16> dq) {
#ifdef OT_HOPPER
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<QueryGradShared<kHeadDim>*>(memory);
  const int64_t first_query = s.queries[blockIdx.z], end = s.queries[blockIdx.z + 1];
  const int64_t blocks = (end - first_query + kBlockRows - 1) / kBlockRows;
  if (blockIdx.y >= blocks) return;
  const int64_t begin = first_query + (blocks - 1 - blockIdx.y) * kBlockRows;
  const int64_t first = s.keys[blockIdx.z], last = s.keys[blockIdx.z + 1];
  const int head = blockIdx.x;
  const int64_t key_end = s.is_causal ? min(last, begin + kBlockRows) : last;
  const int tiles = static_cast<int>((key_end - first + kKeys - 1) / kKeys);
  if (threadIdx.x == 0) {
    shared.queries_full.Init(1);
    for (int i = 0; i < kStages; ++i) {
      shared.full[i].Init(1);
      shared.k_empty[i].Init(kConsumerThreads / 32);
      shared.v_empty[i].Init(kConsumerThreads / 32);
    }
    FenceSharedForAsync();
  }
  __syncthreads();
  if (threadIdx.x < kWarpGroupThreads) {
    ShrinkRegisters<kProducerRegisters>();
    if (threadIdx.x != 0) return;
    const int kv_head = head / s.group;
    shared.queries_full.ArriveExpecting(shared.q.kBytes + shared.d_o.kBytes);
    shared.q.Load(q, static_cast<int>(begin), head, &shared.queries_full);
    shared.d_o.Load(d_o, static_cast<int>(begin), head, &shared.queries_full);
    for (int tile = 0; tile < tiles; ++tile) {
      const int stage = tile % kStages, row = static_cast<int>(first) + tile * kKeys;
      const uint32_t parity = tile / kStages % 2 ^ 1;
      PhaseBarrier& full = shared.full[stage];
      shared.v_empty[stage].Wait(parity);
      full.ArriveExpecting(2 * shared.k[0].kBytes);
      shared.v[stage].Load(v, row, kv_head, &full);
      shared.k_empty[stage].Wait(parity);
      shared.k[stage].Load(k, row, kv_head, &full);
    }
  } else {
    GrowRegisters<kConsumerRegisters>();
    ComputeQueryGrads<kHeadDim>(s, head, begin, end, first, last, tiles, lse, delta, dq, shared);
  }
#endif
}

}  // namespace

void WgmmaAttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                            const Tensor& v, const Tensor& lse, const float* delta,
                            float* split_sums, const AttentionSegments& segments,
                            const AttentionParams& params, const AttentionGradients& gradients) {
  const Sequences s = SequencesOf(q, k, lse, segments, params);
  const auto dq = GradHeadsOf<Bf16>(gradients.dq, gradients.dq_write);
  const auto dk = GradHeadsOf<Bf16>(gradients.dk, gradients.dkv_write);
  const auto dv = GradHeadsOf<Bf16>(gradients.dv, gradients.dkv_write);
  const Split split = SplitOf(k, s.group, split_sums);
  DispatchHeadDim(q.shape[2], [&](auto head_dim) {
    constexpr int kHeadDim = decltype(head_dim)::value;
    const auto key_grad = WgmmaKeyGradKernel<kHeadDim>;
    constexpr size_t kKeyBytes = sizeof(KeyGradShared<kHeadDim>);
    AllowShared(key_grad, kKeyBytes);
    key_grad<<<BlockGrid(segments.k, segments.max_k, k.shape[1] * split.count), kWgmmaThreads,
               kKeyBytes, StreamOf(ctx)>>>(MapOfHeads<kQueries>(d_o), MapOfHeads<kQueries>(q),
                                           MapOfHeads<kBlockRows>(k), MapOfHeads<kBlockRows>(v),
                                           Data<float>(lse), delta, s, split, dk, dv);
    CheckLaunch("attention backward: keys");
    SumSplits(ctx, split, s.scale, dk, dv);
    const auto query_grad = WgmmaQueryGradKernel<kHeadDim>;
    constexpr size_t kQueryBytes = sizeof(QueryGradShared<kHeadDim>);
    AllowShared(query_grad, kQueryBytes);
    query_grad<<<BlockGrid(segments.q, segments.max_q, q.shape[1]), kWgmmaThreads, kQueryBytes,
                 StreamOf(ctx)>>>(MapOfHeads<kBlockRows>(d_o), MapOfHeads<kBlockRows>(q),
                                  MapOfHeads<kKeys>(k), MapOfHeads<kKeys>(v), Data<float>(lse),
                                  delta, s, dq);
    CheckLaunch("attention backward: queries");
  });
}

}  // namespace omnitrain::cuda
