#pragma once

#include "kernels/moe/grouped_linear_rows.cuh"
#include "kernels/moe/grouped_linear_tile.cuh"

namespace omnitrain::cuda {

// The kernel of all three products. One persistent block per multiprocessor: a producer thread
// copies boxes of both operands into a ring of stages, two warp groups multiply, each 64 of the 128
// rows of a tile. Tiles are handed out by a counter, so a block that starts late (a multiprocessor
// that other work holds) takes fewer.

#ifdef OT_HOPPER

template <Product kProduct>
__device__ __forceinline__ void LoadStage(const CUtensorMap& a, const CUtensorMap& b,
                                          const GroupedTile& tile, int k0, unsigned char* stage,
                                          PhaseBarrier* full) {
  const int boxes_a = min(kBoxesA, (tile.m - tile.m0 + kBoxSide - 1) / kBoxSide);
  const int boxes_b = min(kBoxesB, (tile.n - tile.n0 + kBoxSide - 1) / kBoxSide);
  full->ArriveExpecting((boxes_a + boxes_b) * kBoxBytes);
#pragma unroll
  for (int i = 0; i < kBoxesA; ++i) {
    if (i >= boxes_a) break;
    const int m = tile.m0 + i * kBoxSide;
    unsigned char* to = stage + i * kBoxBytes;
    if (kProduct == Product::kWeightGrad) {
      LoadBox(a, m, tile.first_row + k0, 0, to, full);
    } else {
      LoadBox(a, k0, tile.first_row + m, 0, to, full);
    }
  }
#pragma unroll
  for (int i = 0; i < kBoxesB; ++i) {
    if (i >= boxes_b) break;
    const int n = tile.n0 + i * kBoxSide;
    unsigned char* to = stage + (kBoxesA + i) * kBoxBytes;
    if (kProduct == Product::kForward) {
      LoadBox(b, k0, n, tile.expert, to, full);
    } else if (kProduct == Product::kInputGrad) {
      LoadBox(b, n, k0, tile.expert, to, full);
    } else {
      LoadBox(b, n, tile.first_row + k0, 0, to, full);
    }
  }
}

template <Product kProduct>
__device__ __forceinline__ void Produce(const CUtensorMap& a, const CUtensorMap& b,
                                        const GroupedProblem& p, int num_tiles,
                                        GroupedShared<kProduct>& shared) {
  PrefetchTensorMap(a);
  PrefetchTensorMap(b);
  RingPosition<GroupedShared<kProduct>::kStages> at;
  int group = 0;
  int t = atomicAdd(p.next_tile, 1);
  while (t < num_tiles) {
    const int next = atomicAdd(p.next_tile, 1);  // comes while this tile is loaded
    const GroupedTile tile = TileAt<kProduct>(p, t, &group);
    for (int block = 0; block < tile.num_k_blocks(); ++block, at.Advance()) {
      shared.empty[at.place].Wait(at.parity ^ 1);
      shared.tile[at.place] = t;
      LoadStage<kProduct>(a, b, tile, block * kTileK, shared.stages[at.place],
                          &shared.full[at.place]);
    }
    t = next;
  }
  // Each block asks once too often; whoever is last leaves the counter as it was.
  if (t == num_tiles + static_cast<int>(gridDim.x) - 1) *p.next_tile = 0;
  shared.empty[at.place].Wait(at.parity ^ 1);
  shared.tile[at.place] = -1;
  shared.full[at.place].Arrive();
}

/// Rows from `rows` on of all boxes of a stage become zeros: they belong to the next group, and
/// here they are K. All consumers.
__device__ __forceinline__ void ZeroFromRow(int rows, unsigned char* stage) {
  const int packs = (kBoxSide - rows) * kRowBytes / 16, begin = rows * kRowBytes;
  for (int i = static_cast<int>(threadIdx.x) - kWarpGroupThreads; i < packs * (kBoxesA + kBoxesB);
       i += kConsumers) {
    *reinterpret_cast<uint4*>(stage + i / packs * kBoxBytes + begin + i % packs * 16) = uint4{};
  }
  FenceSharedForAsync();
  SyncThreads(1, kConsumers);
}

template <Product kProduct>
__device__ __forceinline__ void Consume(const CUtensorMap& c, const GroupedProblem& p,
                                        GroupedShared<kProduct>& shared) {
  constexpr Major kMajorA = kProduct == Product::kWeightGrad ? Major::kMn : Major::kK;
  constexpr Major kMajorB = kProduct == Product::kForward ? Major::kK : Major::kMn;
  // The same for a whole warp, and the compiler is to know it: it would wait for each product
  // alone.
  const int warp =
      __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0) - kWarpGroupThreads / 32;
  const int half = warp / (kWarpGroupThreads / 32), lane = threadIdx.x % 32;
  const auto release = [&](int stage) {
    __syncwarp();
    if (lane == 0) shared.empty[stage].Arrive();
  };
  RingPosition<GroupedShared<kProduct>::kStages> at;
  RowSums sums(c, shared.chunks[warp], shared.chunk_full[warp]);
  int group = 0;
  for (;;) {
    shared.full[at.place].Wait(at.parity);
    // Only the lane that will give the stage back reads it.
    const int t = __shfl_sync(0xffffffffu, lane == 0 ? shared.tile[at.place] : 0, 0);
    if (t < 0) break;
    const GroupedTile tile = TileAt<kProduct>(p, t, &group);
    const int num_blocks = tile.num_k_blocks();
    const auto await_block = [&](int block) {
      shared.full[at.place].Wait(at.parity);
      if (kProduct == Product::kWeightGrad && tile.k - block * kTileK < kTileK) {
        ZeroFromRow(tile.k - block * kTileK, shared.stages[at.place]);
      }
    };
    if (tile.m0 + half * kBoxSide >= tile.m) {  // no rows for this half: nothing was loaded
      for (int block = 0; block < num_blocks; ++block, at.Advance()) {
        await_block(block);
        release(at.place);
      }
      continue;
    }
    const int m = tile.m0 + warp * kWarpRows;
    if (kProduct == Product::kWeightGrad) sums.Begin(tile, m);
    float acc[128];
    int last_stage = 0;
    for (int block = 0; block < num_blocks; ++block, at.Advance()) {
      await_block(block);
      const unsigned char* const stage = shared.stages[at.place];
      FenceProducts();
#pragma unroll
      for (int step = 0; step < kTileK / kWgmmaK; ++step) {
        MultiplyWide<kMajorA, kMajorB>(OperandAt<kMajorA>(stage + half * kBoxBytes, step),
                                       OperandAt<kMajorB>(stage + kBoxesA * kBoxBytes, step),
                                       block > 0 || step > 0, acc);
      }
      CommitProducts();
      AwaitProducts<1>();
      if (block > 0) release(last_stage);
      last_stage = at.place;
    }
    AwaitProducts<0>();
    release(last_stage);
    if (kProduct == Product::kWeightGrad) {
      sums.Add(acc);
    } else {
      StoreRows(p, tile, m, shared.chunks[warp], acc);
    }
  }
  if (kProduct == Product::kWeightGrad) AwaitBoxesRead<0>();
}

#endif  // OT_HOPPER

template <Product kProduct>
__global__ void __launch_bounds__(kGroupedThreads, 1)
    GroupedLinearKernel(const __grid_constant__ CUtensorMap a,
                        const __grid_constant__ CUtensorMap b,
                        const __grid_constant__ CUtensorMap c,
                        const __grid_constant__ GroupedProblem p) {
#ifdef OT_HOPPER
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<GroupedShared<kProduct>*>(memory);
  if (threadIdx.x == 0) {
    for (PhaseBarrier& full : shared.full) full.Init(1);
    for (PhaseBarrier& empty : shared.empty) empty.Init(kConsumerWarps);
    for (auto& chunks : shared.chunk_full) {
      for (PhaseBarrier& full : chunks) full.Init(1);
    }
    FenceSharedForAsync();
  }
  __syncthreads();
  // Accumulators take 128 registers a thread: the producer's share goes to the consumers.
  if (threadIdx.x < kWarpGroupThreads) {
    ShrinkRegisters<40>();
    if (threadIdx.x == 0) Produce<kProduct>(a, b, p, p.first_tile[p.num_groups], shared);
  } else {
    GrowRegisters<232>();
    Consume<kProduct>(c, p, shared);
  }
#endif
}

}  // namespace omnitrain::cuda
