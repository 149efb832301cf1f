#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace omnitrain {

/// The order of the data: which element of which source is the global sample g. A pure function of
/// (seed, sizes, weights, g), so that one integer, the next g, is the whole state of a run, on any
/// number of ranks and threads.
///
/// Sources are interleaved by a fixed cycle that holds each in exact proportion to its weight,
/// evenly spread (the k-th of c slots of a source lies at (k + 1/2) / c of the cycle). Inside a
/// source, every element comes once an epoch; each epoch has a shuffle of its own. Epochs are a
/// source's own: a source with little weight lags behind.
class Mixture {
 public:
  enum class Order {
    kShuffled,
    kSequential,    // as above, elements as stored
    kConcatenated,  // for evaluation: source after source, elements as stored; weights do not count
  };

  struct Part {
    int64_t size = 0;     // elements
    double weight = 1.0;  // share of the samples, relative to the other parts
  };

  struct Position {
    int source = 0;
    int64_t element = 0;  // of the source
    int64_t epoch = 0;    // of the source
  };

  /// Errors: kSpec for a weight that is not positive and finite, kData for an empty source.
  /// Weights whose smallest common period is above 10,000 are rounded to shares of 1 / 10,000.
  Mixture(uint64_t seed, const std::vector<Part>& parts, Order order = Order::kShuffled);

  /// Requires: g >= 0. Cost: O(1).
  Position At(int64_t g) const;

  /// Elements of all sources: one pass when they are concatenated.
  int64_t num_elements() const { return ends_.back(); }

  /// Samples of one cycle, and how many of them each source gives.
  int64_t period() const { return static_cast<int64_t>(cycle_.size()); }
  int64_t slots(int source) const { return slots_[static_cast<size_t>(source)]; }

 private:
  struct Slot {
    int32_t source;
    int32_t nth;  // of the source's slots in the cycle
  };

  uint64_t seed_;
  Order order_;
  std::vector<int64_t> sizes_;
  std::vector<int64_t> ends_;  // elements up to and including each source
  std::vector<int64_t> slots_;
  std::vector<Slot> cycle_;
};

}  // namespace omnitrain
