#pragma once

#include <cuda.h>

#include <cstdint>

namespace omnitrain::cuda {

// Instructions of sm_90a that C++ has no words for: barriers in shared memory that count bytes,
// copies of boxes of a tensor (TMA), products of a warp group. Kernels that use them are compiled
// for every architecture and empty elsewhere: `#ifdef OT_HOPPER`.
// Source: PTX ISA 9.0, chapters "Parallel Synchronization and Communication Instructions:
// mbarrier", "Data Movement and Conversion Instructions: Tensor Copy" and "Asynchronous Warpgroup
// Level Matrix Multiply-Accumulate Instructions"; sections are named below.

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define OT_HOPPER
#endif

constexpr int kWarpGroupThreads = 128;

__device__ __forceinline__ uint32_t ToShared(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// A barrier in shared memory: a phase ends when `count` threads arrived and all bytes promised to
/// it came. Section "Parallel Synchronization and Communication Instructions: mbarrier".
struct alignas(8) PhaseBarrier {
  uint64_t state;

  __device__ __forceinline__ void Init(int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(ToShared(this)), "r"(count));
  }
  __device__ __forceinline__ void Arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(ToShared(this)) : "memory");
  }
  /// Arrives, and promises `bytes` of copies that complete on this barrier.
  __device__ __forceinline__ void ArriveExpecting(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(ToShared(this)),
                 "r"(bytes)
                 : "memory");
  }
  /// Until the phase of this parity is over: 0 for the first, 1 for the second, 0 for the third. A
  /// new barrier lets parity 1 pass.
  __device__ __forceinline__ void Wait(uint32_t parity) {
    uint32_t is_over;
    do {
      asm volatile(
          "{\n.reg .pred p;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
          "selp.u32 %0, 1, 0, p;\n}"
          : "=r"(is_over)
          : "r"(ToShared(this)), "r"(parity)
          : "memory");
    } while (is_over == 0);
  }
};

/// What this thread wrote to shared memory (barriers made there too) is seen by copies and products
/// that are issued after the next barrier. Section "membar / fence".
__device__ __forceinline__ void FenceSharedForAsync() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// All `threads` that come to barrier `id` (1 to 15; 0 is __syncthreads).
__device__ __forceinline__ void SyncThreads(int id, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Gives up registers, or takes what others of the block gave up: a whole warp group, once.
/// Section "setmaxnreg".
template <int kRegisters>
__device__ __forceinline__ void ShrinkRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void GrowRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Boxes of a tensor of three dims, coordinates from the innermost one. What lies outside of the
// tensor is read as zeros and not written. One thread issues them.

__device__ __forceinline__ void PrefetchTensorMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
/// Section "cp.async.bulk.tensor".
__device__ __forceinline__ void LoadBox(const CUtensorMap& map, int x, int y, int z, void* to,
                                        PhaseBarrier* completes) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(ToShared(to)),
      "l"(&map), "r"(ToShared(completes)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
/// A box to the tensor; a group of its own.
__device__ __forceinline__ void StoreBox(const CUtensorMap& map, int x, int y, int z,
                                         const void* from) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];\n"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(ToShared(from)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
/// Until all but the last kPending StoreBox of this thread have read their shared memory.
template <int kPending>
__device__ __forceinline__ void AwaitBoxesRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// Products of a warp group. Operands lie in shared memory as boxes of 64 x 64 bf16, rows of 128
// bytes, swizzled in units of 16 bytes (CU_TENSOR_MAP_SWIZZLE_128B), each box at a multiple of 1024
// bytes. Rows are either the operand's M or N ("K-major": a row runs along K) or its K
// ("MN-major").

enum class Major { kK, kMn };
constexpr int kBoxSide = 64, kBoxBytes = 2 * kBoxSide * kBoxSide, kWgmmaK = 16;

/// Names 16 of K of an operand. `start`: its first byte, in shared memory; `box_stride`: bytes from
/// one 64 of M or N to the next, of use to MN-major ones. In units of 16 bytes: bits 0-13 the
/// start, bits 16-29 that stride, bits 32-45 the one from eight rows to the next eight; bit 62 the
/// swizzle of 128 bytes. Sections "Matrix Descriptor Format", "Strides".
__device__ __forceinline__ uint64_t OperandDescriptor(uint32_t start, uint32_t box_stride) {
  return uint64_t{start >> 4} | uint64_t{box_stride >> 4} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

/// `k_step` of four, of boxes that follow each other along M or N.
template <Major kMajor>
__device__ __forceinline__ uint64_t OperandAt(const void* boxes, int k_step) {
  const uint32_t step_bytes = kMajor == Major::kK ? 2 * kWgmmaK : 2 * kBoxSide * kWgmmaK;
  return OperandDescriptor(ToShared(boxes) + step_bytes * static_cast<uint32_t>(k_step),
                           kMajor == Major::kK ? 16 : kBoxBytes);
}

/// Before the first product that uses registers this thread wrote. Section "wgmma.fence".
__device__ __forceinline__ void FenceProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until all but the last kPending commits are done.
template <int kPending>
__device__ __forceinline__ void AwaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The 128 accumulators as operands of one instruction.
#define OT_ACC8(d, i)                                                                         \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define OT_ACC32(d, i) OT_ACC8(d, i), OT_ACC8(d, i + 8), OT_ACC8(d, i + 16), OT_ACC8(d, i + 24)

/// acc (+)= a b^T, 64 x 256 over 16 of K, asynchronously: commit, then await before reading `acc`.
/// acc[4 j + 2 h + c] of a thread is at row 16 (warp % 4) + lane / 4 + 8 h, column 8 j +
/// 2 (lane % 4) + c.  Sections "wgmma.mma_async", "Register Fragments for
/// wgmma.mma_async.m64nNk16".
template <Major kMajorA, Major kMajorB>
__device__ __forceinline__ void MultiplyWide(uint64_t a, uint64_t b, bool accumulates,
                                             float (&acc)[128]) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "
      "%127}, %128, %129, p, 1, 1, %131, %132;\n}"
      : OT_ACC32(acc, 0), OT_ACC32(acc, 32), OT_ACC32(acc, 64), OT_ACC32(acc, 96)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)), "n"(kMajorA == Major::kMn ? 1 : 0),
        "n"(kMajorB == Major::kMn ? 1 : 0));
}

#undef OT_ACC32
#undef OT_ACC8

}  // namespace omnitrain::cuda
