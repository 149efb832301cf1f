#include "core/train/evaluate.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "core/base/log.h"
#include "core/base/rng.h"
#include "core/train/generate.h"
#include "data/pack/plan.h"

namespace omnitrain {
namespace {

constexpr int kKindTokens = 12;  // longest answer that is waited for its colon

SourceKind KindOf(SourceFormat format) {
  switch (format) {
    case SourceFormat::kWebDataset:
      return SourceKind::kWebDataset;
    case SourceFormat::kMessages:
      return SourceKind::kMessages;
    case SourceFormat::kAuto:
      return SourceKind::kAuto;
  }
  return SourceKind::kAuto;
}

// "Animals" of "Animals: A cow."; the whole where there is no colon.
std::string KindOfAnswer(const std::string& answer) { return answer.substr(0, answer.find(':')); }

std::vector<int32_t> StopIds(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (const char* token : {"<|im_end|>", "<|endoftext|>", "<|im_start|>"}) {
    if (const auto id = tokenizer.TokenId(token)) ids.push_back(*id);
  }
  return ids;
}

}  // namespace

Evaluator::Evaluator(const EvalSpec& spec, const SampleEncoder& encoder, const PackOptions& pack,
                     int64_t micro_batch_tokens, Communicator& world, const ReplicaSeat& seat)
    : spec_(spec),
      encoder_(encoder),
      pack_(pack),
      micro_batch_tokens_(micro_batch_tokens),
      world_(world),
      seat_(seat) {
  for (const DataSource& source : spec.sources) {
    sources_.push_back(OpenSource(source.path, KindOf(source.format)));
    const Source& opened = *sources_.back();
    for (int64_t i = 0; i < opened.size(); ++i) {
      if (spec.samples > 0 && num_samples() >= spec.samples) break;
      try {
        Sample sample;
        sample.source = &opened;
        sample.element = i;
        sample.prompts = source.prompts;
        const RawSample raw = opened.Read(i);
        sample.encoded = encoder.Encode(raw, num_samples(), source.prompts);
        sample.question =
            encoder.EncodeQuestion(raw, num_samples(), source.prompts, &sample.answer);
        OT_REQUIRE(sample.encoded.num_rows() <= micro_batch_tokens, ErrorCode::kData,
                   "{}: {} rows, batch.micro_batch_tokens is {}", raw.key,
                   sample.encoded.num_rows(), micro_batch_tokens);
        samples_.push_back(std::move(sample));
      } catch (const Error& e) {
        if (e.code() != ErrorCode::kData) throw;
        ++num_skipped_;
        if (world.rank() == 0) Log("data", "evaluation sample skipped: {}", e.what());
      }
    }
  }
  OT_REQUIRE(spec.sources.empty() || !samples_.empty(), ErrorCode::kData,
             "eval.sources: no usable sample in {}", spec.sources.front().path);
}

bool Evaluator::ReadPixels(const EncodedSample& sample, float* out) const {
  try {
    encoder_.DecodePixels(sample, out);
    return true;
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kData) throw;
    Log("data", "evaluation sample without its picture: {}", e.what());
    return false;
  }
}

void Evaluator::FillBlank(const EncodedSample& sample, float* out) const {
  const ImageProcessorConfig& image = encoder_.options().image;
  const int64_t plane = image.patch_dim() / 3;
  for (int64_t p = 0; p < sample.num_patches(); ++p) {
    for (size_t c = 0; c < 3; ++c) {
      const float white = (1.0f - image.mean[c]) / image.std[c];
      std::fill_n(out, plane, white);
      out += plane;
    }
  }
}

std::vector<size_t> Evaluator::Dealt(const std::vector<size_t>& all) const {
  std::vector<size_t> mine;
  for (size_t i = static_cast<size_t>(seat_.idx); i < all.size();
       i += static_cast<size_t>(seat_.num)) {
    mine.push_back(all[i]);
  }
  return mine;
}

double Evaluator::Total(double mine) const {
  return world_.AllReduceScalar(seat_.is_counted ? mine : 0.0, ReduceOp::kSum);
}

Json Evaluator::Loss(StepExecutor& executor) const {
  std::vector<SampleSize> sizes;
  for (const Sample& sample : samples_) {
    sizes.push_back({sample.encoded.num_rows(), sample.encoded.num_rows()});
  }
  const PackPlan plan = PlanPacking(sizes, seat_.num, micro_batch_tokens_);
  std::vector<MicroBatch> batches;
  double tokens = 0, sum = 0;
  for (const auto& members : plan.samples[static_cast<size_t>(seat_.idx)]) {
    std::vector<const EncodedSample*> pointers;
    for (int32_t s : members) pointers.push_back(&samples_[static_cast<size_t>(s)].encoded);
    batches.push_back(BuildWithPixels(pointers, pack_, [this](const EncodedSample& s, float* out) {
      return ReadPixels(s, out);
    }));
    tokens += static_cast<double>(batches.back().num_loss_tokens());
  }
  for (double loss : executor.Evaluate(batches)) sum += loss;
  tokens = Total(tokens);
  return {{"loss", Total(sum) / std::max(1.0, tokens)},
          {"loss_tokens", static_cast<int64_t>(tokens)},
          {"samples", num_samples()},
          {"skipped", num_skipped_}};
}

Json Evaluator::Captions(Context& ctx, const MultimodalModel& model) const {
  std::vector<EncodedSample> questions;
  const size_t count = std::min(samples_.size(), static_cast<size_t>(spec_.captions));
  // Rank 0 does it alone, the others wait at the next collective.
  if (world_.rank() != 0) return Json::array();
  // Evenly spread, so that the few that are shown are not all of one folder.
  std::vector<size_t> shown;
  for (size_t i = 0; i < count; ++i) shown.push_back(i * samples_.size() / count);
  for (size_t i : shown) questions.push_back(samples_[i].question);
  GenerateOptions options;
  options.max_new_tokens = spec_.max_new_tokens;
  options.stop_ids = StopIds(encoder_.tokenizer());
  const std::vector<std::string> captions = GenerateGreedy(
      ctx, model, encoder_.tokenizer(), pack_, questions,
      [this](const EncodedSample& s, float* out) { return ReadPixels(s, out); }, options);
  Json lines = Json::array();
  for (size_t i = 0; i < count; ++i) {
    lines.push_back({{"sample", samples_[shown[i]].encoded.key},
                     {"caption", captions[i]},
                     {"reference", samples_[shown[i]].answer}});
  }
  return lines;
}

EncodedSample Evaluator::WithPictureOf(size_t sample, size_t other) const {
  const Sample& s = samples_[sample];
  RawSample raw = s.source->Read(s.element);
  const RawSample from = samples_[other].source->Read(samples_[other].element);
  OT_REQUIRE(raw.items.size() == from.items.size(), ErrorCode::kData,
             "eval.sight: {} has {} pictures and {} has {}; it compares samples of equally many",
             raw.key, raw.items.size(), from.key, from.items.size());
  raw.items = from.items;
  return encoder_.Encode(raw, s.encoded.index, s.prompts);
}

std::vector<double> Evaluator::LossPerSample(StepExecutor& executor,
                                             const std::vector<EncodedSample>& samples,
                                             size_t total, Picture picture) const {
  std::vector<MicroBatch> batches;
  for (const EncodedSample& sample : samples) {
    batches.push_back(BuildWithPixels({&sample}, pack_, [&](const EncodedSample& s, float* out) {
      if (picture != Picture::kBlank) return ReadPixels(s, out);
      FillBlank(s, out);
      return true;
    }));
  }
  // Replicas that share experts run as many micro-batches.
  const auto num_replicas = static_cast<size_t>(seat_.num);
  batches.resize((total + num_replicas - 1) / num_replicas);
  std::vector<double> losses = executor.Evaluate(batches);
  losses.resize(samples.size());
  return losses;
}

double Evaluator::KindAccuracy(Context& ctx, const MultimodalModel& model,
                               const std::vector<size_t>& mine, size_t total,
                               Picture picture) const {
  std::vector<EncodedSample> questions;
  for (size_t i : mine) questions.push_back(samples_[i].question);
  GenerateOptions options;
  options.max_new_tokens = kKindTokens;
  options.stop_ids = StopIds(encoder_.tokenizer());
  options.stop_text = ":";
  const std::vector<std::string> answers = GenerateGreedy(
      ctx, model, encoder_.tokenizer(), pack_, questions,
      [&](const EncodedSample& s, float* out) {
        if (picture != Picture::kBlank) return ReadPixels(s, out);
        FillBlank(s, out);
        return true;
      },
      options);
  double right = 0;
  for (size_t k = 0; k < mine.size(); ++k) {
    right += KindOfAnswer(answers[k]) == KindOfAnswer(samples_[mine[k]].answer) ? 1 : 0;
  }
  return Total(right) / static_cast<double>(total);
}

Json Evaluator::Sight(Context& ctx, const MultimodalModel& model, StepExecutor& executor) const {
  const size_t n = samples_.size();
  const size_t num_pairs = std::min(n, static_cast<size_t>(spec_.sight.pairs));
  const uint64_t stream = StreamId("eval.sight");
  const auto nth = [&](size_t i) {
    return static_cast<size_t>(RandomPermute(spec_.sight.seed, stream, n, i % n));
  };
  std::vector<size_t> chosen, others;
  for (size_t i = 0; i < num_pairs; ++i) {
    const size_t own = nth(i);
    size_t step = 1;
    while (step < n && samples_[nth(i + step)].answer == samples_[own].answer) ++step;
    OT_REQUIRE(step < n, ErrorCode::kData, "eval.sight: all held-out answers are the same");
    chosen.push_back(own);
    others.push_back(nth(i + step));
  }
  const std::vector<size_t> mine = Dealt(chosen), my_others = Dealt(others);

  std::vector<EncodedSample> own, other;
  double bytes = 0;
  for (size_t k = 0; k < mine.size(); ++k) {
    own.push_back(samples_[mine[k]].encoded);
    other.push_back(WithPictureOf(mine[k], my_others[k]));
    bytes += static_cast<double>(samples_[mine[k]].answer.size());
  }
  const std::vector<double> own_loss = LossPerSample(executor, own, num_pairs, Picture::kOwn);
  const std::vector<double> other_loss = LossPerSample(executor, other, num_pairs, Picture::kOther);
  const std::vector<double> blank_loss = LossPerSample(executor, own, num_pairs, Picture::kBlank);
  double preferred = 0;
  for (size_t k = 0; k < mine.size(); ++k) preferred += own_loss[k] < other_loss[k] ? 1 : 0;

  const auto total = [&](double value) { return Total(value); };
  const auto sum = [&](const std::vector<double>& v) {
    return total(std::accumulate(v.begin(), v.end(), 0.0));
  };
  bytes = total(bytes);
  Json sight = {{"pairs", num_pairs},
                {"nats_per_byte",
                 {{"own", sum(own_loss) / bytes},
                  {"other", sum(other_loss) / bytes},
                  {"blank", sum(blank_loss) / bytes}}},
                {"prefers_own", total(preferred) / static_cast<double>(num_pairs)}};
  if (!spec_.sight.kinds) return sight;

  std::vector<size_t> all(n);
  std::iota(all.begin(), all.end(), size_t{0});
  std::map<std::string, size_t> kinds;
  for (const Sample& sample : samples_) ++kinds[KindOfAnswer(sample.answer)];
  size_t commonest = 0;
  for (const auto& [kind, count] : kinds) commonest = std::max(commonest, count);
  const std::vector<size_t> dealt = Dealt(all);
  sight["kind_accuracy"] = {{"own", KindAccuracy(ctx, model, dealt, n, Picture::kOwn)},
                            {"blank", KindAccuracy(ctx, model, dealt, n, Picture::kBlank)},
                            {"commonest", static_cast<double>(commonest) / static_cast<double>(n)},
                            {"samples", n}};
  return sight;
}

}  // namespace omnitrain
