#include "data/loader/loader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

#include "core/base/check.h"
#include "core/base/log.h"
#include "data/loader/worker_pool.h"
#include "data/pack/plan.h"

namespace omnitrain {
namespace {

enum class Fate : uint8_t { kUsed, kTruncated, kBad, kTooLong };

// What became of one sample in phase one.
struct Slot {
  Fate fate = Fate::kUsed;
  std::string reason;  // of kBad
  EncodedSample sample;
};

// A sample of this rank in its micro_batch.
struct Owned {
  size_t slot, micro_batch, place;  // place: in the micro_batch
  int64_t first_patch;
  std::string error;       // why its pixels are lost
  int64_t num_labels = 0;  // that were lost with it
};

// A step in preparation. Tasks write their own slot or owned entry; the last task of a phase, which
// sees the counter fall to zero, goes on with the whole.
struct Step {
  int64_t number = 0;  // since the start of this loader
  std::vector<Slot> slots;
  std::vector<Owned> owned;
  StepBatch batch;
  std::atomic<int64_t> num_open{0};
  std::mutex mutex;  // of what follows
  std::condition_variable done;
  bool is_done = false;
  size_t error_at = SIZE_MAX;  // the slot with the earliest error, for the same error on every run
  std::exception_ptr error;

  void Fail(size_t at, std::exception_ptr what) {
    std::lock_guard<std::mutex> lock(mutex);
    if (at <= error_at) {
      error_at = at;
      error = std::move(what);
    }
  }
  void Finish() {
    std::lock_guard<std::mutex> lock(mutex);
    is_done = true;
    done.notify_all();
  }
};

void Mix(uint64_t* digest, uint64_t value) {
  for (int byte = 0; byte < 8; ++byte, value >>= 8) {
    *digest = (*digest ^ (value & 0xFF)) * 0x100000001b3;  // FNV-1a
  }
}

}  // namespace

class Loader::Impl {
 public:
  Impl(LoaderOptions options, std::vector<LoaderSource> sources,
       std::shared_ptr<const SampleEncoder> encoder)
      : options_(options),
        sources_(std::move(sources)),
        encoder_(std::move(encoder)),
        mixture_(options.seed, PartsOf(sources_), options.order) {
    OT_REQUIRE(options_.samples_per_step > 0, ErrorCode::kSpec, "batch.samples: {} is not positive",
               options_.samples_per_step);
    OT_REQUIRE(options_.micro_batch_tokens > 0 &&
                   options_.micro_batch_tokens % options_.pack.pad_multiple == 0,
               ErrorCode::kSpec, "batch.micro_batch_tokens: {} is not a positive multiple of {}",
               options_.micro_batch_tokens, options_.pack.pad_multiple);
    OT_REQUIRE(options_.workers > 0, ErrorCode::kSpec, "data.workers: {} is not positive",
               options_.workers);
    OT_REQUIRE(options_.prefetch_steps >= 0, ErrorCode::kSpec,
               "data.prefetch_steps: {} is negative", options_.prefetch_steps);
    OT_CHECK(options_.dp_rank >= 0 && options_.dp_rank < options_.dp_size, "rank {} of {}",
             options_.dp_rank, options_.dp_size);
    if (options_.end_index < 0 && options_.order == Mixture::Order::kConcatenated) {
      options_.end_index = mixture_.num_elements();
    }
    next_index_ = start_index_ = options_.first_index;
    options_.pack.positions = encoder_->options().positions;
    options_.pack.patch_dim = encoder_->options().image.patch_dim();
    pool_ = std::make_unique<WorkerPool>(options_.workers);
    for (int i = 0; i <= options_.prefetch_steps; ++i) StartStep();
  }

  int64_t steps_left() const {
    if (options_.end_index < 0) return -1;
    const int64_t left = std::max<int64_t>(0, options_.end_index - next_index_);
    return (left + options_.samples_per_step - 1) / options_.samples_per_step;
  }

  int64_t next_index() const { return next_index_; }
  const Mixture& mixture() const { return mixture_; }

  StepBatch Next() {
    OT_CHECK(!steps_.empty(), "no step is left: the data ends at sample {}", options_.end_index);
    const auto begin = std::chrono::steady_clock::now();
    const std::shared_ptr<Step> step = steps_.front();
    {
      std::unique_lock<std::mutex> lock(step->mutex);
      step->done.wait(lock, [&] { return step->is_done; });
    }
    const std::chrono::duration<double, std::milli> waited =
        std::chrono::steady_clock::now() - begin;
    if (step->error) std::rethrow_exception(step->error);
    Account(*step);
    steps_.pop_front();
    next_index_ = step->batch.next_index;
    StartStep();
    step->batch.data_wait_ms = waited.count();
    return std::move(step->batch);
  }

 private:
  static std::vector<Mixture::Part> PartsOf(const std::vector<LoaderSource>& sources) {
    std::vector<Mixture::Part> parts;
    for (const LoaderSource& source : sources) {
      parts.push_back({source.source->size(), source.weight});
    }
    return parts;
  }

  void StartStep() {
    const bool is_over = options_.end_index >= 0 && start_index_ >= options_.end_index;
    if (is_over) return;
    auto step = std::make_shared<Step>();
    step->number = num_started_++;
    step->batch.first_index = start_index_;
    start_index_ += options_.samples_per_step;
    if (options_.end_index >= 0) start_index_ = std::min(start_index_, options_.end_index);
    step->batch.next_index = start_index_;
    step->slots.resize(static_cast<size_t>(start_index_ - step->batch.first_index));
    step->num_open = static_cast<int64_t>(step->slots.size());
    steps_.push_back(step);
    for (size_t i = 0; i < step->slots.size(); ++i) {
      pool_->Submit(step->number, [this, step, i] {
        EncodeSlot(step.get(), i);
        if (--step->num_open == 0) PlanStep(step);
      });
    }
  }

  void EncodeSlot(Step* step, size_t i) {
    Slot& slot = step->slots[i];
    const int64_t index = step->batch.first_index + static_cast<int64_t>(i);
    slot.sample.index = index;
    try {
      const Mixture::Position at = mixture_.At(index);
      const LoaderSource& from = sources_[static_cast<size_t>(at.source)];
      slot.sample.key = fmt::format("{}[{}]", from.source->name(), at.element);
      const RawSample raw = from.source->Read(at.element);
      slot.sample = encoder_->Encode(raw, index, from.prompts);
      const int64_t rows = slot.sample.num_rows();
      if (!FitSample(&slot.sample, options_.micro_batch_tokens, options_.too_long)) {
        slot.fate = Fate::kTooLong;
      } else if (slot.sample.num_rows() < rows) {
        slot.fate = Fate::kTruncated;
      }
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kData) return step->Fail(i, std::current_exception());
      slot.fate = Fate::kBad;
      slot.reason = e.what();
    } catch (...) {
      step->Fail(i, std::current_exception());
    }
  }

  // Runs once all sizes of the step are known.
  void PlanStep(const std::shared_ptr<Step>& step) {
    try {
      if (!step->error) LayOut(step.get());
    } catch (...) {
      step->Fail(0, std::current_exception());
    }
    step->num_open = static_cast<int64_t>(step->owned.size());
    if (step->error || step->owned.empty()) {
      return step->Finish();
    }
    for (size_t i = 0; i < step->owned.size(); ++i) {
      pool_->Submit(step->number, [this, step, i] {
        DecodeOwned(step.get(), i);
        if (--step->num_open == 0) step->Finish();
      });
    }
  }

  void LayOut(Step* step) {
    StepBatch& batch = step->batch;
    std::vector<SampleSize> sizes;
    std::vector<size_t> slots;  // of each size
    batch.digest = 0xcbf29ce484222325;
    for (size_t i = 0; i < step->slots.size(); ++i) {
      const Slot& slot = step->slots[i];
      Mix(&batch.digest, static_cast<uint64_t>(slot.fate));
      batch.bad += slot.fate == Fate::kBad ? 1 : 0;
      batch.too_long += slot.fate == Fate::kTooLong ? 1 : 0;
      batch.truncated += slot.fate == Fate::kTruncated ? 1 : 0;
      if (slot.fate == Fate::kBad || slot.fate == Fate::kTooLong) continue;
      const EncodedSample& sample = slot.sample;
      // Rows and patches as the unit of work: projections outweigh attention at common lengths.
      sizes.push_back({sample.num_rows(), sample.num_rows() + sample.num_patches()});
      slots.push_back(i);
      batch.loss_tokens += sample.num_loss_tokens();
      batch.vision_tokens += sample.num_vision_rows();
      batch.text_tokens += sample.num_rows() - sample.num_vision_rows();
      Mix(&batch.digest, static_cast<uint64_t>(sample.num_rows()));
      Mix(&batch.digest, static_cast<uint64_t>(sample.num_patches()));
      Mix(&batch.digest, static_cast<uint64_t>(sample.num_loss_tokens()));
    }
    batch.samples = static_cast<int64_t>(sizes.size());
    const PackPlan plan = PlanPacking(sizes, options_.dp_size, options_.micro_batch_tokens);
    for (const auto& members : plan.samples[static_cast<size_t>(options_.dp_rank)]) {
      std::vector<const EncodedSample*> samples;
      int64_t first_patch = 0;
      for (const int32_t member : members) {
        const size_t slot = slots[static_cast<size_t>(member)];
        const EncodedSample& sample = step->slots[slot].sample;
        if (sample.num_patches() > 0) {
          step->owned.push_back(
              {slot, batch.micro_batches.size(), samples.size(), first_patch, "", 0});
        }
        first_patch += sample.num_patches();
        samples.push_back(&sample);
      }
      batch.micro_batches.push_back(BuildMicroBatch(samples, options_.pack));
    }
  }

  void DecodeOwned(Step* step, size_t i) {
    Owned& owned = step->owned[i];
    const EncodedSample& sample = step->slots[owned.slot].sample;
    MicroBatch& batch = step->batch.micro_batches[owned.micro_batch];
    try {
      encoder_->DecodePixels(
          sample, batch.items.patches.data() + owned.first_patch * options_.pack.patch_dim);
      OrderPatches(owned.first_patch, sample.num_patches(), &batch.items);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kData) return step->Fail(owned.slot, std::current_exception());
      owned.error = e.what();
      owned.num_labels = DropSample(&batch, owned.place, owned.first_patch, sample.num_patches());
    } catch (...) {
      step->Fail(owned.slot, std::current_exception());
    }
  }

  // Counts and names what was left out, in the order of the data; stops the job when it is too
  // much.
  void Account(Step& step) {
    StepBatch& batch = step.batch;
    // All ranks see these; one speaks.
    for (const Slot& slot : step.slots) {
      if (slot.fate == Fate::kBad) last_bad_ = slot.reason;
      if (options_.dp_rank != 0 || slot.fate == Fate::kUsed) continue;
      if (slot.fate == Fate::kBad) {
        Log("data", "sample {} skipped: {}", slot.sample.index, slot.reason);
      } else {
        const char* what = slot.fate == Fate::kTruncated ? "truncated" : "skipped";
        Log("data", "sample {} {}: {}: longer than batch.micro_batch_tokens = {}",
            slot.sample.index, what, slot.sample.key, options_.micro_batch_tokens);
      }
    }
    for (const Owned& owned : step.owned) {
      if (owned.error.empty()) continue;
      last_bad_ = owned.error;
      ++batch.lost;
      batch.lost_loss_tokens += owned.num_labels;
      Log("data", "sample {} lost: {}", step.slots[owned.slot].sample.index, owned.error);
    }
    num_seen_ += static_cast<int64_t>(step.slots.size());
    num_bad_ += batch.bad + batch.lost;
    const bool is_beyond =
        num_seen_ >= LoaderOptions::kGraceSamples &&
        static_cast<double>(num_bad_) > options_.max_bad_fraction * static_cast<double>(num_seen_);
    OT_REQUIRE(!is_beyond, ErrorCode::kData,
               "{} of {} samples are bad, more than data.max_bad_fraction = {}; such as: {}",
               num_bad_, num_seen_, options_.max_bad_fraction, last_bad_);
    OT_REQUIRE(batch.samples > 0, ErrorCode::kData,
               "none of samples {} to {} can be used: {} bad, {} longer than "
               "batch.micro_batch_tokens = {}; such as: {}",
               batch.first_index, batch.next_index - 1, batch.bad, batch.too_long,
               options_.micro_batch_tokens, batch.bad > 0 ? last_bad_ : step.slots[0].sample.key);
  }

  LoaderOptions options_;
  std::vector<LoaderSource> sources_;
  std::shared_ptr<const SampleEncoder> encoder_;
  Mixture mixture_;
  std::deque<std::shared_ptr<Step>> steps_;  // started, in order
  int64_t num_started_ = 0;
  int64_t start_index_ = 0;  // of the next step to start
  int64_t next_index_ = 0;   // of the next step to hand out
  int64_t num_seen_ = 0;
  int64_t num_bad_ = 0;
  std::string last_bad_;              // why the latest one was
  std::unique_ptr<WorkerPool> pool_;  // last: its threads use the rest until they are joined
};

Loader::Loader(LoaderOptions options, std::vector<LoaderSource> sources,
               std::shared_ptr<const SampleEncoder> encoder)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(sources), std::move(encoder))) {}

Loader::~Loader() = default;

int64_t Loader::steps_left() const { return impl_->steps_left(); }
StepBatch Loader::Next() { return impl_->Next(); }
int64_t Loader::next_index() const { return impl_->next_index(); }
const Mixture& Loader::mixture() const { return impl_->mixture(); }

}  // namespace omnitrain
