#pragma once

#include <cuda_bf16.h>

#include "kernels/common/hopper.cuh"

namespace omnitrain::cuda {

// What the kernel of grouped_linear_kernel.cuh works on, and how it is cut into tiles.

/// Which product of a linear layer, c = a b.
///   kForward     y = x w^T    c [rows, O]  a = x [rows, I]        b = w [O, I]
///   kInputGrad   dx = dy w    c [rows, I]  a = dy [rows, O]       b = w [O, I], K its rows
///   kWeightGrad  dw += dy^T x c [O, I]     a = dy [rows, O], K its rows; b = x [rows, I], likewise
enum class Product { kForward, kInputGrad, kWeightGrad };

constexpr int kTileM = 128, kTileN = 256, kTileK = kBoxSide;
constexpr int kBoxesA = kTileM / kBoxSide, kBoxesB = kTileN / kBoxSide;
constexpr int kStageBytes = (kBoxesA + kBoxesB) * kBoxBytes;
constexpr int kConsumers = 2 * kWarpGroupThreads, kConsumerWarps = kConsumers / 32;
constexpr int kGroupedThreads = kWarpGroupThreads + kConsumers;
constexpr int kRowBytes = 128;                      // of a box
constexpr int kWarpRows = 16;                       // of a tile, whose accumulators a warp holds
constexpr int kChunkBytes = kWarpRows * kRowBytes;  // what a warp moves of c at once
constexpr int kTilesInBand = 8;                     // tiles along M that share what they read of b

/// Lies in shared memory, at a multiple of 1024 bytes. A weight gradient reads c, twice as wide,
/// ahead of its sums: more chunks, and a stage less.
template <Product kProduct>
struct GroupedShared {
  static constexpr bool kIsWeightGrad = kProduct == Product::kWeightGrad;
  static constexpr int kStages = kIsWeightGrad ? 3 : 4, kChunks = kIsWeightGrad ? 4 : 2;

  unsigned char stages[kStages][kStageBytes];
  unsigned char chunks[kConsumerWarps][kChunks][kChunkBytes];
  PhaseBarrier full[kStages], empty[kStages], chunk_full[kConsumerWarps][kChunks];
  int tile[kStages];  // whose operands a stage holds; -1: no more
};

/// Groups that are not empty: rows [first_row, first_row + num_rows), tiles from first_tile on.
struct GroupedProblem {
  static constexpr int kMaxGroups = 256;  // what fits a kernel's parameters of 4 KB

  int num_groups;
  int m, n, k;     // m (k of a weight gradient) is the group's number of rows: 0 here
  int* next_tile;  // 0 before and after
  __nv_bfloat16* c;
  int64_t c_stride;
  bool adds;  // to c; a weight gradient always does
  int first_row[kMaxGroups], num_rows[kMaxGroups], first_tile[kMaxGroups + 1];
  uint16_t expert[kMaxGroups];
};

struct GroupedTile {
  int expert, first_row;  // of the group
  int m, n, k;            // sizes of the group's product
  int m0, n0;             // where the tile begins
  __device__ __forceinline__ int num_k_blocks() const { return (k + kTileK - 1) / kTileK; }
};

/// Tile `t`; *group is that of an earlier tile, or 0. A band of tiles along M is done before the
/// next, columns outermost: blocks that run at once share rows of a and of b in L2.
template <Product kProduct>
__device__ __forceinline__ GroupedTile TileAt(const GroupedProblem& p, int t, int* group) {
  while (t >= p.first_tile[*group + 1]) ++*group;
  GroupedTile tile;
  tile.expert = p.expert[*group];
  tile.first_row = p.first_row[*group];
  const int rows = p.num_rows[*group];
  tile.m = kProduct == Product::kWeightGrad ? p.m : rows;
  tile.n = p.n;
  tile.k = kProduct == Product::kWeightGrad ? rows : p.k;
  const int tiles_m = (tile.m + kTileM - 1) / kTileM, tiles_n = (tile.n + kTileN - 1) / kTileN;
  t -= p.first_tile[*group];
  const int band = t / (kTilesInBand * tiles_n), in_band = t - band * kTilesInBand * tiles_n;
  const int height = min(kTilesInBand, tiles_m - band * kTilesInBand);
  tile.m0 = (band * kTilesInBand + in_band % height) * kTileM;
  tile.n0 = in_band / height * kTileN;
  return tile;
}

/// Which of kSize places is next, and the parity of its phase.
template <int kSize>
struct RingPosition {
  int place = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void Advance() {
    if (++place == kSize) place = 0, parity ^= 1;
  }
};

}  // namespace omnitrain::cuda
