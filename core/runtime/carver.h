#pragma once

#include <cstddef>

#include "core/tensor/tensor.h"

namespace omnitrain {

/// Cuts tensors from one block, in order, 64-byte aligned. Without a block it only counts, so that
/// one function both measures a layer's activations and lays them out: the plan of a step and its
/// run cannot differ.
class Carver {
 public:
  static constexpr size_t kAlignment = 64;

  /// Counts only: the tensors it gives have no data.
  explicit Carver(DeviceKind device = DeviceKind::kCpu) : device_(device) {}
  Carver(void* block, size_t bytes, DeviceKind device)
      : base_(static_cast<char*>(block)), capacity_(bytes), device_(device) {}

  Tensor Take(DType dtype, Shape shape) {
    const size_t bytes = static_cast<size_t>(shape.num_elements()) * DTypeBytes(dtype);
    const size_t begin = used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (base_ == nullptr) return Tensor(nullptr, dtype, shape, device_);
    OT_CHECK(used_ <= capacity_, "{} bytes of {} planned", used_, capacity_);
    return Tensor(base_ + begin, dtype, shape, device_);
  }
  size_t used() const { return used_; }

 private:
  char* base_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;
  DeviceKind device_;
};

}  // namespace omnitrain
