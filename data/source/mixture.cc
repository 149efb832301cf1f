#include "data/source/mixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "core/base/check.h"
#include "core/base/rng.h"

namespace omnitrain {
namespace {

constexpr int64_t kMaxPeriod = 10'000;

// Slots per source: the smallest cycle that holds the weights exactly, else the largest one, with
// largest remainders and at least one slot each.
std::vector<int64_t> SlotsOf(const std::vector<double>& shares) {
  std::vector<int64_t> slots(shares.size());
  for (int64_t period = 1; period <= kMaxPeriod; ++period) {
    bool exact = true;
    for (size_t i = 0; i < shares.size() && exact; ++i) {
      const double want = shares[i] * static_cast<double>(period);
      slots[i] = std::llround(want);
      exact = slots[i] > 0 && std::fabs(want - static_cast<double>(slots[i])) <= 1e-9 * want;
    }
    if (exact) return slots;
  }
  int64_t left = kMaxPeriod;
  std::vector<std::pair<double, size_t>> remainders;
  for (size_t i = 0; i < shares.size(); ++i) {
    const double want = shares[i] * static_cast<double>(kMaxPeriod);
    slots[i] = std::max<int64_t>(1, static_cast<int64_t>(want));
    left -= slots[i];
    remainders.emplace_back(static_cast<double>(slots[i]) - want, i);
  }
  std::sort(remainders.begin(), remainders.end());
  for (size_t k = 0; left > 0; ++k, --left) ++slots[remainders[k % remainders.size()].second];
  return slots;
}

}  // namespace

Mixture::Mixture(uint64_t seed, const std::vector<Part>& parts, Order order)
    : seed_(seed), order_(order) {
  OT_REQUIRE(!parts.empty(), ErrorCode::kSpec, "data.sources: there is no source");
  double total = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    OT_REQUIRE(parts[i].size > 0, ErrorCode::kData, "data.sources[{}]: has no samples", i);
    OT_REQUIRE(parts[i].weight > 0 && std::isfinite(parts[i].weight), ErrorCode::kSpec,
               "data.sources[{}].weight: {} is not a positive number", i, parts[i].weight);
    sizes_.push_back(parts[i].size);
    ends_.push_back(parts[i].size + (ends_.empty() ? 0 : ends_.back()));
    total += parts[i].weight;
  }
  std::vector<double> shares;
  for (const Part& part : parts) shares.push_back(part.weight / total);
  slots_ = SlotsOf(shares);

  std::vector<std::tuple<double, int32_t, int32_t>> places;
  for (size_t s = 0; s < slots_.size(); ++s) {
    for (int64_t k = 0; k < slots_[s]; ++k) {
      places.emplace_back((static_cast<double>(k) + 0.5) / static_cast<double>(slots_[s]),
                          static_cast<int32_t>(s), static_cast<int32_t>(k));
    }
  }
  std::sort(places.begin(), places.end());
  for (const auto& [place, source, nth] : places) cycle_.push_back({source, nth});
}

Mixture::Position Mixture::At(int64_t g) const {
  OT_CHECK(g >= 0, "global index {}", g);
  Position at;
  if (order_ == Order::kConcatenated) {
    const int64_t offset = g % num_elements();
    at.epoch = g / num_elements();
    at.source =
        static_cast<int>(std::upper_bound(ends_.begin(), ends_.end(), offset) - ends_.begin());
    at.element = offset - (at.source == 0 ? 0 : ends_[static_cast<size_t>(at.source) - 1]);
    return at;
  }
  const Slot slot = cycle_[static_cast<size_t>(g % period())];
  const auto s = static_cast<size_t>(slot.source);
  const int64_t drawn = g / period() * slots_[s] + slot.nth;
  at.source = slot.source;
  at.epoch = drawn / sizes_[s];
  at.element = drawn % sizes_[s];
  if (order_ == Order::kShuffled) {
    // The permutation mixes the top byte of the stream itself, so the rest has to differ.
    static const uint64_t kOrder = StreamId("data.order");
    const uint64_t stream =
        RandomBits(kOrder, static_cast<uint64_t>(slot.source), static_cast<uint64_t>(at.epoch)) >>
        8;
    at.element = static_cast<int64_t>(RandomPermute(seed_, stream, static_cast<uint64_t>(sizes_[s]),
                                                    static_cast<uint64_t>(at.element)));
  }
  return at;
}

}  // namespace omnitrain
