#pragma once

#include <cstdint>

#include "kernels/attention/attention_cuda.cuh"

namespace omnitrain::cuda {

// Tiles in shared memory and their products on the matrix units, through the warp-wide
// instructions that every GPU from Ampere on has (PTX ISA: cp.async, ldmatrix, mma.m16n8k16).
// A block has kMmaThreads threads. A tile has rows of kHeadDim bf16 at a pitch of kHeadDim + 8: the
// eight rows that ldmatrix reads at once then lie in different banks.

constexpr int kMmaWarps = 4, kMmaThreads = 32 * kMmaWarps;

template <int kHeadDim>
constexpr int kPitch = kHeadDim + 8;
template <int kHeadDim>
constexpr size_t TileBytes(int rows) {
  return sizeof(Bf16) * static_cast<size_t>(rows) * kPitch<kHeadDim>;
}

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// Bytes global -> shared behind the caller's back; zeros where not `is_real`.
template <int kBytes>
__device__ __forceinline__ void CopyAsync(void* to, const void* from, bool is_real) {
  const int bytes = is_real ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(SharedAddress(to)),
                 "l"(from), "r"(bytes));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(SharedAddress(to)),
                 "l"(from), "n"(kBytes), "r"(bytes));
  }
}
/// All copies of the block so far are there, for all its threads.
__device__ __forceinline__ void AwaitCopies() {
  asm volatile("cp.async.wait_all;\n" ::: "memory");
  __syncthreads();
}

/// Rows [begin, begin + kRows) of a head; zeros from row `end` and from the head dim on.
template <int kHeadDim, int kRows>
__device__ __forceinline__ void CopyTileAsync(const Heads<const Bf16>& from, int64_t begin,
                                              int64_t end, int head, Bf16* tile) {
  constexpr int kPacks = kHeadDim / 8;
#pragma unroll
  for (int i = threadIdx.x; i < kRows * kPacks; i += kMmaThreads) {
    const int r = i / kPacks, d = i % kPacks * 8;
    const bool is_real = begin + r < end && d < from.head_dim;
    CopyAsync<16>(tile + r * kPitch<kHeadDim> + d,
                  is_real ? from.Row(begin + r, head) + d : from.data, is_real);
  }
}

// Fragments. A product's accumulators acc[m][n][4] cover rows 16 m + lane / 4 (0, 1) and 8 further
// (2, 3), columns 8 n + 2 (lane % 4) and the next.

__device__ __forceinline__ int FragmentRow(int m, int c) {
  return 16 * m + static_cast<int>(threadIdx.x % 32) / 4 + (c >= 2 ? 8 : 0);
}
__device__ __forceinline__ int FragmentColumn(int n, int c) {
  return 8 * n + 2 * static_cast<int>(threadIdx.x % 4) + c % 2;
}

/// 16 x 16 of a tile, as the left operand; transposed, as the right one of 16 rows (the inner
/// dimension) and two blocks of 8 columns.
template <bool kIsTransposed>
__device__ __forceinline__ void LoadSquare(const Bf16* at, int pitch, uint32_t (&out)[4]) {
  const int lane = threadIdx.x % 32;
  const uint32_t address = SharedAddress(at + lane % 16 * pitch + lane / 16 * 8);
  if constexpr (kIsTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address));
  }
}

__device__ __forceinline__ void Mma(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// acc += a b^T: 16 kM rows of tile `a` with 8 kN rows of tile `b`.
template <int kHeadDim, int kM, int kN>
__device__ __forceinline__ void MultiplyTransposed(const Bf16* a, const Bf16* b,
                                                   float (&acc)[kM][kN][4]) {
  constexpr int pitch = kPitch<kHeadDim>;
#pragma unroll
  for (int k = 0; k < kHeadDim; k += 16) {
    uint32_t left[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) LoadSquare<false>(a + 16 * m * pitch + k, pitch, left[m]);
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      // As a left operand: rows 0-7, rows 8-15, each of the first 8 columns, then of the last.
      uint32_t right[4];
      LoadSquare<false>(b + 8 * n * pitch + k, pitch, right);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        Mma(acc[m][n], left[m], right[0], right[2]);
        Mma(acc[m][n + 1], left[m], right[1], right[3]);
      }
    }
  }
}

/// acc += p b: p the accumulators of a product, rounded to bf16; b 8 kN rows of a tile.
template <int kHeadDim, int kM, int kN>
__device__ __forceinline__ void MultiplyRounded(const float (&p)[kM][kN][4], const Bf16* b,
                                                float (&acc)[kM][kHeadDim / 8][4]) {
  constexpr int pitch = kPitch<kHeadDim>;
#pragma unroll
  for (int k = 0; k < kN; k += 2) {
    uint32_t left[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      left[m][0] = PackBf16(p[m][k][0], p[m][k][1]);
      left[m][1] = PackBf16(p[m][k][2], p[m][k][3]);
      left[m][2] = PackBf16(p[m][k + 1][0], p[m][k + 1][1]);
      left[m][3] = PackBf16(p[m][k + 1][2], p[m][k + 1][3]);
    }
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; n += 2) {
      uint32_t right[4];
      LoadSquare<true>(b + 8 * k * pitch + 8 * n, pitch, right);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        Mma(acc[m][n], left[m], right[0], right[1]);
        Mma(acc[m][n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

/// Rows [begin, end) of a head from accumulators times `factor(m, half)`, which may differ by row.
template <int kHeadDim, int kM, typename Factor>
__device__ __forceinline__ void StoreRows(const float (&acc)[kM][kHeadDim / 8][4], int64_t begin,
                                          int64_t end, int head, const Heads<Bf16>& to,
                                          const Factor& factor) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t token = begin + FragmentRow(m, 2 * half);
      if (token >= end) continue;
      Bf16* row = to.Row(token, head);
      const float f = factor(m, half);
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        const int column = FragmentColumn(n, 0);
        if (8 * n >= to.head_dim) continue;
        *reinterpret_cast<uint32_t*>(row + column) =
            PackBf16(acc[m][n][2 * half] * f, acc[m][n][2 * half + 1] * f);
      }
    }
  }
}

/// Rows [begin, end) of a gradient from accumulators times `factor`.
template <int kHeadDim, int kM>
__device__ __forceinline__ void StoreGradRows(const float (&acc)[kM][kHeadDim / 8][4],
                                              int64_t begin, int64_t end, int head,
                                              const GradHeads<Bf16>& to, float factor) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t token = begin + FragmentRow(m, 2 * half);
      if (token >= end) continue;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        if (8 * n >= to.head_dim) continue;
        StorePair(to, token, head, FragmentColumn(n, 0), acc[m][n][2 * half] * factor,
                  acc[m][n][2 * half + 1] * factor);
      }
    }
  }
}

}  // namespace omnitrain::cuda
