#include "core/runtime/context.h"

namespace omnitrain {

void* Context::Scratch(size_t bytes) {
  if (bytes > scratch_.bytes()) {
    // Work in flight may still use the old block.
    stream_.Synchronize();
    scratch_ = Buffer();
    scratch_ = Buffer(device_, bytes);
  }
  return scratch_.data();
}

}  // namespace omnitrain
