#include "kernels/attention/attention_cuda.cuh"

namespace omnitrain::cuda {
namespace {

// Attention in plain f32 arithmetic, tile by tile through shared memory: for f32, where the matrix
// units would round to TF32, and for any head dim. A block has a tile of kTile rows of one head of
// one sequence; kRowThreads neighbours share a row.

constexpr int kTile = 32, kThreads = 256, kRowThreads = kThreads / kTile;
constexpr int kMaxHeadDim = 128, kDimsPerThread = kMaxHeadDim / kRowThreads;

/// Rows [begin, begin + kTile) of a head, behind `end` zeros, as f32 at a pitch of K + 1.
template <typename T>
__device__ void LoadTile(const Heads<const T>& from, int64_t begin, int64_t end, int head,
                         float* tile) {
  const int head_dim = from.head_dim;
  for (int i = threadIdx.x; i < kTile * head_dim; i += kThreads) {
    const int r = i / head_dim, d = i % head_dim;
    tile[r * (head_dim + 1) + d] = begin + r < end ? ToFloat(from.Row(begin + r, head)[d]) : 0.0f;
  }
}

__device__ __forceinline__ float Dot(const float* a, const float* b, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// The reduction over the threads of a row.
__device__ __forceinline__ float RowMax(float x) {
#pragma unroll
  for (int offset = kRowThreads / 2; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}
__device__ __forceinline__ float RowSum(float x) {
#pragma unroll
  for (int offset = kRowThreads / 2; offset > 0; offset /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  }
  return x;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(Heads<const T> q, Heads<const T> k, Heads<const T> v, Sequences s, Heads<T> o,
                  float* lse) {
  extern __shared__ float shared[];
  const int head_dim = q.head_dim, pitch = head_dim + 1;
  float *q_tile = shared, *k_tile = q_tile + kTile * pitch, *v_tile = k_tile + kTile * pitch,
        *p_tile = v_tile + kTile * pitch;
  const int64_t last = s.queries[blockIdx.z + 1];
  const int64_t begin = s.queries[blockIdx.z] + static_cast<int64_t>(blockIdx.x) * kTile;
  if (begin >= last) return;
  const int64_t first_key = s.keys[blockIdx.z], last_key = s.keys[blockIdx.z + 1];
  const int head = blockIdx.y, kv_head = head / s.group;
  const int row = threadIdx.x / kRowThreads, lane = threadIdx.x % kRowThreads;
  const int64_t token = begin + row;

  LoadTile(q, begin, last, head, q_tile);
  float acc[kDimsPerThread] = {};
  float max = -INFINITY, sum = 0;
  const int64_t key_end = s.is_causal ? min(last_key, begin + kTile) : last_key;
  for (int64_t keys = first_key; keys < key_end; keys += kTile) {
    __syncthreads();
    LoadTile(k, keys, last_key, kv_head, k_tile);
    LoadTile(v, keys, last_key, kv_head, v_tile);
    __syncthreads();
    float score[kTile / kRowThreads], tile_max = -INFINITY;
#pragma unroll
    for (int i = 0; i < kTile / kRowThreads; ++i) {
      const int c = lane + i * kRowThreads;
      const bool is_seen = keys + c < last_key && (!s.is_causal || keys + c <= token);
      score[i] =
          is_seen ? s.scale * Dot(q_tile + row * pitch, k_tile + c * pitch, head_dim) : -INFINITY;
      tile_max = fmaxf(tile_max, score[i]);
    }
    const float new_max = fmaxf(max, RowMax(tile_max));
    // A row may see nothing of this tile, and nothing before it.
    const float base = new_max == -INFINITY ? 0.0f : new_max;
    const float rescale = expf(max - base);
    float tile_sum = 0;
#pragma unroll
    for (int i = 0; i < kTile / kRowThreads; ++i) {
      const float p = expf(score[i] - base);
      p_tile[row * (kTile + 1) + lane + i * kRowThreads] = p;
      tile_sum += p;
    }
    sum = sum * rescale + RowSum(tile_sum);
    max = new_max;
    __syncwarp();  // the threads of a row are of one warp
#pragma unroll
    for (int i = 0; i < kDimsPerThread; ++i) acc[i] *= rescale;
    for (int c = 0; c < kTile; ++c) {
      const float p = p_tile[row * (kTile + 1) + c];
#pragma unroll
      for (int i = 0; i < kDimsPerThread; ++i) {
        const int d = lane + i * kRowThreads;
        if (d < head_dim) acc[i] += p * v_tile[c * pitch + d];
      }
    }
  }
  if (token >= s.queries[blockIdx.z + 1]) return;
  T* out = o.Row(token, head);
#pragma unroll
  for (int i = 0; i < kDimsPerThread; ++i) {
    const int d = lane + i * kRowThreads;
    if (d < head_dim) out[d] = FromFloat<T>(acc[i] / sum);
  }
  if (lane == 0) lse[head * s.lse_stride + token] = max + logf(sum);
}

/// delta[h, t] = <d_o, o>: one warp a row.
template <typename T>
__global__ void DeltaKernel(Heads<const T> d_o, Heads<const T> o, int64_t num_tokens, int num_heads,
                            float* delta) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= num_tokens * num_heads) return;
  const int64_t token = i / num_heads;
  const int head = static_cast<int>(i % num_heads);
  const T *a = d_o.Row(token, head), *b = o.Row(token, head);
  float sum = 0;
  for (int d = threadIdx.x % 32; d < o.head_dim; d += 32) sum += ToFloat(a[d]) * ToFloat(b[d]);
  sum = WarpSum(sum);
  if (threadIdx.x % 32 == 0) delta[head * num_tokens + token] = sum;
}

/// What both gradient kernels make of a tile of queries and one of keys: P and dS, and for the sums
/// over queries both transposed.
struct Gradient {
  float p, ds;
};
__device__ __forceinline__ Gradient ScoreGradient(const Sequences& s, const float* q,
                                                  const float* k, const float* d_o, const float* v,
                                                  int head_dim, float lse, float delta,
                                                  bool is_seen) {
  if (!is_seen) return {0, 0};
  const float p = expf(s.scale * Dot(q, k, head_dim) - lse);
  return {p, s.scale * p * (Dot(d_o, v, head_dim) - delta)};
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    KeyGradKernel(Heads<const T> d_o, Heads<const T> q, Heads<const T> k, Heads<const T> v,
                  const float* lse, const float* delta, Sequences s, GradHeads<T> dk,
                  GradHeads<T> dv) {
  extern __shared__ float shared[];
  const int head_dim = q.head_dim, pitch = head_dim + 1;
  float *k_tile = shared, *v_tile = k_tile + kTile * pitch, *q_tile = v_tile + kTile * pitch,
        *do_tile = q_tile + kTile * pitch, *p_tile = do_tile + kTile * pitch,
        *ds_tile = p_tile + kTile * (kTile + 1);
  const int64_t last = s.keys[blockIdx.z + 1];
  const int64_t begin = s.keys[blockIdx.z] + static_cast<int64_t>(blockIdx.x) * kTile;
  if (begin >= last) return;
  const int64_t first_query = s.is_causal ? begin : s.queries[blockIdx.z];
  const int64_t last_query = s.queries[blockIdx.z + 1];
  const int kv_head = blockIdx.y;
  const int row = threadIdx.x / kRowThreads, lane = threadIdx.x % kRowThreads;
  const int64_t key = begin + row;

  LoadTile(k, begin, last, kv_head, k_tile);
  LoadTile(v, begin, last, kv_head, v_tile);
  float dk_acc[kDimsPerThread] = {}, dv_acc[kDimsPerThread] = {};
  for (int head = kv_head * s.group; head < (kv_head + 1) * s.group; ++head) {
    for (int64_t queries = first_query; queries < last_query; queries += kTile) {
      __syncthreads();
      LoadTile(q, queries, last_query, head, q_tile);
      LoadTile(d_o, queries, last_query, head, do_tile);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kTile / kRowThreads; ++i) {
        const int c = lane + i * kRowThreads;
        const int64_t token = queries + c;
        const bool is_seen = token < last_query && key < last && (!s.is_causal || key <= token);
        const float token_lse = is_seen ? lse[head * s.lse_stride + token] : 0;
        const float token_delta = is_seen ? delta[head * s.num_queries + token] : 0;
        const Gradient g =
            ScoreGradient(s, q_tile + c * pitch, k_tile + row * pitch, do_tile + c * pitch,
                          v_tile + row * pitch, head_dim, token_lse, token_delta, is_seen);
        p_tile[row * (kTile + 1) + c] = g.p;
        ds_tile[row * (kTile + 1) + c] = g.ds;
      }
      __syncwarp();
      for (int c = 0; c < kTile; ++c) {
        const float p = p_tile[row * (kTile + 1) + c], ds = ds_tile[row * (kTile + 1) + c];
#pragma unroll
        for (int i = 0; i < kDimsPerThread; ++i) {
          const int d = lane + i * kRowThreads;
          if (d >= head_dim) continue;
          dv_acc[i] += p * do_tile[c * pitch + d];
          dk_acc[i] += ds * q_tile[c * pitch + d];
        }
      }
    }
  }
  if (key >= last) return;
#pragma unroll
  for (int i = 0; i < kDimsPerThread; ++i) {
    const int d = lane + i * kRowThreads;
    if (d >= head_dim) continue;
    dk.Store(key, kv_head, d, dk_acc[i]);
    dv.Store(key, kv_head, d, dv_acc[i]);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    QueryGradKernel(Heads<const T> d_o, Heads<const T> q, Heads<const T> k, Heads<const T> v,
                    const float* lse, const float* delta, Sequences s, GradHeads<T> dq) {
  extern __shared__ float shared[];
  const int head_dim = q.head_dim, pitch = head_dim + 1;
  float *q_tile = shared, *do_tile = q_tile + kTile * pitch, *k_tile = do_tile + kTile * pitch,
        *v_tile = k_tile + kTile * pitch, *ds_tile = v_tile + kTile * pitch;
  const int64_t last = s.queries[blockIdx.z + 1];
  const int64_t begin = s.queries[blockIdx.z] + static_cast<int64_t>(blockIdx.x) * kTile;
  if (begin >= last) return;
  const int64_t first_key = s.keys[blockIdx.z], last_key = s.keys[blockIdx.z + 1];
  const int head = blockIdx.y, kv_head = head / s.group;
  const int row = threadIdx.x / kRowThreads, lane = threadIdx.x % kRowThreads;
  const int64_t token = begin + row;
  const float row_lse = token < last ? lse[head * s.lse_stride + token] : 0;
  const float row_delta = token < last ? delta[head * s.num_queries + token] : 0;

  LoadTile(q, begin, last, head, q_tile);
  LoadTile(d_o, begin, last, head, do_tile);
  float acc[kDimsPerThread] = {};
  const int64_t key_end = s.is_causal ? min(last_key, begin + kTile) : last_key;
  for (int64_t keys = first_key; keys < key_end; keys += kTile) {
    __syncthreads();
    LoadTile(k, keys, last_key, kv_head, k_tile);
    LoadTile(v, keys, last_key, kv_head, v_tile);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile / kRowThreads; ++i) {
      const int c = lane + i * kRowThreads;
      const bool is_seen =
          token < last && keys + c < last_key && (!s.is_causal || keys + c <= token);
      ds_tile[row * (kTile + 1) + c] =
          ScoreGradient(s, q_tile + row * pitch, k_tile + c * pitch, do_tile + row * pitch,
                        v_tile + c * pitch, head_dim, row_lse, row_delta, is_seen)
              .ds;
    }
    __syncwarp();
    for (int c = 0; c < kTile; ++c) {
      const float ds = ds_tile[row * (kTile + 1) + c];
#pragma unroll
      for (int i = 0; i < kDimsPerThread; ++i) {
        const int d = lane + i * kRowThreads;
        if (d < head_dim) acc[i] += ds * k_tile[c * pitch + d];
      }
    }
  }
  if (token >= last) return;
#pragma unroll
  for (int i = 0; i < kDimsPerThread; ++i) {
    const int d = lane + i * kRowThreads;
    if (d < head_dim) dq.Store(token, head, d, acc[i]);
  }
}

size_t SharedBytes(int num_tiles, int num_squares, int64_t head_dim) {
  return sizeof(float) * static_cast<size_t>(kTile) *
         static_cast<size_t>(num_tiles * (head_dim + 1) + num_squares * (kTile + 1));
}

}  // namespace

void SimtAttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionSegments& segments, const AttentionParams& params,
                          Tensor o, Tensor lse) {
  DispatchCompute(q.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const size_t bytes = SharedBytes(3, 1, q.shape[2]);
    AllowShared(ForwardKernel<T>, bytes);
    ForwardKernel<T><<<TileGrid(segments.q, segments.max_q, q.shape[1], kTile), kThreads, bytes,
                       StreamOf(ctx)>>>(
        HeadsOf<const T>(q), HeadsOf<const T>(k), HeadsOf<const T>(v),
        SequencesOf(q, k, lse, segments, params), HeadsOf<T>(o), Data<float>(lse));
    CheckLaunch("attention forward");
  });
}

void AttentionDelta(Context& ctx, const Tensor& d_o, const Tensor& o, float* delta) {
  DispatchCompute(o.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const int64_t warps = o.shape[0] * o.shape[1];
    DeltaKernel<T>
        <<<static_cast<unsigned>(CeilDiv(warps * 32, kThreads)), kThreads, 0, StreamOf(ctx)>>>(
            HeadsOf<const T>(d_o), HeadsOf<const T>(o), o.shape[0], static_cast<int>(o.shape[1]),
            delta);
    CheckLaunch("attention delta");
  });
}

void SimtAttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                           const Tensor& v, const Tensor& lse, const float* delta,
                           const AttentionSegments& segments, const AttentionParams& params,
                           const AttentionGradients& gradients) {
  DispatchCompute(q.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const Sequences s = SequencesOf(q, k, lse, segments, params);
    const size_t key_bytes = SharedBytes(4, 2, q.shape[2]);
    const size_t query_bytes = SharedBytes(4, 1, q.shape[2]);
    AllowShared(KeyGradKernel<T>, key_bytes);
    AllowShared(QueryGradKernel<T>, query_bytes);
    KeyGradKernel<T><<<TileGrid(segments.k, segments.max_k, k.shape[1], kTile), kThreads, key_bytes,
                       StreamOf(ctx)>>>(HeadsOf<const T>(d_o), HeadsOf<const T>(q),
                                        HeadsOf<const T>(k), HeadsOf<const T>(v), Data<float>(lse),
                                        delta, s, GradHeadsOf<T>(gradients.dk, gradients.dkv_write),
                                        GradHeadsOf<T>(gradients.dv, gradients.dkv_write));
    CheckLaunch("attention backward: keys");
    QueryGradKernel<T><<<TileGrid(segments.q, segments.max_q, q.shape[1], kTile), kThreads,
                         query_bytes, StreamOf(ctx)>>>(
        HeadsOf<const T>(d_o), HeadsOf<const T>(q), HeadsOf<const T>(k), HeadsOf<const T>(v),
        Data<float>(lse), delta, s, GradHeadsOf<T>(gradients.dq, gradients.dq_write));
    CheckLaunch("attention backward: queries");
  });
}

}  // namespace omnitrain::cuda
