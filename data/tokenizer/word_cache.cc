#include "data/tokenizer/word_cache.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "core/base/check.h"

namespace omnitrain {
namespace {
constexpr size_t kNumSlots = size_t{1} << 16;
constexpr size_t kProbes = 2;
constexpr size_t kMaxBytes = 25;
constexpr size_t kMaxIds = 8;
enum State : uint8_t { kFree = 0, kBusy, kReady };  // memory from calloc is kFree
}  // namespace

// One cache line.
struct alignas(64) WordCache::Slot {
  uint32_t tag;
  std::atomic<uint8_t> state;
  uint8_t num_bytes;
  uint8_t num_ids;
  char bytes[kMaxBytes];
  int32_t ids[kMaxIds];
};

WordCache::WordCache() {
  static_assert(sizeof(Slot) == 64);
  // The whole table is larger than malloc's mmap threshold: calloc gives untouched zero pages.
  void* memory = std::calloc(kNumSlots + 1, sizeof(Slot));
  if (memory == nullptr) throw std::bad_alloc();
  memory_ = memory;
  size_t space = (kNumSlots + 1) * sizeof(Slot);
  slots_ = static_cast<Slot*>(std::align(alignof(Slot), kNumSlots * sizeof(Slot), memory, space));
  OT_CHECK(slots_ != nullptr);
}

WordCache::~WordCache() { std::free(memory_); }

uint64_t WordCache::Hash(std::string_view word) { return XXH3_64bits(word.data(), word.size()); }

bool WordCache::Find(std::string_view word, uint64_t hash, std::vector<int32_t>* ids) const {
  for (size_t probe = 0; probe < kProbes; ++probe) {
    const Slot& slot = slots_[(hash + probe) % kNumSlots];
    if (slot.state.load(std::memory_order_acquire) != kReady) return false;
    if (slot.tag == static_cast<uint32_t>(hash >> 32) && slot.num_bytes == word.size() &&
        std::memcmp(slot.bytes, word.data(), word.size()) == 0) {
      ids->insert(ids->end(), slot.ids, slot.ids + slot.num_ids);
      return true;
    }
  }
  return false;
}

void WordCache::Insert(std::string_view word, uint64_t hash, const int32_t* ids, size_t num_ids) {
  if (word.size() > kMaxBytes || num_ids > kMaxIds) return;
  for (size_t probe = 0; probe < kProbes; ++probe) {
    Slot& slot = slots_[(hash + probe) % kNumSlots];
    uint8_t expected = kFree;
    if (!slot.state.compare_exchange_strong(expected, kBusy, std::memory_order_relaxed)) continue;
    slot.tag = static_cast<uint32_t>(hash >> 32);
    slot.num_bytes = static_cast<uint8_t>(word.size());
    slot.num_ids = static_cast<uint8_t>(num_ids);
    std::memcpy(slot.bytes, word.data(), word.size());
    std::memcpy(slot.ids, ids, num_ids * sizeof(int32_t));
    slot.state.store(kReady, std::memory_order_release);
    return;
  }
}

}  // namespace omnitrain
