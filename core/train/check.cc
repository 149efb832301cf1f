#include "core/train/check.h"

#include <algorithm>
#include <map>

#include "core/base/error.h"
#include "core/model/multimodal_model.h"
#include "core/runtime/context.h"
#include "core/train/job_inputs.h"
#include "core/train/layout_groups.h"
#include "core/train/step_executor.h"
#include "core/train/work.h"
#include "data/image/decode.h"

namespace omnitrain {
namespace {

constexpr int kPlannedSteps = 2;    // steps whose real sizes the estimates come from
constexpr int64_t kLookedAt = 200;  // samples that are encoded in search of trouble

std::string MiB(double bytes) { return fmt::format("{:.1f} MiB", bytes / (1 << 20)); }

// The text of a sample: placeholders of an item in one piece, what is learned in double brackets.
std::string Preview(const EncodedSample& sample, const Tokenizer& tokenizer) {
  std::string text;
  std::vector<int32_t> run;
  bool learned = false;
  const auto flush = [&] {
    if (!run.empty()) text += learned ? "[[" + tokenizer.Decode(run) + "]]" : tokenizer.Decode(run);
    run.clear();
  };
  for (size_t i = 0; i < sample.ids.size(); ++i) {
    const auto item = std::find_if(sample.runs.begin(), sample.runs.end(), [&](const ItemRun& r) {
      return r.first_row == static_cast<int>(i);
    });
    if (item != sample.runs.end()) {
      flush();
      text += fmt::format("{} x{}", tokenizer.TokenText(sample.ids[i]), item->num_rows());
      i += static_cast<size_t>(item->num_rows()) - 1;
      continue;
    }
    const bool is_learned = sample.loss_mask[i] != 0;
    if (is_learned != learned) flush();
    learned = is_learned;
    run.push_back(sample.ids[i]);
  }
  flush();
  return text;
}

class Check {
 public:
  Check(const JobSpec& spec, const ParallelLayout& layout,
        const std::function<void(const std::string&)>& print)
      : spec_(spec),
        layout_(layout),
        print_(print),
        inputs_(OpenInputs(spec)),
        model_(inputs_.model, PlaceOf(layout, 0, spec)),
        work_(inputs_.model),
        device_(NewCpuDevice()),
        stream_(device_->NewStream()),
        ctx_(*device_, *stream_) {
    model_.params().Plan(
        ParamLayoutOf(spec, SharingSizes(layout, 0, inputs_.model.text.num_kv_heads)));
  }

  void Run() {
    print_("# resolved spec");
    print_(ToYaml(spec_));
    Model();
    print_("# layout\n" + layout_.ToString() + "\n");
    Work();
    Data();
    for (const std::string& warning : warnings_) print_("warning: " + warning);
  }

 private:
  void Model() {
    const ParamStore& params = model_.params();
    std::map<ParamGroup, int64_t> elements;
    for (ParamId id = 0; id < params.num_params(); ++id) {
      elements[params.spec(id).group] += params.spec(id).shape.num_elements();
    }
    print_(fmt::format("# model\n{}, {} parameters, vocabulary of {}, image token {}",
                       FamilyName(inputs_.model.family), params.num_elements(),
                       inputs_.model.text.vocab_size, inputs_.model.image_token_id));
    for (const auto& [group, count] : elements) {
      print_(fmt::format("  {:<10} {:>14}  {}", ParamGroupName(group), count,
                         params.is_group_frozen(group) ? "frozen" : "trained"));
    }
    print_("");
  }

  void Work() {
    const int dp = layout_.num_replicas();
    Loader loader(inputs_.LoaderFor(spec_, 0, 0, dp), inputs_.sources, inputs_.encoder);
    ReplicaGroups groups;
    groups.shape = ShapeOf(layout_, 0, spec_);
    StepExecutor executor(ctx_, model_, groups);
    size_t arena = 0;
    double encoder = 0, llm = 0, rows = 0, text = 0, vision = 0, samples = 0, micro_batches = 0;
    for (int i = 0; i < kPlannedSteps; ++i) {
      const StepBatch batch = loader.Next();
      arena = std::max(arena, executor.PlanBytes(batch.micro_batches, SchedulePurpose::kTrain));
      for (const MicroBatch& mb : batch.micro_batches) {
        const MicroBatchWork work = work_.Of(mb);
        encoder += work.encoder_flops / kPlannedSteps;
        llm += work.llm_flops / kPlannedSteps;
        rows += static_cast<double>(mb.num_tokens()) / kPlannedSteps;
        micro_batches += 1.0 / kPlannedSteps;
      }
      text += static_cast<double>(batch.text_tokens) / kPlannedSteps;
      vision += static_cast<double>(batch.vision_tokens) / kPlannedSteps;
      samples += static_cast<double>(batch.samples) / kPlannedSteps;
    }
    const ParamStore& params = model_.params();
    const double values = static_cast<double>(params.value_bytes());
    const double grads = static_cast<double>(params.grad_bytes());
    const bool has_masters = params.dtype() != params.grad_dtype();
    // Both moments, the master weights where they are apart, and the reduced gradients of the
    // shard.
    const double state = grads / dp * (2 + (has_masters ? 1 : 0) + (dp > 1 ? 1 : 0));
    print_(fmt::format("# memory per rank (rank 0, sizes of the first {} steps)", kPlannedSteps));
    for (const auto& [what, bytes] :
         std::vector<std::pair<const char*, double>>{{"parameters", values},
                                                     {"main gradients", grads},
                                                     {"optimizer state", state},
                                                     {"activations", static_cast<double>(arena)},
                                                     {"total", values + grads + state + arena}}) {
      print_(fmt::format("  {:<16} {:>14}", what, MiB(bytes)));
    }
    print_("  scratch of ops comes on top: mostly logits, at most some tens of MiB\n");

    const double train = TrainFlops(spec_, encoder, llm);
    print_(fmt::format(
        "# work of a step\n  {:.0f} samples, {:.0f} text and {:.0f} vision rows over all ranks\n"
        "  per rank: {:.1f} micro-batches, {:.0f} rows, filled {:.0f} %\n"
        "  per rank: {:.2f} GFLOP (encoder {:.0f} %, llm {:.0f} %)",
        samples, text, vision, micro_batches, rows,
        100 * rows /
            std::max(1.0, micro_batches * static_cast<double>(spec_.batch.micro_batch_tokens)),
        train / 1e9, 100 * TrainFlops(spec_, encoder, 0) / train,
        100 * TrainFlops(spec_, 0, llm) / train));
    const double share = dp > 1 ? static_cast<double>(dp - 1) / dp : 0;
    print_(
        fmt::format("  per rank over dp={}: {} of gradients reduced, {} of parameters gathered\n",
                    dp, MiB(grads * share), MiB(values * share)));
  }

  void Data() {
    print_("# data");
    int64_t total = 0;
    for (size_t i = 0; i < inputs_.sources.size(); ++i) {
      const LoaderSource& source = inputs_.sources[i];
      total += source.source->size();
      print_(fmt::format("  {}: {} samples, weight {}", source.source->name(),
                         source.source->size(), source.weight));
    }
    for (const DataSource& source : spec_.eval.sources) {
      print_(fmt::format("  held out: {}", source.path));
      for (const DataSource& train : spec_.data.sources) {
        if (train.path == source.path) {
          warnings_.push_back(fmt::format("eval.sources: {} is trained on too", source.path));
        }
      }
    }
    const double epochs = static_cast<double>(spec_.batch.samples) *
                          static_cast<double>(spec_.run.steps) / static_cast<double>(total);
    print_(fmt::format("  {} steps of {} samples: {:.2f} passes over the data", spec_.run.steps,
                       spec_.batch.samples, epochs));
    if (epochs > 20) {
      warnings_.push_back(fmt::format("run.steps: {:.0f} passes over the same data", epochs));
    }
    if (spec_.checkpoint.every == 0) {
      warnings_.push_back("checkpoint.every: nothing is saved before the end");
    }

    const LoaderSource& first = inputs_.sources[0];
    int64_t num_bad = 0, num_long = 0, longest = 0;
    bool is_shown = false;
    const int64_t looked_at = std::min(kLookedAt, first.source->size());
    for (int64_t i = 0; i < looked_at; ++i) {
      try {
        const RawSample raw = first.source->Read(i);
        const EncodedSample sample = inputs_.encoder->Encode(raw, i, first.prompts);
        longest = std::max(longest, sample.num_rows());
        num_long += sample.num_rows() > spec_.batch.micro_batch_tokens ? 1 : 0;
        if (!is_shown) Show(raw, sample);
        is_shown = true;
      } catch (const Error& e) {
        if (e.code() != ErrorCode::kData) throw;
        if (++num_bad <= 3) warnings_.push_back(e.what());
      }
    }
    print_(fmt::format(
        "  first {} samples of {}: longest {} rows, {} bad, {} longer than a micro-batch",
        looked_at, first.source->name(), longest, num_bad, num_long));
    if (num_long > 0) {
      warnings_.push_back(fmt::format(
          "batch.micro_batch_tokens: {} of {} samples are longer than {} rows and will be {}",
          num_long, looked_at, spec_.batch.micro_batch_tokens,
          spec_.data.too_long == TooLong::kSkip ? "skipped" : "cut"));
    }
  }

  void Show(const RawSample& raw, const EncodedSample& sample) {
    print_(fmt::format("\n# one sample: {}", sample.key));
    const ImageProcessorConfig& image = inputs_.image;
    for (size_t i = 0; i < sample.items.size(); ++i) {
      const ImageHeader header = ReadImageHeader(raw.items[i].Read(), sample.items[i].bytes.name());
      const ItemGrid& grid = sample.items[i].shape.grid;
      print_(fmt::format("  {}: {} x {} pixels, resized to {} x {}, {} patches, {} rows",
                         sample.items[i].bytes.name(), header.width, header.height,
                         grid.w * image.patch_size, grid.h * image.patch_size, grid.num_patches(),
                         grid.num_patches() / (image.merge_size * image.merge_size)));
    }
    std::vector<float> pixels(static_cast<size_t>(sample.num_patches() * image.patch_dim()));
    inputs_.encoder->DecodePixels(sample, pixels.data());
    double sum = 0;
    for (float p : pixels) sum += p;
    if (!pixels.empty()) {
      print_(fmt::format("  decoded: mean of normalised pixels {:.3f}",
                         sum / static_cast<double>(pixels.size())));
    }
    print_(fmt::format("  {} rows, {} labels; what is learned stands in [[ ]]:\n{}\n",
                       sample.num_rows(), sample.num_loss_tokens(),
                       Preview(sample, inputs_.encoder->tokenizer())));
  }

  const JobSpec& spec_;
  const ParallelLayout& layout_;
  const std::function<void(const std::string&)>& print_;
  JobInputs inputs_;
  MultimodalModel model_;
  WorkCounter work_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  Context ctx_;
  std::vector<std::string> warnings_;
};

}  // namespace

void CheckJob(const JobSpec& spec, const ParallelLayout& layout,
              const std::function<void(const std::string&)>& print) {
  Check(spec, layout, print).Run();
}

}  // namespace omnitrain
