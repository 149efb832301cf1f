#include <omp.h>

#include <algorithm>

#include "kernels/common/parallel.h"
#include "kernels/rows/rows_impl.h"

namespace omnitrain::cpu {
namespace {

/// Before any thread starts: nothing may throw inside a parallel loop.
void CheckIndices(const char* op, const Tensor& index, int64_t num_rows) {
  const int32_t* p = index.ptr<int32_t>();
  for (int64_t i = 0; i < index.num_elements(); ++i) {
    OT_CHECK(p[i] >= -1 && p[i] < num_rows, "{}: index {} at {} of {} rows", op, p[i], i, num_rows);
  }
}

template <typename S>
void WriteRow(Write write, const S* src, int64_t width, S* dst) {
  if (write == Write::kOverwrite) {
    std::copy(src, src + width, dst);
    return;
  }
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) dst[j] += src[j];
}

template <typename S>
void AddScaledRow(S scale, const S* src, int64_t width, S* dst) {
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) dst[j] += scale * src[j];
}

/// Calls f(begin, width) over slices of columns, one a thread. Rows that many indices share are
/// added by one thread, in order, so that sums do not depend on the number of threads.
template <typename F>
void ParallelColumns(int64_t rows, int64_t width, F&& f) {
  constexpr int64_t kNarrowest = 16;  // a cache line of f32
  const int64_t num_threads = omp_get_max_threads();
  const int64_t share = (width + num_threads - 1) / num_threads;
  const int64_t slice = (share + kNarrowest - 1) / kNarrowest * kNarrowest;
  if (width == 0) return;
  ParallelFor((width + slice - 1) / slice, rows * slice,
              [&](int64_t i) { f(i * slice, std::min(slice, width - i * slice)); });
}

}  // namespace

void GatherRows(const Tensor& src, const Tensor& index, Write write, Tensor dst) {
  CheckIndices("gather_rows", index, src.rows());
  DispatchReal(dst.dtype, [&](auto zero) {
    using S = decltype(zero);
    const int64_t width = dst.shape[1];
    const int32_t* source = index.ptr<int32_t>();
    ParallelFor(dst.rows(), width, [&](int64_t i) {
      if (source[i] >= 0) {
        WriteRow(write, src.row<S>(source[i]), width, dst.row<S>(i));
      } else if (write == Write::kOverwrite) {
        std::fill_n(dst.row<S>(i), width, S(0));
      }
    });
  });
}

void ScatterRows(const Tensor& src, const Tensor& index, Write write, Tensor dst) {
  CheckIndices("scatter_rows", index, dst.rows());
  DispatchReal(dst.dtype, [&](auto zero) {
    using S = decltype(zero);
    const int64_t width = dst.shape[1];
    const int32_t* destination = index.ptr<int32_t>();
    ParallelFor(src.rows(), width, [&](int64_t i) {
      if (destination[i] < 0) return;
      WriteRow(write, src.row<S>(i), width, dst.row<S>(destination[i]));
    });
  });
}

void ScatterAddRows(const Tensor& src, const Tensor& index, Tensor dst) {
  CheckIndices("scatter_add_rows", index, dst.rows());
  DispatchReal(src.dtype, [&](auto zero) {
    using S = decltype(zero);
    const int32_t* destination = index.ptr<int32_t>();
    ParallelColumns(src.rows(), src.shape[1], [&](int64_t begin, int64_t width) {
      for (int64_t i = 0; i < src.rows(); ++i) {
        if (destination[i] < 0) continue;
        WriteRow(Write::kAccumulate, src.row<S>(i) + begin, width,
                 dst.row<S>(destination[i]) + begin);
      }
    });
  });
}

void InterpolateRows(const Tensor& table, const Tensor& index, const Tensor& weight, Write write,
                     Tensor dst) {
  CheckIndices("interpolate_rows", index, table.rows());
  DispatchReal(dst.dtype, [&](auto zero) {
    using S = decltype(zero);
    const int64_t width = dst.shape[1];
    const int32_t* source = index.ptr<int32_t>();
    const S* scale = weight.ptr<S>();
    ParallelFor(dst.rows(), 4 * width, [&](int64_t i) {
      S* out = dst.row<S>(i);
      if (write == Write::kOverwrite) std::fill_n(out, width, S(0));
      for (int64_t k = 4 * i; k < 4 * i + 4; ++k) {
        if (source[k] >= 0) AddScaledRow(scale[k], table.row<S>(source[k]), width, out);
      }
    });
  });
}

void InterpolateRowsBackward(const Tensor& d, const Tensor& index, const Tensor& weight,
                             Tensor dtable) {
  CheckIndices("interpolate_rows_backward", index, dtable.rows());
  DispatchReal(d.dtype, [&](auto zero) {
    using S = decltype(zero);
    const int32_t* destination = index.ptr<int32_t>();
    const S* scale = weight.ptr<S>();
    ParallelColumns(4 * d.rows(), d.shape[1], [&](int64_t begin, int64_t width) {
      for (int64_t k = 0; k < 4 * d.rows(); ++k) {
        if (destination[k] < 0) continue;
        AddScaledRow(scale[k], d.row<S>(k / 4) + begin, width,
                     dtable.row<S>(destination[k]) + begin);
      }
    });
  });
}

}  // namespace omnitrain::cpu
