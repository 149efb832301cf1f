#pragma once

#include <cstdint>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace omnitrain {

/// XXH3, 128 bits, of bytes that come in pieces: finds damage, no protection against intent.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;

  void Add(const void* data, int64_t bytes);
  /// 32 hexadecimal digits, the most significant first.
  std::string Digest() const;

 private:
  XXH3_state_s* state_;
};

std::string HashOf(std::string_view bytes);

}  // namespace omnitrain
