#pragma once

#include <cstdint>
#include <vector>

namespace omnitrain {

/// What packing knows of a sample.
struct SampleSize {
  int64_t rows = 0;  // of the LLM's sequence
  int64_t cost = 0;  // work, in any unit that is the same for all samples of the step
};

/// Which rank trains which samples of a step, in which micro_batches. Samples are named by their
/// place in the list of sizes. All ranks have the same number of micro_batches; some may be empty.
struct PackPlan {
  std::vector<std::vector<std::vector<int32_t>>> samples;  // [dp rank][micro_batch][sample]

  int64_t num_micro_batches() const {
    return samples.empty() ? 0 : static_cast<int64_t>(samples[0].size());
  }
};

/// Distributes samples over data-parallel ranks (largest cost first to the rank with the least) and
/// packs each rank's samples into micro_batches of at most `max_rows` rows (longest first into the
/// first that has room). Within a micro_batch, samples keep the order of the list. A pure function
/// of its arguments: every rank computes the same plan. Requires: 0 < rows <= max_rows.
/// Cost: O(n log n + n * micro_batches). Source: Graham 1969 (LPT); Johnson 1974 (first fit
/// decreasing: at most 11/9 of the optimum + 6/9).
PackPlan PlanPacking(const std::vector<SampleSize>& sizes, int dp_size, int64_t max_rows);

}  // namespace omnitrain
