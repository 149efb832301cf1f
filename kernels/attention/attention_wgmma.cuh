#pragma once

#include "kernels/attention/attention_cuda.cuh"
#include "kernels/common/hopper.cuh"
#include "kernels/common/tensor_map.cuh"

namespace omnitrain::cuda {

// Tiles of heads in shared memory as Hopper's copies bring them and its products want them, and
// those products. A block has a warp group that copies and kConsumers that compute, 64 rows of the
// block's tile each.
// Source of the scheme: Shah et al. 2024 (FlashAttention-3), sections 3.1 and 3.2.

constexpr int kConsumers = 2, kGroupRows = 64, kBlockRows = kConsumers * kGroupRows;
constexpr int kConsumerThreads = kConsumers * kWarpGroupThreads;
constexpr int kWgmmaThreads = kWarpGroupThreads + kConsumerThreads;

// A block starts with 168 registers a thread. What consumers take, the copying group must have
// given up: they would wait for ever.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <= 168 * (1 + kConsumers), "");

/// kRows rows of a head: boxes of 64 columns behind each other, each of kRows rows of 128 bytes,
/// swizzled. Columns past the head dim hold zeros. Rows past the end of a sequence hold whatever
/// comes behind it: see ZeroFrom.
template <int kHeadDim, int kRows>
struct alignas(1024) HeadTile {
  static constexpr int kBoxes = (kHeadDim + kBoxSide - 1) / kBoxSide;
  static constexpr int kBytes = kBoxes * kRows * 128;
  unsigned char bytes[kBytes];

  /// One thread; `full` was promised kBytes.
  __device__ __forceinline__ void Load(const CUtensorMap& map, int row, int head,
                                       PhaseBarrier* full) {
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      LoadBox(map, box * kBoxSide, row, head, bytes + box * kRows * 128, full);
    }
  }

  /// Rows from `row` on become zeros: times a weight of zero they would still spread NaN. All
  /// consumers; to be followed by FenceZeros, once for several tiles.
  __device__ __forceinline__ void ZeroFrom(int row) {
    const int packs = (kRows - row) * 8;
    for (int i = static_cast<int>(threadIdx.x) - kWarpGroupThreads; i < packs * kBoxes;
         i += kConsumerThreads) {
      const int box = i / packs, pack = i - box * packs;
      *reinterpret_cast<uint4*>(bytes + (box * kRows + row) * 128 + pack * 16) = uint4{};
    }
  }

  /// 16 columns, as K of an operand whose rows are those of the tile from `first_row` on.
  __device__ __forceinline__ uint64_t Columns(int step, int first_row) const {
    const uint32_t start =
        ToShared(bytes) + step / 4 * kRows * 128 + first_row * 128 + step % 4 * 2 * kWgmmaK;
    return OperandDescriptor(start, 16);
  }
  /// 16 rows, as K of an operand whose rows are the columns of the tile.
  __device__ __forceinline__ uint64_t Rows(int step) const {
    return OperandDescriptor(ToShared(bytes) + step * kWgmmaK * 128, kRows * 128);
  }
};

__device__ __forceinline__ void FenceZeros() {
  FenceSharedForAsync();
  SyncThreads(1, kConsumerThreads);
}

/// The map that HeadTile::Load wants, of a [T, heads, K] tensor.
template <int kRows>
CUtensorMap MapOfHeads(const Tensor& t) {
  const auto bytes = static_cast<int64_t>(DTypeBytes(t.dtype));
  return MakeTensorMap(
      t.data, t.dtype,
      {{t.shape[2], t.shape[0], t.shape[1]}, {t.row_stride * bytes, t.shape[2] * bytes}}, kRows);
}

// Products of a warp group, asynchronous: 64 rows and kN columns over 16 of K. acc[4 j + 2 h + c]
// of a thread is at row 16 (warp % 4) + lane / 4 + 8 h, column 8 j + 2 (lane % 4) + c. Left
// operands in registers have the place of accumulators: columns 16 s on of the left one are those
// of j = 2 s and 2 s + 1, rounded.

template <int kN>
struct Product;

#define OT_REGS32                                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define OT_REGS40 \
  OT_REGS32       \
  ", "            \
  "%32, %33, %34, %35, %36, %37, %38, %39"
#define OT_REGS48 \
  OT_REGS40       \
  ", "            \
  "%40, %41, %42, %43, %44, %45, %46, %47"
#define OT_REGS64 \
  OT_REGS48       \
  ", "            \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define OT_ACC8(d, i)                                                                         \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define OT_ACC32(d) OT_ACC8(d, 0), OT_ACC8(d, 8), OT_ACC8(d, 16), OT_ACC8(d, 24)
#define OT_ACC40(d) OT_ACC32(d), OT_ACC8(d, 32)
#define OT_ACC48(d) OT_ACC40(d), OT_ACC8(d, 40)
#define OT_ACC64(d) OT_ACC48(d), OT_ACC8(d, 48), OT_ACC8(d, 56)

// a0 .. a4: the operands behind the accumulators.
#define OT_PRODUCT(n, regs, acc, a0, a1, a2, a3, a4)                                           \
  template <>                                                                                  \
  struct Product<n> {                                                                          \
    /* acc (+)= a b^T, of tiles' Columns. */                                                   \
    __device__ __forceinline__ static void OfColumns(uint64_t a, uint64_t b, bool accumulates, \
                                                     float (&d)[n / 2]) {                      \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " a2                                      \
                   ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" regs     \
                   "}, " a0 ", " a1 ", p, 1, 1, 0, 0;\n}"                                      \
                   : acc(d)                                                                    \
                   : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)));                      \
    }                                                                                          \
    /* acc += a b, b of a tile's Rows. */                                                      \
    __device__ __forceinline__ static void OfRows(const uint32_t (&a)[4], uint64_t b,          \
                                                  float (&d)[n / 2]) {                         \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" regs "}, {" a0 \
                   ", " a1 ", " a2 ", " a3 "}, " a4 ", 1, 1, 1, 1;"                            \
                   : acc(d)                                                                    \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                      \
    }                                                                                          \
  }
OT_PRODUCT(64, OT_REGS32, OT_ACC32, "%32", "%33", "%34", "%35", "%36");
OT_PRODUCT(80, OT_REGS40, OT_ACC40, "%40", "%41", "%42", "%43", "%44");
OT_PRODUCT(96, OT_REGS48, OT_ACC48, "%48", "%49", "%50", "%51", "%52");
OT_PRODUCT(128, OT_REGS64, OT_ACC64, "%64", "%65", "%66", "%67", "%68");

#undef OT_PRODUCT
#undef OT_ACC64
#undef OT_ACC48
#undef OT_ACC40
#undef OT_ACC32
#undef OT_ACC8
#undef OT_REGS64
#undef OT_REGS48
#undef OT_REGS40
#undef OT_REGS32

/// acc = a b^T over the head dim: 64 rows of tile `a` from `first_row` on, kN rows of tile `b`.
template <int kHeadDim, int kN, int kRowsA>
__device__ __forceinline__ void MultiplyHeads(const HeadTile<kHeadDim, kRowsA>& a, int first_row,
                                              const HeadTile<kHeadDim, kN>& b,
                                              float (&acc)[kN / 2]) {
#pragma unroll
  for (int step = 0; step < kHeadDim / kWgmmaK; ++step) {
    Product<kN>::OfColumns(a.Columns(step, first_row), b.Columns(step, 0), step > 0, acc);
  }
}

/// 64 x kN accumulators as the left operand of kN / 16 products.
template <int kN>
struct Rounded {
  uint32_t steps[kN / kWgmmaK][4];

  __device__ __forceinline__ void Set(const float (&acc)[kN / 2]) {
#pragma unroll
    for (int i = 0; i < kN / 4; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(acc[2 * i], acc[2 * i + 1]);
      steps[i / 4][i % 4] = *reinterpret_cast<const uint32_t*>(&pair);
    }
  }
};

/// acc += a b: a [64, kN], b [kN, kHeadDim].
template <int kHeadDim, int kN>
__device__ __forceinline__ void MultiplyRounded(const Rounded<kN>& a,
                                                const HeadTile<kHeadDim, kN>& b,
                                                float (&acc)[kHeadDim / 2]) {
#pragma unroll
  for (int step = 0; step < kN / kWgmmaK; ++step) {
    Product<kHeadDim>::OfRows(a.steps[step], b.Rows(step), acc);
  }
}

/// Of an accumulator: its row among the 64 of its warp group, its column.
__device__ __forceinline__ int AccRow(int half) {
  return static_cast<int>(threadIdx.x) % kWarpGroupThreads / 32 * 16 +
         static_cast<int>(threadIdx.x) % 32 / 4 + 8 * half;
}
__device__ __forceinline__ int AccColumn(int i) {
  return i / 4 * 8 + 2 * (static_cast<int>(threadIdx.x) % 4) + i % 2;
}

/// (heads, blocks of the longest segment, segments): heads that share keys run side by side, blocks
/// past the end of their segment leave at once.
inline dim3 BlockGrid(const Tensor& cu_seqlens, int64_t max_seqlen, int64_t num_heads) {
  return dim3(static_cast<unsigned>(num_heads),
              static_cast<unsigned>(CeilDiv(max_seqlen, kBlockRows)),
              static_cast<unsigned>(cu_seqlens.rows() - 1));
}

}  // namespace omnitrain::cuda
