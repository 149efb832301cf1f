#include "core/base/rng.h"

#include <cmath>

#include "core/base/check.h"

namespace omnitrain {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;

std::array<uint32_t, 4> Block(uint64_t seed, uint64_t stream, uint64_t index) {
  return Philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                 static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

uint64_t Join(uint32_t low, uint32_t high) { return (static_cast<uint64_t>(high) << 32) | low; }

double ToUnit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1.0p-53; }

}  // namespace

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kMultiplier0) * c[0];
    const uint64_t p1 = static_cast<uint64_t>(kMultiplier1) * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return c;
}

uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto b = Block(seed, stream, index);
  return Join(b[0], b[1]);
}

double RandomUniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return ToUnit(RandomBits(seed, stream, index));
}

double RandomNormal(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto b = Block(seed, stream, index);
  const double u = 1.0 - ToUnit(Join(b[0], b[1]));  // in (0, 1], so that the logarithm is finite
  const double v = ToUnit(Join(b[2], b[3]));
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * M_PI * v);
}

uint64_t RandomPermute(uint64_t seed, uint64_t stream, uint64_t size, uint64_t position) {
  OT_CHECK(position < size, "position {} of {}", position, size);
  int half_bits = 1;
  while ((uint64_t{1} << (2 * half_bits)) < size) ++half_bits;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  uint64_t x = position;
  do {
    uint64_t left = x >> half_bits, right = x & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t mixed = RandomBits(seed, stream ^ (round << 56), right) & mask;
      const uint64_t next = left ^ mixed;
      left = right;
      right = next;
    }
    x = (left << half_bits) | right;
  } while (x >= size);
  return x;
}

uint64_t StreamId(const char* name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (; *name != 0; ++name) hash = (hash ^ static_cast<unsigned char>(*name)) * 0x100000001b3;
  return hash;
}

}  // namespace omnitrain
