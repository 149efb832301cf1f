#pragma once

#include <memory>

#include "core/runtime/device.h"

namespace omnitrain::cuda {

// What device.h gives out, in a build with CUDA.

int NumDevices();
std::unique_ptr<Device> NewDevice(int index);

}  // namespace omnitrain::cuda
