#include <omp.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention/attention_impl.h"
#include "kernels/attention/attention_tile.h"

namespace omnitrain::cpu {
namespace {

/// Queries [begin, end) of a segment, for the heads that share kv head `kv_head`.
struct Task {
  int64_t first_row, first_key, num_keys;  // of the segment
  int64_t kv_head;
  int64_t begin, end;

  int64_t Cost(bool is_causal) const {
    return (end - begin) * (is_causal ? (begin + end) / 2 : num_keys);
  }
};

/// Packed query rows of a task, at most (unless one query has more heads): packing keys and values
/// then costs about 2 % of a task, and queries and outputs of K = 64 stay in the L2 cache.
constexpr int64_t kMaxTaskRows = 768;

/// Query rows whose scores are in flight at once: with a panel of keys they fit the L1 cache.
constexpr int64_t kRowBlock = 4 * kTileRows;

std::vector<Task> MakeTasks(const AttentionSegments& segments, int64_t num_kv_heads, int64_t group,
                            bool is_causal) {
  const int32_t *cu = segments.q.ptr<int32_t>(), *cu_keys = segments.k.ptr<int32_t>();
  const int64_t num_sequences = segments.q.shape[0] - 1;
  const int64_t num_tokens = cu[num_sequences];
  // Enough tasks that threads end together, in blocks large enough to repay their packing.
  const int64_t wanted = 4 * omp_get_max_threads();
  const int64_t even = num_tokens * num_kv_heads / wanted;
  const int64_t most = std::max<int64_t>(1, kMaxTaskRows / group);
  const int64_t block = std::clamp<int64_t>(even, std::min<int64_t>(96, most), most);
  std::vector<Task> tasks;
  for (int64_t s = 0; s < num_sequences; ++s) {
    const int64_t length = cu[s + 1] - cu[s];
    const int64_t num_blocks = (length + block - 1) / block;
    for (int64_t b = 0; b < num_blocks; ++b) {
      for (int64_t g = 0; g < num_kv_heads; ++g) {
        tasks.push_back({cu[s], cu_keys[s], cu_keys[s + 1] - cu_keys[s], g, length * b / num_blocks,
                         length * (b + 1) / num_blocks});
      }
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(), [&](const Task& a, const Task& b) {
    return a.Cost(is_causal) > b.Cost(is_causal);
  });
  return tasks;
}

/// Per-thread memory of a task.
template <typename T>
struct Workspace {
  T *q, *o, *max, *sum;  // [rows, K], [rows, padded K], [rows], [rows]
  T *k_transposed, *v, *scores;

  Workspace(Carver& carver, int64_t rows, int64_t head_dim, int64_t padded_dim) {
    const auto take = [&](int64_t n) {
      return static_cast<T*>(carver.Take(DTypeOf<T>::value, {n}).data);
    };
    q = take(rows * head_dim);
    o = take(rows * padded_dim);
    max = take(rows);
    sum = take(rows);
    k_transposed = take(kKeyTile * head_dim);
    v = take(kKeyTile * padded_dim);
    scores = take(kRowBlock * kKeyTile);
  }
};

template <typename T>
class Forward {
 public:
  Forward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& params,
          const Tensor& o, const Tensor& lse)
      : head_dim_(q.shape[2]),
        padded_dim_(RoundUp(head_dim_, kTileCols<T>)),
        group_(q.shape[1] / k.shape[1]),
        is_causal_(params.is_causal),
        scale_(static_cast<T>(params.softmax_scale)),
        q_{q.ptr<T>(), q.row_stride},
        k_{k.ptr<T>(), k.row_stride},
        v_{v.ptr<T>(), v.row_stride},
        o_{o.ptr<T>(), o.row_stride},
        lse_{lse.ptr<T>(), lse.row_stride} {}

  int64_t head_dim() const { return head_dim_; }
  int64_t padded_dim() const { return padded_dim_; }
  int64_t group() const { return group_; }

  void Run(const Task& task, const Workspace<T>& w) const {
    const int64_t rows = (task.end - task.begin) * group_;
    const int64_t padded_rows = RoundUp(rows, kTileRows);
    const HeadRows<const T> q = HeadOf(q_, task.first_row, task.kv_head * group_);
    const HeadRows<const T> k = HeadOf(k_, task.first_key, task.kv_head);
    const HeadRows<const T> v = HeadOf(v_, task.first_key, task.kv_head);
    PackQueries<T>(q, task.begin, task.end, group_, head_dim_, scale_, head_dim_, w.q);
    std::fill_n(w.q + rows * head_dim_, (padded_rows - rows) * head_dim_, T(0));
    std::fill_n(w.o, padded_rows * padded_dim_, T(0));
    std::fill_n(w.max, padded_rows, -std::numeric_limits<T>::infinity());
    std::fill_n(w.sum, padded_rows, T(0));

    const int64_t num_keys = is_causal_ ? task.end : task.num_keys;
    for (int64_t key0 = 0; key0 < num_keys; key0 += kKeyTile) {
      const int64_t keys = std::min(kKeyTile, num_keys - key0);
      PackTransposed<T>({k[key0], k.stride}, keys, head_dim_, w.k_transposed);
      PackPanels<T>({v[key0], v.stride}, keys, head_dim_, w.v);
      for (int64_t r = 0; r < padded_rows; r += kRowBlock) {
        RowBlock(task, w, r, std::min(kRowBlock, padded_rows - r), key0, keys);
      }
    }
    WriteOutputs(task, w);
  }

 private:
  HeadRows<const T> HeadOf(HeadRows<const T> all, int64_t first_row, int64_t head) const {
    return {all[first_row] + head * head_dim_, all.stride};
  }

  /// Keys of [key0, key0 + keys) that packed row r sees.
  int64_t VisibleKeys(const Task& task, int64_t r, int64_t key0, int64_t keys) const {
    if (!is_causal_) return keys;
    const int64_t query = std::min(task.begin + r / group_, task.end - 1);
    return std::clamp<int64_t>(query + 1 - key0, 0, keys);
  }

  /// A block of query rows against one tile of keys: scores, softmax, o += p v.
  void RowBlock(const Task& task, const Workspace<T>& w, int64_t r0, int64_t rows, int64_t key0,
                int64_t keys) const {
    constexpr int64_t kCols = kTileCols<T>;
    int64_t visible[kRowBlock / kTileRows];  // of the last row of each register tile
    for (int64_t i = 0; i < rows; i += kTileRows) {
      visible[i / kTileRows] = VisibleKeys(task, r0 + i + kTileRows - 1, key0, keys);
    }
    // A panel serves all rows while it is in the L1 cache.
    for (int64_t j = 0; j < keys; j += kCols) {
      for (int64_t i = 0; i < rows; i += kTileRows) {
        if (j >= visible[i / kTileRows]) continue;
        MultiplyTile<T, ReadA::kRows, Into::kSet>(head_dim_, w.q + (r0 + i) * head_dim_, head_dim_,
                                                  w.k_transposed + j * head_dim_, kCols,
                                                  w.scores + i * kKeyTile + j, kKeyTile);
      }
    }
    for (int64_t i = 0; i < rows; i += kTileRows) {
      if (visible[i / kTileRows] == 0) continue;
      const int64_t columns = RoundUp(visible[i / kTileRows], kCols);
      for (int64_t n = i; n < i + kTileRows; ++n) {
        // Hidden keys take part as -inf, so that no loop has a tail.
        T* row = w.scores + n * kKeyTile;
        std::fill(row + VisibleKeys(task, r0 + n, key0, keys), row + columns,
                  -std::numeric_limits<T>::infinity());
      }
      Softmax(w, r0 + i, columns, w.scores + i * kKeyTile);
    }
    for (int64_t d = 0; d < padded_dim_; d += kCols) {
      for (int64_t i = 0; i < rows; i += kTileRows) {
        MultiplyTile<T, ReadA::kRows, Into::kAdd>(visible[i / kTileRows], w.scores + i * kKeyTile,
                                                  kKeyTile, w.v + d * kKeyTile, kCols,
                                                  w.o + (r0 + i) * padded_dim_ + d, padded_dim_);
      }
    }
  }

  /// Scores of kTileRows rows become exp(score - running maximum); sums and outputs so far follow a
  /// maximum that grows. Source: Milakov & Gimelshein 2018, algorithm 3.
  void Softmax(const Workspace<T>& w, int64_t r0, int64_t columns, T* scores) const {
    using V = typename SimdVector<T>::Type;
    constexpr int64_t kLanes = kTileCols<T> / 2;
    T* max = w.max + r0;
    T row_max[kTileRows];
    for (int64_t i = 0; i < kTileRows; ++i) {
      const T* row = scores + i * kKeyTile;
      V left = Load(row), right = Load(row + kLanes);
      for (int64_t j = 2 * kLanes; j < columns; j += 2 * kLanes) {
        const V a = Load(row + j), b = Load(row + j + kLanes);
        left = a > left ? a : left;
        right = b > right ? b : right;
      }
      left = right > left ? right : left;
      row_max[i] = max[i];
      for (int64_t l = 0; l < kLanes; ++l) row_max[i] = std::max(row_max[i], left[l]);
    }
    V sums[kTileRows] = {};
    for (int64_t j = 0; j < columns; j += kLanes) {
      V p[kTileRows];
#pragma GCC unroll 6
      for (int64_t i = 0; i < kTileRows; ++i) p[i] = Load(scores + i * kKeyTile + j) - row_max[i];
      ExpSoftmax<kTileRows>(p);
#pragma GCC unroll 6
      for (int64_t i = 0; i < kTileRows; ++i) {
        Store(p[i], scores + i * kKeyTile + j);
        sums[i] += p[i];
      }
    }
    for (int64_t i = 0; i < kTileRows; ++i) {
      T row_sum = 0;
      for (int64_t l = 0; l < kLanes; ++l) row_sum += sums[i][l];
      const T keep = ExpSoftmax(max[i] - row_max[i]);
      w.sum[r0 + i] = w.sum[r0 + i] * keep + row_sum;
      if (row_max[i] == max[i]) continue;
      max[i] = row_max[i];
      T* o = w.o + (r0 + i) * padded_dim_;
      for (int64_t d = 0; d < padded_dim_; d += kLanes) Store(Load(o + d) * keep, o + d);
    }
  }

  void WriteOutputs(const Task& task, const Workspace<T>& w) const {
    int64_t r = 0;
    for (int64_t i = task.begin; i < task.end; ++i) {
      T* to = o_[task.first_row + i] + task.kv_head * group_ * head_dim_;
      for (int64_t h = 0; h < group_; ++h, ++r, to += head_dim_) {
        const T* from = w.o + r * padded_dim_;
        const T inverse = T(1) / w.sum[r];
        for (int64_t d = 0; d < head_dim_; ++d) to[d] = from[d] * inverse;
        lse_[task.kv_head * group_ + h][task.first_row + i] = w.max[r] + std::log(w.sum[r]);
      }
    }
  }

  int64_t head_dim_, padded_dim_, group_;
  bool is_causal_;
  T scale_;
  HeadRows<const T> q_, k_, v_;
  HeadRows<T> o_;
  HeadRows<T> lse_;  // a row a head
};

}  // namespace

template <typename T>
void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionSegments& segments, const AttentionParams& params, Tensor o,
                      Tensor lse) {
  const Forward<T> forward(q, k, v, params, o, lse);
  const std::vector<Task> tasks =
      MakeTasks(segments, k.shape[1], forward.group(), params.is_causal);
  if (tasks.empty()) return;
  int64_t rows = 0;
  for (const Task& task : tasks) rows = std::max(rows, (task.end - task.begin) * forward.group());
  rows = RoundUp(rows, kTileRows);
  Carver count;
  Workspace<T>(count, rows, forward.head_dim(), forward.padded_dim());
  const int64_t num_tasks = static_cast<int64_t>(tasks.size());
  const int num_threads = static_cast<int>(std::min<int64_t>(omp_get_max_threads(), num_tasks));
  char* scratch = static_cast<char*>(ctx.Scratch(count.used() * static_cast<size_t>(num_threads)));
#pragma omp parallel num_threads(num_threads)
  {
    Carver carver(scratch + count.used() * static_cast<size_t>(omp_get_thread_num()), count.used(),
                  DeviceKind::kCpu);
    const Workspace<T> workspace(carver, rows, forward.head_dim(), forward.padded_dim());
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < num_tasks; ++i) forward.Run(tasks[static_cast<size_t>(i)], workspace);
  }
}

template void AttentionForward<float>(Context&, const Tensor&, const Tensor&, const Tensor&,
                                      const AttentionSegments&, const AttentionParams&, Tensor,
                                      Tensor);
template void AttentionForward<double>(Context&, const Tensor&, const Tensor&, const Tensor&,
                                       const AttentionSegments&, const AttentionParams&, Tensor,
                                       Tensor);

}  // namespace omnitrain::cpu
