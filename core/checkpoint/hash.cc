#include "core/checkpoint/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include "core/base/check.h"

namespace omnitrain {

Hasher::Hasher() : state_(XXH3_createState()) {
  OT_CHECK(state_ != nullptr, "out of memory");
  XXH3_128bits_reset(state_);
}

Hasher::~Hasher() { XXH3_freeState(state_); }

void Hasher::Add(const void* data, int64_t bytes) {
  XXH3_128bits_update(state_, data, static_cast<size_t>(bytes));
}

std::string Hasher::Digest() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string HashOf(std::string_view bytes) {
  Hasher hasher;
  hasher.Add(bytes.data(), static_cast<int64_t>(bytes.size()));
  return hasher.Digest();
}

}  // namespace omnitrain
