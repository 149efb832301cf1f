#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/batch/batch.h"
#include "data/batch/sample.h"
#include "data/pack/pack.h"
#include "data/source/mixture.h"
#include "data/source/source.h"

namespace omnitrain {

/// One source of a run.
struct LoaderSource {
  std::shared_ptr<const Source> source;
  double weight = 1.0;               // share of the samples, relative to the others
  std::vector<std::string> prompts;  // user turns of captions; empty: the picture alone
};

struct LoaderOptions {
  uint64_t seed = 0;
  Mixture::Order order = Mixture::Order::kShuffled;
  int64_t first_index = 0;  // the next global sample: the whole state of a run
  int64_t end_index = -1;   // exclusive; -1: no end (kConcatenated: one pass)
  int dp_rank = 0;
  int dp_size = 1;
  int64_t samples_per_step = 0;       // over all ranks; bad ones count, and are not replaced
  int64_t micro_batch_tokens = 4096;  // rows, a multiple of pack.pad_multiple
  TooLongPolicy too_long = TooLongPolicy::kSkip;
  PackOptions pack;                // positions and patch_dim are the encoder's
  double max_bad_fraction = 0.01;  // of the samples seen, once they are kGraceSamples
  int workers = 2;                 // threads
  int prefetch_steps = 2;          // steps that are prepared ahead

  static constexpr int64_t kGraceSamples = 100;
};

/// One step of one rank. Counts are of the step, over all ranks, unless they say otherwise; all
/// ranks have the same ones.
struct StepBatch {
  int64_t first_index = 0;                // global samples [first_index, next_index)
  int64_t next_index = 0;                 // first_index of a loader that goes on behind this step
  std::vector<MicroBatch> micro_batches;  // of this rank; as many on every rank
  /// What the step's loss is divided by, as planned. Labels that are lost when pixels turn out not
  /// to decode are in it: only their owner knows, and it says so in lost_loss_tokens.
  int64_t loss_tokens = 0;
  int64_t text_tokens = 0;    // rows that hold text
  int64_t vision_tokens = 0;  // rows that an encoder fills
  int64_t samples = 0;        // packed
  int64_t bad = 0;            // skipped: broken, as seen by every rank
  int64_t too_long = 0;       // skipped, as max rows and policy say
  int64_t truncated = 0;
  int64_t lost = 0;              // of this rank: samples whose pixels did not decode
  int64_t lost_loss_tokens = 0;  // of this rank: their labels
  double data_wait_ms = 0;       // that Next() waited
  /// Of the sizes, and so of the plan; differs when ranks see different data.
  uint64_t digest = 0;
};

/// Prepares the steps of one rank, ahead of their use, with threads of its own. Which samples a
/// step holds depends on the global order alone; who trains them on the sizes of all samples of the
/// step, which every rank computes itself (tokens and image headers). Pixels are decoded by the
/// owner only. Batches are bitwise the same for any number of workers.
///
/// A sample that is broken, as far as its text and headers tell, is left out by all ranks alike.
/// One whose pixels do not decode stays in place without labels (see DropSample). Both are logged
/// and counted; past max_bad_fraction, or when a step has no usable sample, the job stops.
///
/// Thread safety: Next() by one thread. The destructor waits for the samples in progress.
class Loader {
 public:
  /// Errors: kSpec for options that cannot be; kData for an empty source.
  Loader(LoaderOptions options, std::vector<LoaderSource> sources,
         std::shared_ptr<const SampleEncoder> encoder);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// Steps that are left before the end; -1 without one.
  int64_t steps_left() const;

  /// The next step. Requires: steps_left() != 0. Errors: whatever a worker met, in the order of the
  /// data; kData past max_bad_fraction.
  StepBatch Next();

  /// The first sample of the next step: a loader made with it as first_index gives the same steps.
  int64_t next_index() const;

  const Mixture& mixture() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omnitrain
