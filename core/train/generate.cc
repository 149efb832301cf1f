#include "core/train/generate.h"

#include <algorithm>

#include "kernels/elementwise/elementwise.h"

namespace omnitrain {
namespace {

// Questions that are decoded together, and what they have grown to.
class Batch {
 public:
  Batch(Context& ctx, const MultimodalModel& model, const PackOptions& pack,
        std::vector<EncodedSample> samples, const PixelReader& read_pixels)
      : ctx_(ctx), model_(model), pack_(pack), samples_(std::move(samples)) {
    for (const EncodedSample& sample : samples_) prompt_rows_.push_back(sample.ids.size());
    Encode(BuildWithPixels(Pointers(), pack_, read_pixels));
  }

  size_t size() const { return samples_.size(); }
  std::vector<int32_t> Answer(size_t i) const {
    return {samples_[i].ids.begin() + static_cast<int64_t>(prompt_rows_[i]), samples_[i].ids.end()};
  }
  void Append(size_t i, int32_t id) {
    samples_[i].ids.push_back(id);
    samples_[i].loss_mask.push_back(0);
  }

  // The most likely next token of each sample.
  std::vector<int32_t> NextTokens() {
    // Pixels were encoded already; only rows matter now.
    const MicroBatch batch = BuildMicroBatch(Pointers(), pack_);
    Carver count(ctx_.device().kind());
    model_.llm().Carve(count, batch, 0, LossMode::kNone);
    if (count.used() > memory_.bytes()) {
      memory_ = Buffer();
      memory_ = Buffer(ctx_.device(), count.used());
    }
    Carver carver(memory_.data(), memory_.bytes(), ctx_.device().kind());
    LlmActivations acts = model_.llm().Carve(carver, batch, 0, LossMode::kNone);
    model_.llm().Upload(ctx_, batch, &acts);
    model_.llm().Forward(ctx_, acts, features_, LossMode::kNone, Tensor());
    const int64_t V = model_.config().text.vocab_size;
    const OwnedTensor logits(ctx_.device(), model_.params().dtype(), {1, V});
    const OwnedTensor wide(ctx_.device(), DType::kF32, {1, V});
    std::vector<float> host(static_cast<size_t>(V));
    std::vector<int32_t> next;
    for (size_t i = 0; i < samples_.size(); ++i) {
      model_.llm().Logits(ctx_, acts, batch.cu_seqlens[i + 1] - 1, *logits);
      Cast(ctx_, *logits, *wide);
      ctx_.device().Copy(host.data(), wide->data, host.size() * sizeof(float), ctx_.stream());
      ctx_.stream().Synchronize();
      next.push_back(
          static_cast<int32_t>(std::max_element(host.begin(), host.end()) - host.begin()));
    }
    return next;
  }

 private:
  std::vector<const EncodedSample*> Pointers() const {
    std::vector<const EncodedSample*> pointers;
    for (const EncodedSample& sample : samples_) pointers.push_back(&sample);
    return pointers;
  }

  void Encode(const MicroBatch& batch) {
    Carver count(ctx_.device().kind());
    model_.vision().Carve(count, batch.items);
    const Buffer memory(ctx_.device(), count.used());
    Carver carver(memory.data(), memory.bytes(), ctx_.device().kind());
    VisionActivations acts = model_.vision().Carve(carver, batch.items);
    for (int k = 0; k < model_.vision().num_features(); ++k) {
      feature_memory_.emplace_back(
          ctx_.device(), model_.params().dtype(),
          Shape{batch.items.num_merged_rows(), model_.config().vision.out_width});
      features_.push_back(*feature_memory_.back());
    }
    model_.vision().Upload(ctx_, batch.items, &acts);
    model_.vision().Forward(ctx_, acts, features_);
    ctx_.stream().Synchronize();
  }

  Context& ctx_;
  const MultimodalModel& model_;
  const PackOptions& pack_;
  std::vector<EncodedSample> samples_;
  std::vector<size_t> prompt_rows_;
  std::vector<OwnedTensor> feature_memory_;
  std::vector<Tensor> features_;
  Buffer memory_;
};

}  // namespace

MicroBatch BuildWithPixels(const std::vector<const EncodedSample*>& samples,
                           const PackOptions& pack, const PixelReader& read_pixels) {
  MicroBatch batch = BuildMicroBatch(samples, pack);
  int64_t first = 0;
  for (size_t s = 0; s < samples.size(); ++s) {
    const int64_t count = samples[s]->num_patches();
    if (count > 0) {
      if (read_pixels(*samples[s], batch.items.patches.data() + first * pack.patch_dim)) {
        OrderPatches(first, count, &batch.items);
      } else {
        DropSample(&batch, s, first, count);
      }
    }
    first += count;
  }
  return batch;
}

std::vector<std::string> GenerateGreedy(Context& ctx, const MultimodalModel& model,
                                        const Tokenizer& tokenizer, const PackOptions& pack,
                                        const std::vector<EncodedSample>& questions,
                                        const PixelReader& read_pixels,
                                        const GenerateOptions& options) {
  std::vector<std::string> answers;
  for (size_t begin = 0; begin < questions.size();) {
    size_t end = begin;
    for (int64_t rows = 0; end < questions.size(); ++end) {
      rows += questions[end].num_rows() + options.max_new_tokens;
      if (rows > options.max_rows && end > begin) break;
    }
    Batch batch(ctx, model, pack, {questions.begin() + begin, questions.begin() + end},
                read_pixels);
    std::vector<bool> is_done(batch.size(), false);
    for (int n = 0; n < options.max_new_tokens; ++n) {
      if (std::all_of(is_done.begin(), is_done.end(), [](bool done) { return done; })) break;
      const std::vector<int32_t> next = batch.NextTokens();
      for (size_t i = 0; i < next.size(); ++i) {
        if (is_done[i]) continue;
        const auto& stops = options.stop_ids;
        is_done[i] = std::find(stops.begin(), stops.end(), next[i]) != stops.end();
        if (is_done[i]) continue;
        batch.Append(i, next[i]);
        is_done[i] = !options.stop_text.empty() &&
                     tokenizer.Decode(batch.Answer(i)).find(options.stop_text) != std::string::npos;
      }
    }
    for (size_t i = 0; i < batch.size(); ++i) {
      answers.push_back(tokenizer.Decode(batch.Answer(i), /*skip_special=*/true));
    }
    begin = end;
  }
  return answers;
}

}  // namespace omnitrain
