#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/base/json.h"
#include "core/spec/job_spec.h"
#include "core/train/step_executor.h"
#include "data/batch/sample.h"
#include "data/pack/pack.h"
#include "data/source/source.h"
#include "parallel/comm/communicator.h"

namespace omnitrain {

/// Which copy of the LLM a rank is a part of: samples are dealt to replicas, and one rank of each
/// counts.
struct ReplicaSeat {
  int idx = 0, num = 1;
  bool is_counted = true;
};

/// Held-out data: loss, greedy captions, and whether the model sees. Samples are dealt to the
/// replicas in turn; results are whole on every rank.  Collective.
class Evaluator {
 public:
  /// Opens the sources of `spec` and encodes their samples (sizes only); bad ones are counted,
  /// named and left out. Errors: those of the sources.
  Evaluator(const EvalSpec& spec, const SampleEncoder& encoder, const PackOptions& pack,
            int64_t micro_batch_tokens, Communicator& world, const ReplicaSeat& seat);

  /// {loss, loss_tokens, samples, skipped}: mean over the loss tokens of all samples.
  Json Loss(StepExecutor& executor) const;

  // `model`, here and below: a whole one, that this rank can run alone.
  /// [{sample, image, caption, reference}] of the first `spec.captions` samples.
  Json Captions(Context& ctx, const MultimodalModel& model) const;

  /// {pairs, nats_per_byte {own, other, blank}, prefers_own, kind_accuracy {own, blank,
  /// commonest}}; kinds only where asked for. `own` reads each caption with its picture, `other`
  /// with that of another sample whose answer differs (fixed by the seed), `blank` with white.
  /// nats_per_byte: loss of the answer's tokens, its end included, by the bytes of the answer.
  /// prefers_own: share of captions that are likelier with their own picture than with the other.
  Json Sight(Context& ctx, const MultimodalModel& model, StepExecutor& executor) const;

  int64_t num_samples() const { return static_cast<int64_t>(samples_.size()); }

 private:
  struct Sample {
    const Source* source = nullptr;
    int64_t element = 0;
    std::vector<std::string> prompts;
    EncodedSample encoded, question;
    std::string answer;
  };
  enum class Picture { kOwn, kOther, kBlank };

  bool ReadPixels(const EncodedSample& sample, float* out) const;
  void FillBlank(const EncodedSample& sample, float* out) const;
  std::vector<size_t> Dealt(const std::vector<size_t>& all) const;
  double Total(double mine) const;  // over replicas
  std::vector<double> LossPerSample(StepExecutor& executor,
                                    const std::vector<EncodedSample>& samples, size_t total,
                                    Picture picture) const;
  EncodedSample WithPictureOf(size_t sample, size_t other) const;
  double KindAccuracy(Context& ctx, const MultimodalModel& model, const std::vector<size_t>& mine,
                      size_t total, Picture picture) const;

  EvalSpec spec_;
  const SampleEncoder& encoder_;
  PackOptions pack_;
  int64_t micro_batch_tokens_;
  Communicator& world_;
  ReplicaSeat seat_;
  std::vector<std::unique_ptr<Source>> sources_;
  std::vector<Sample> samples_;
  int64_t num_skipped_ = 0;
};

}  // namespace omnitrain
