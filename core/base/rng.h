#pragma once

#include <array>
#include <cstdint>

namespace omnitrain {

/// Counter-based random numbers: a value is a pure function of (key, counter), so that it depends
/// on the seed, the step and the global index of a sample, never on a rank, a thread or the order
/// of calls. Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
/// Philox4x32-10.
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// One 64-bit value for (seed, stream, index).
uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t index);

/// Uniform in [0, 1), 53 bits.
double RandomUniform(uint64_t seed, uint64_t stream, uint64_t index);

/// Standard normal (Box-Muller on one Philox block).
double RandomNormal(uint64_t seed, uint64_t stream, uint64_t index);

/// A bijection of [0, size) for (seed, stream): position -> element of a shuffle that needs no
/// table. Feistel network with cycle walking; cost O(1) expected per call.
uint64_t RandomPermute(uint64_t seed, uint64_t stream, uint64_t size, uint64_t position);

/// A stable 64-bit stream id of a name (FNV-1a).
uint64_t StreamId(const char* name);

}  // namespace omnitrain
