#include "parallel/comm/host_staging.h"

#include <algorithm>
#include <utility>

namespace omnitrain {
namespace {

/// The next of the sizes 4, 5, 6, 7 times a power of two: sizes that change from step to step
/// share blocks, and at most a quarter is wasted.
int64_t RoundUp(int64_t bytes) {
  constexpr int64_t kSmallest = 64 << 10;
  int64_t quarter = kSmallest / 4;
  while (8 * quarter <= bytes) quarter *= 2;
  return std::max(kSmallest, (bytes + quarter - 1) / quarter * quarter);
}

}  // namespace

HostStaging::HostStaging(Device& device)
    : device_(device), out_stream_(device.NewStream()), in_stream_(device.NewStream()) {}

HostStaging::~HostStaging() {
  // Copies under way still use the blocks.
  out_stream_->Synchronize();
  in_stream_->Synchronize();
  for (Block& block : free_) device_.FreeHost(block.data);
}

HostStaging::Block HostStaging::Take(int64_t bytes) {
  const int64_t size = bytes > 0 ? RoundUp(bytes) : 0;
  // Only blocks of this very size: a larger one would soon be missed by a call of its own size.
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->bytes != size || !it->is_in->IsReached()) continue;
    Block block = std::move(*it);
    free_.erase(it);
    return block;
  }
  Block block;
  block.bytes = size;
  if (size > 0) block.data = device_.AllocateHost(static_cast<size_t>(size));
  block.is_ready = device_.NewEvent();
  block.is_out = device_.NewEvent();
  block.is_in = device_.NewEvent();
  return block;
}

void HostStaging::GiveBack(Block block) { free_.push_back(std::move(block)); }

}  // namespace omnitrain
