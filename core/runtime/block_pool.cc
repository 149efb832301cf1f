#include "core/runtime/block_pool.h"

#include <algorithm>
#include <iterator>
#include <map>

namespace omnitrain {
namespace {

constexpr size_t kSmallest = 4096;

/// Up to the next eighth of a power of two, so that sizes that differ little from one micro-batch
/// to the next share blocks.
size_t SizeClass(size_t bytes) {
  size_t power = kSmallest;
  while (power * 2 <= bytes) power *= 2;
  const size_t step = power / 8;
  return std::max(kSmallest, (bytes + step - 1) / step * step);
}

}  // namespace

struct BlockPool::State {
  Device* device = nullptr;
  std::multimap<size_t, std::unique_ptr<Buffer>> idle;
  size_t bytes = 0, idle_bytes = 0;

  std::unique_ptr<Buffer> TakeIdle(std::multimap<size_t, std::unique_ptr<Buffer>>::iterator at) {
    std::unique_ptr<Buffer> buffer = std::move(at->second);
    idle_bytes -= at->first;
    idle.erase(at);
    return buffer;
  }

  void ReleaseIdle() {
    idle.clear();
    bytes -= idle_bytes;
    idle_bytes = 0;
  }
};

BlockPool::BlockPool(Device& device) : state_(std::make_shared<State>()) {
  state_->device = &device;
}

BlockPool::Block BlockPool::Take(size_t bytes) {
  State& state = *state_;
  const size_t size = SizeClass(bytes);
  std::unique_ptr<Buffer> buffer;
  const auto found = state.idle.lower_bound(size);
  if (found != state.idle.end() && found->first <= 2 * std::max(bytes, kSmallest)) {
    buffer = state.TakeIdle(found);
  } else {
    // Sizes that waver about the border of a class would otherwise fill the pool with both.
    if (found != state.idle.begin() && std::prev(found)->first >= size / 2) {
      state.bytes -= state.TakeIdle(std::prev(found))->bytes();
    }
    if (state.idle_bytes > 0 && state.device->available_bytes() < size) state.ReleaseIdle();
    buffer = std::make_unique<Buffer>(*state.device, size);
    state.bytes += size;
  }
  const std::weak_ptr<State> home = state_;
  return Block(buffer.release(), [home](const Buffer* block) {
    std::unique_ptr<Buffer> back(const_cast<Buffer*>(block));
    if (const auto pool = home.lock()) {
      const size_t back_bytes = back->bytes();
      pool->idle.emplace(back_bytes, std::move(back));
      pool->idle_bytes += back_bytes;
    }
  });
}

size_t BlockPool::BlockBytes(size_t bytes) { return SizeClass(bytes); }
Device& BlockPool::device() const { return *state_->device; }
void BlockPool::ReleaseIdle() { state_->ReleaseIdle(); }
size_t BlockPool::bytes() const { return state_->bytes; }
size_t BlockPool::idle_bytes() const { return state_->idle_bytes; }

}  // namespace omnitrain
