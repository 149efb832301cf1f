#include "core/runtime/device.h"

#include <utility>

#include "core/runtime/device_cuda.h"
#include "core/runtime/has_cuda.h"

namespace omnitrain {

int NumCudaDevices() {
  if constexpr (kHasCuda) return cuda::NumDevices();
  return 0;
}

std::unique_ptr<Device> NewCudaDevice(int index) {
  if constexpr (kHasCuda) return cuda::NewDevice(index);
  Fail(ErrorCode::kSpec, "runtime.device: cuda: this omnitrain was built without a CUDA toolkit");
}

Buffer& Buffer::operator=(Buffer&& o) noexcept {
  std::swap(device_, o.device_);
  std::swap(data_, o.data_);
  std::swap(bytes_, o.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) device_->Free(data_);
}

}  // namespace omnitrain
