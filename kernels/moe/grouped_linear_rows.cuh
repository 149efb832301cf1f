#pragma once

#include "kernels/moe/grouped_linear_tile.cuh"

namespace omnitrain::cuda {

// How accumulators reach c. A warp has 16 rows of 256 columns, in the layout of MultiplyWide; rows
// of 128 bytes go through shared memory, so that global memory sees them whole.

/// Where 16 bytes of a row of 128 lie in a swizzled box. Source: PTX ISA, "Swizzling Modes".
__device__ __forceinline__ int SwizzledOffset(int row, int pack) {
  return row * kRowBytes + (pack ^ row % 8) * 16;
}

/// acc += what c holds, where c is.
__device__ __forceinline__ void AddOldRows(const __nv_bfloat16* c, int64_t stride, int rows,
                                           int columns, float (&acc)[128]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    const int row = lane / 4 + 8 * (i % 2), column = i / 2 * 8 + 2 * (lane % 4);
    if (row >= rows || column >= columns) continue;
    const float2 old =
        __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(c + row * stride + column));
    acc[2 * i] += old.x, acc[2 * i + 1] += old.y;
  }
}

/// 16 rows of a warp to c, as bf16, 64 columns at a time. Not by copies as RowSums does: rows
/// beyond the group's last belong to the next one, and these copies would hold up those of the next
/// tile.
__device__ __forceinline__ void StoreRows(const GroupedProblem& p, const GroupedTile& tile, int m,
                                          unsigned char (*chunks)[kChunkBytes], float (&acc)[128]) {
  constexpr int kColumns = kRowBytes / static_cast<int>(sizeof(__nv_bfloat16));
  const int lane = threadIdx.x % 32;
  const int rows = tile.m - m, columns = tile.n - tile.n0;
  __nv_bfloat16* const c = p.c + (tile.first_row + m) * p.c_stride + tile.n0;
  if (p.adds) AddOldRows(c, p.c_stride, rows, columns, acc);
#pragma unroll
  for (int chunk = 0; chunk < kTileN / kColumns; ++chunk) {
    unsigned char* const buffer = chunks[chunk % 2];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int row = lane / 4 + 8 * (i % 2), at = 32 * chunk + 2 * i;
      *reinterpret_cast<__nv_bfloat162*>(buffer + SwizzledOffset(row, i / 2) + 4 * (lane % 4)) =
          __floats2bfloat162_rn(acc[at], acc[at + 1]);
    }
    __syncwarp();
    const int column = kColumns * chunk + 8 * (lane % 8);
#pragma unroll
    for (int i = 0; i < kWarpRows / 4; ++i) {
      const int row = 4 * i + lane / 8;
      if (row < rows && column < columns) {
        *reinterpret_cast<uint4*>(c + row * p.c_stride + column) =
            *reinterpret_cast<const uint4*>(buffer + SwizzledOffset(row, lane % 8));
      }
    }
  }
}

/// 16 rows of a warp that are added to c, in f32, 32 columns at a time: read ahead, by copies that
/// begin before the tile's product does.
class RowSums {
 public:
  static constexpr int kChunks = GroupedShared<Product::kWeightGrad>::kChunks;
  static constexpr int kColumns = kRowBytes / static_cast<int>(sizeof(float));

  __device__ __forceinline__ RowSums(const CUtensorMap& c, unsigned char (*chunks)[kChunkBytes],
                                     PhaseBarrier* full)
      : c_(c), chunks_(chunks), full_(full) {}

  /// Begins to read c.
  __device__ __forceinline__ void Begin(const GroupedTile& tile, int m) {
    tile_ = tile;
    m_ = m;
    num_chunks_ = m < tile.m ? min(kTileN, tile.n - tile.n0 + kColumns - 1) / kColumns : 0;
    if (threadIdx.x % 32 != 0) return;
    AwaitBoxesRead<1>();  // of the last tile all chunks but one left their places
#pragma unroll
    for (int chunk = 0; chunk < kChunks - 1; ++chunk) Load(chunk);
  }

  /// c += acc.
  __device__ __forceinline__ void Add(const float (&acc)[128]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int chunk = 0; chunk < kTileN / kColumns; ++chunk) {
      if (chunk >= num_chunks_) break;
      unsigned char* const sums = chunks_[added_.place];
      full_[added_.place].Wait(added_.parity);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = lane / 4 + 8 * (i % 2), pack = i / 2 * 2 + lane % 4 / 2;
        auto* const sum =
            reinterpret_cast<float2*>(sums + SwizzledOffset(row, pack) + 8 * (lane % 2));
        const float2 old = *sum;
        *sum = {old.x + acc[16 * chunk + 2 * i], old.y + acc[16 * chunk + 2 * i + 1]};
      }
      FenceSharedForAsync();
      __syncwarp();
      added_.Advance();
      if (lane != 0) continue;
      StoreBox(c_, tile_.n0 + chunk * kColumns, m_, tile_.expert, sums);
      AwaitBoxesRead<1>();  // the chunk before this one left its place
      Load(chunk + kChunks - 1);
    }
  }

 private:
  __device__ __forceinline__ void Load(int chunk) {
    if (chunk >= num_chunks_) return;
    full_[loaded_].ArriveExpecting(kChunkBytes);
    LoadBox(c_, tile_.n0 + chunk * kColumns, m_, tile_.expert, chunks_[loaded_], &full_[loaded_]);
    if (++loaded_ == kChunks) loaded_ = 0;
  }

  const CUtensorMap& c_;
  unsigned char (*const chunks_)[kChunkBytes];
  PhaseBarrier* const full_;
  GroupedTile tile_{};
  int m_ = 0, num_chunks_ = 0, loaded_ = 0;
  RingPosition<kChunks> added_;
};

}  // namespace omnitrain::cuda
