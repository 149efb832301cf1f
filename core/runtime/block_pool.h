#pragma once

#include <memory>

#include "core/runtime/device.h"

namespace omnitrain {

/// Memory of a device whose size only the data decide, while a step runs (rows that other ranks
/// send). A block goes back when its last holder lets go of it, and serves the next who fits. The
/// work that used it may still be under way: all holders launch on one stream, so the next use
/// comes after.
/// Not thread safe. Blocks may outlive the pool, not the device.
class BlockPool {
 public:
  using Block = std::shared_ptr<const Buffer>;

  explicit BlockPool(Device& device);

  /// A block of at least `bytes` and at most twice that, 256-byte aligned, its content undefined.
  /// Cost: none once the pool has seen such sizes; before, an allocation of at most 1/8 more than
  /// asked for, in place of the idle block that was a little too small if there is one. Idle blocks
  /// are given up first where the device has too little left.
  Block Take(size_t bytes);
  /// The size of a new block for `bytes`.
  static size_t BlockBytes(size_t bytes);

  Device& device() const;

  /// Gives up the blocks that nobody holds.
  void ReleaseIdle();

  /// Bytes of all blocks, held or idle.
  size_t bytes() const;
  size_t idle_bytes() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// A tensor in a block of its own. Copies share it.
class PooledTensor {
 public:
  PooledTensor() = default;
  PooledTensor(BlockPool& pool, DType dtype, Shape shape)
      : block_(pool.Take(static_cast<size_t>(shape.num_elements()) * DTypeBytes(dtype))),
        tensor_(block_->data(), dtype, shape, pool.device().kind()) {}
  explicit operator bool() const { return block_ != nullptr; }
  const Tensor& operator*() const { return tensor_; }
  const Tensor* operator->() const { return &tensor_; }

 private:
  BlockPool::Block block_;
  Tensor tensor_;
};

}  // namespace omnitrain
