#include <omp.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention/attention_impl.h"
#include "kernels/attention/attention_tile.h"

namespace omnitrain::cpu {
namespace {

/// A segment and a kv head: the one owner of dk, dv and of dq of the heads that share it.
struct Task {
  int64_t first_row, length;
  int64_t first_key, num_keys;
  int64_t kv_head;
};

/// Query rows whose probabilities are in flight at once, against kKeyTile keys.
constexpr int64_t kRowBlock = 8 * kTileRows;

std::vector<Task> MakeTasks(const AttentionSegments& segments, int64_t num_kv_heads) {
  const int32_t *cu = segments.q.ptr<int32_t>(), *cu_keys = segments.k.ptr<int32_t>();
  std::vector<Task> tasks;
  for (int64_t s = 0; s + 1 < segments.q.shape[0]; ++s) {
    if (cu[s + 1] == cu[s]) continue;
    for (int64_t g = 0; g < num_kv_heads; ++g) {
      tasks.push_back({cu[s], cu[s + 1] - cu[s], cu_keys[s], cu_keys[s + 1] - cu_keys[s], g});
    }
  }
  // The longest first, so that threads end together.
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const Task& a, const Task& b) { return a.length > b.length; });
  return tasks;
}

template <typename T>
struct Workspace {
  T *q, *d_o, *dq;                     // [rows, padded K]; q times the softmax scale
  T *lse, *delta;                      // [rows]
  T *k_transposed, *v_transposed, *k;  // packed keys and values of a tile
  T *dk, *dv;                          // [kKeyTile, padded K]
  T *probabilities, *d_scores;         // [kRowBlock, kKeyTile]

  Workspace(Carver& carver, int64_t rows, int64_t head_dim, int64_t padded_dim) {
    const auto take = [&](int64_t n) {
      return static_cast<T*>(carver.Take(DTypeOf<T>::value, {n}).data);
    };
    q = take(rows * padded_dim);
    d_o = take(rows * padded_dim);
    dq = take(rows * padded_dim);
    lse = take(rows);
    delta = take(rows);
    k_transposed = take(kKeyTile * head_dim);
    v_transposed = take(kKeyTile * head_dim);
    k = take(kKeyTile * padded_dim);
    dk = take(kKeyTile * padded_dim);
    dv = take(kKeyTile * padded_dim);
    probabilities = take(kRowBlock * kKeyTile);
    d_scores = take(kRowBlock * kKeyTile);
  }
};

/// With p = exp(s - lse), s = scale q k^T:  dv = p^T do;  ds = p (do v^T - delta), delta_i = do_i
/// o_i; dq = scale ds k;  dk = scale ds^T q.  Source: Dao et al. 2022, appendix B.2.
template <typename T>
class Backward {
 public:
  Backward(const Tensor& d_o, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o,
           const Tensor& lse, const AttentionParams& params, const AttentionGradients& gradients)
      : head_dim_(q.shape[2]),
        padded_dim_(RoundUp(head_dim_, kTileCols<T>)),
        group_(q.shape[1] / k.shape[1]),
        is_causal_(params.is_causal),
        scale_(static_cast<T>(params.softmax_scale)),
        d_o_{d_o.ptr<T>(), d_o.row_stride},
        q_{q.ptr<T>(), q.row_stride},
        k_{k.ptr<T>(), k.row_stride},
        v_{v.ptr<T>(), v.row_stride},
        o_{o.ptr<T>(), o.row_stride},
        dq_{gradients.dq.ptr<T>(), gradients.dq.row_stride},
        dk_{gradients.dk.ptr<T>(), gradients.dk.row_stride},
        dv_{gradients.dv.ptr<T>(), gradients.dv.row_stride},
        lse_{lse.ptr<T>(), lse.row_stride},
        dq_write_(gradients.dq_write),
        dkv_write_(gradients.dkv_write) {}

  int64_t head_dim() const { return head_dim_; }
  int64_t padded_dim() const { return padded_dim_; }
  /// Packed query rows of a sequence.
  int64_t PaddedRows(int64_t length) const { return RoundUp(length * group_, kTileRows); }

  void Run(const Task& task, const Workspace<T>& w) const {
    LoadQueries(task, w);
    const HeadRows<const T> k = HeadOf(k_, task.first_key, task.kv_head);
    const HeadRows<const T> v = HeadOf(v_, task.first_key, task.kv_head);
    const int64_t padded_rows = PaddedRows(task.length);
    for (int64_t key0 = 0; key0 < task.num_keys; key0 += kKeyTile) {
      const int64_t keys = std::min(kKeyTile, task.num_keys - key0);
      PackTransposed<T>({k[key0], k.stride}, keys, head_dim_, w.k_transposed);
      PackTransposed<T>({v[key0], v.stride}, keys, head_dim_, w.v_transposed);
      PackPanels<T>({k[key0], k.stride}, keys, head_dim_, w.k);
      std::fill_n(w.dk, kKeyTile * padded_dim_, T(0));
      std::fill_n(w.dv, kKeyTile * padded_dim_, T(0));
      // Queries before the tile's first key see none of it.
      const int64_t first = is_causal_ ? key0 * group_ / kTileRows * kTileRows : 0;
      for (int64_t r = first; r < padded_rows; r += kRowBlock) {
        RowBlock(task, w, r, std::min(kRowBlock, padded_rows - r), key0, keys);
      }
      StoreKeys(w.dk, HeadOf(dk_, task.first_key, task.kv_head), key0, keys);
      StoreKeys(w.dv, HeadOf(dv_, task.first_key, task.kv_head), key0, keys);
    }
    StoreQueryGrads(task, w);
  }

 private:
  template <typename S>
  HeadRows<S> HeadOf(HeadRows<S> all, int64_t first_row, int64_t head) const {
    return {all[first_row] + head * head_dim_, all.stride};
  }

  void LoadQueries(const Task& task, const Workspace<T>& w) const {
    const int64_t head = task.kv_head * group_;
    const int64_t rows = task.length * group_, padding = PaddedRows(task.length) - rows;
    const HeadRows<const T> d_o = HeadOf(d_o_, task.first_row, head);
    const HeadRows<const T> o = HeadOf(o_, task.first_row, head);
    PackQueries<T>(HeadOf(q_, task.first_row, head), 0, task.length, group_, head_dim_, scale_,
                   padded_dim_, w.q);
    PackQueries<T>(d_o, 0, task.length, group_, head_dim_, T(1), padded_dim_, w.d_o);
    int64_t r = 0;
    for (int64_t i = 0; i < task.length; ++i) {
      for (int64_t h = 0; h < group_; ++h, ++r) {
        const T *a = d_o[i] + h * head_dim_, *b = o[i] + h * head_dim_;
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t d = 0; d < head_dim_; ++d) sum += a[d] * b[d];
        w.delta[r] = sum;
        w.lse[r] = lse_[head + h][task.first_row + i];
      }
    }
    // Rows of zeros: their probabilities are finite and meet gradients of 0.
    std::fill_n(w.q + rows * padded_dim_, padding * padded_dim_, T(0));
    std::fill_n(w.d_o + rows * padded_dim_, padding * padded_dim_, T(0));
    std::fill_n(w.delta + rows, padding, T(0));
    std::fill_n(w.lse + rows, padding, T(0));
    std::fill_n(w.dq, (rows + padding) * padded_dim_, T(0));
  }

  /// Keys of [key0, key0 + keys) that packed row r sees.
  int64_t VisibleKeys(const Task& task, int64_t r, int64_t key0, int64_t keys) const {
    if (!is_causal_) return keys;
    const int64_t query = std::min(r / group_, task.length - 1);
    return std::clamp<int64_t>(query + 1 - key0, 0, keys);
  }

  void RowBlock(const Task& task, const Workspace<T>& w, int64_t r0, int64_t rows, int64_t key0,
                int64_t keys) const {
    constexpr int64_t kCols = kTileCols<T>;
    int64_t visible[kRowBlock / kTileRows];  // of the last row of each register tile
    for (int64_t i = 0; i < rows; i += kTileRows) {
      visible[i / kTileRows] = VisibleKeys(task, r0 + i + kTileRows - 1, key0, keys);
    }
    ScorePanels(w.q + r0 * padded_dim_, w.k_transposed, rows, visible, keys, w.probabilities);
    ScorePanels(w.d_o + r0 * padded_dim_, w.v_transposed, rows, visible, keys, w.d_scores);

    const int64_t most_visible = visible[rows / kTileRows - 1];
    // dk and dv take keys in register tiles too: rows must be filled as far as these read.
    const int64_t filled = std::max(RoundUp(most_visible, kCols), RoundUp(most_visible, kTileRows));
    for (int64_t i = 0; i < rows; i += kTileRows) {
      const int64_t columns = RoundUp(visible[i / kTileRows], kCols);
      for (int64_t n = i; n < i + kTileRows; ++n) {
        // Hidden keys take part as -inf, so that no loop has a tail.
        T *p = w.probabilities + n * kKeyTile, *ds = w.d_scores + n * kKeyTile;
        std::fill(p + VisibleKeys(task, r0 + n, key0, keys), p + columns,
                  -std::numeric_limits<T>::infinity());
        std::fill(p + columns, p + filled, T(0));
        std::fill(ds + columns, ds + filled, T(0));
      }
      ScoreGrads(columns, w.lse + r0 + i, w.delta + r0 + i, w.probabilities + i * kKeyTile,
                 w.d_scores + i * kKeyTile);
    }
    for (int64_t d = 0; d < padded_dim_; d += kCols) {
      for (int64_t i = 0; i < rows; i += kTileRows) {
        MultiplyTile<T, ReadA::kRows, Into::kAdd>(visible[i / kTileRows], w.d_scores + i * kKeyTile,
                                                  kKeyTile, w.k + d * kKeyTile, kCols,
                                                  w.dq + (r0 + i) * padded_dim_ + d, padded_dim_);
      }
    }
    for (int64_t j = 0; j < most_visible; j += kTileRows) {
      // In a causal tile the first rows may not see key j yet.
      const int64_t skip = is_causal_ ? std::max<int64_t>(0, (key0 + j) * group_ - r0) : 0;
      AddKeyGrads(w.probabilities + skip * kKeyTile + j, w.d_o + (r0 + skip) * padded_dim_,
                  rows - skip, w.dv + j * padded_dim_);
      AddKeyGrads(w.d_scores + skip * kKeyTile + j, w.q + (r0 + skip) * padded_dim_, rows - skip,
                  w.dk + j * padded_dim_);
    }
  }

  /// out = x y^T where visible; x [rows, padded K], y packed.
  void ScorePanels(const T* x, const T* y_transposed, int64_t rows, const int64_t* visible,
                   int64_t keys, T* out) const {
    constexpr int64_t kCols = kTileCols<T>;
    // A panel serves all rows while it is in the L1 cache.
    for (int64_t j = 0; j < keys; j += kCols) {
      for (int64_t i = 0; i < rows; i += kTileRows) {
        if (j >= visible[i / kTileRows]) continue;
        MultiplyTile<T, ReadA::kRows, Into::kSet>(head_dim_, x + i * padded_dim_, padded_dim_,
                                                  y_transposed + j * head_dim_, kCols,
                                                  out + i * kKeyTile + j, kKeyTile);
      }
    }
  }

  /// kTileRows rows of out += p^T x; p [rows, kKeyTile], x [rows, padded K].
  void AddKeyGrads(const T* p, const T* x, int64_t rows, T* out) const {
    for (int64_t d = 0; d < padded_dim_; d += kTileCols<T>) {
      MultiplyTile<T, ReadA::kColumns, Into::kAdd>(rows, p, kKeyTile, x + d, padded_dim_, out + d,
                                                   padded_dim_);
    }
  }

  /// For kTileRows rows; p: scores in, probabilities out; ds: do v^T in, gradient of the scores
  /// out.
  static void ScoreGrads(int64_t columns, const T* lse, const T* delta, T* p, T* ds) {
    using V = typename SimdVector<T>::Type;
    constexpr int64_t kLanes = kTileCols<T> / 2;
    for (int64_t j = 0; j < columns; j += kLanes) {
      V x[kTileRows];
#pragma GCC unroll 6
      for (int64_t i = 0; i < kTileRows; ++i) x[i] = Load(p + i * kKeyTile + j) - lse[i];
      ExpSoftmax<kTileRows>(x);
#pragma GCC unroll 6
      for (int64_t i = 0; i < kTileRows; ++i) {
        Store(x[i], p + i * kKeyTile + j);
        Store<T>(x[i] * (Load(ds + i * kKeyTile + j) - delta[i]), ds + i * kKeyTile + j);
      }
    }
  }

  void StoreKeys(const T* from, HeadRows<T> to, int64_t key0, int64_t keys) const {
    for (int64_t j = 0; j < keys; ++j) {
      StoreRow(from + j * padded_dim_, T(1), dkv_write_, to[key0 + j]);
    }
  }

  void StoreQueryGrads(const Task& task, const Workspace<T>& w) const {
    const HeadRows<T> dq = HeadOf(dq_, task.first_row, task.kv_head * group_);
    const T* from = w.dq;
    for (int64_t i = 0; i < task.length; ++i) {
      for (int64_t h = 0; h < group_; ++h, from += padded_dim_) {
        StoreRow(from, scale_, dq_write_, dq[i] + h * head_dim_);
      }
    }
  }

  /// to (= or +=) factor * from.
  void StoreRow(const T* from, T factor, Write write, T* to) const {
    if (write == Write::kOverwrite) {
      for (int64_t d = 0; d < head_dim_; ++d) to[d] = factor * from[d];
    } else {
      for (int64_t d = 0; d < head_dim_; ++d) to[d] += factor * from[d];
    }
  }

  int64_t head_dim_, padded_dim_, group_;
  bool is_causal_;
  T scale_;
  HeadRows<const T> d_o_, q_, k_, v_, o_;
  HeadRows<T> dq_, dk_, dv_;
  HeadRows<const T> lse_;  // a row a head
  Write dq_write_, dkv_write_;
};

}  // namespace

template <typename T>
void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const AttentionSegments& segments, const AttentionParams& params,
                       const AttentionGradients& gradients) {
  const Backward<T> backward(d_o, q, k, v, o, lse, params, gradients);
  const std::vector<Task> tasks = MakeTasks(segments, k.shape[1]);
  if (tasks.empty()) return;
  const int64_t rows = backward.PaddedRows(tasks.front().length);
  Carver count;
  Workspace<T>(count, rows, backward.head_dim(), backward.padded_dim());
  const int64_t num_tasks = static_cast<int64_t>(tasks.size());
  const int num_threads = static_cast<int>(std::min<int64_t>(omp_get_max_threads(), num_tasks));
  char* scratch = static_cast<char*>(ctx.Scratch(count.used() * static_cast<size_t>(num_threads)));
#pragma omp parallel num_threads(num_threads)
  {
    Carver carver(scratch + count.used() * static_cast<size_t>(omp_get_thread_num()), count.used(),
                  DeviceKind::kCpu);
    const Workspace<T> workspace(carver, rows, backward.head_dim(), backward.padded_dim());
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < num_tasks; ++i) backward.Run(tasks[static_cast<size_t>(i)], workspace);
  }
}

template void AttentionBackward<float>(Context&, const Tensor&, const Tensor&, const Tensor&,
                                       const Tensor&, const Tensor&, const Tensor&,
                                       const AttentionSegments&, const AttentionParams&,
                                       const AttentionGradients&);
template void AttentionBackward<double>(Context&, const Tensor&, const Tensor&, const Tensor&,
                                        const Tensor&, const Tensor&, const Tensor&,
                                        const AttentionSegments&, const AttentionParams&,
                                        const AttentionGradients&);

}  // namespace omnitrain::cpu
