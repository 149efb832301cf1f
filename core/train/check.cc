#include "core/train/check.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "core/base/error.h"
#include "core/model/multimodal_model.h"
#include "core/train/choose_plan.h"
#include "core/train/draw_layout.h"
#include "core/train/job_inputs.h"
#include "core/train/layout_groups.h"
#include "core/train/memory_estimate.h"
#include "core/train/traffic.h"
#include "core/train/work.h"
#include "data/image/decode.h"

namespace omnitrain {
namespace {

constexpr int kPlannedSteps = 2;    // steps whose real sizes the estimates come from
constexpr int64_t kLookedAt = 200;  // samples that are encoded in search of trouble
constexpr size_t kMostColumns = 6;  // of the table of memory

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

bool RunsOnGpu(const JobSpec& spec, const CheckMachine& machine) {
  if (spec.runtime.device != DeviceChoice::kAuto) return spec.runtime.device == DeviceChoice::kCuda;
  return spec.precision == Precision::kBf16 ||
         (machine.has_gpu && spec.precision != Precision::kFp64);
}

// Orders plans by how much they make again.
std::tuple<int, int, int> Strength(const RecomputePlan& plan) {
  return {static_cast<int>(plan.kind), plan.is_none() ? 0 : plan.num_layers,
          static_cast<int>(plan.rest)};
}

class Check {
 public:
  Check(const JobSpec& spec, const ParallelLayout& layout, const CheckMachine& machine,
        const std::function<void(const std::string&)>& print)
      : spec_(spec),
        layout_(layout),
        machine_(machine),
        print_(print),
        inputs_(OpenInputs(spec)),
        work_(inputs_.model) {}

  void Run() {
    print_("# resolved spec");
    print_(ToYaml(spec_));
    Model();
    Layout();
    LoadSteps();
    Work();
    MemoryAndTraffic();
    Data();
    for (const std::string& warning : warnings_) print_("warning: " + warning);
  }

 private:
  void Model() {
    MultimodalModel model(inputs_.model);
    model.params().Plan(ParamLayoutOf(spec_, {1, 1, 1, 1, 1}));
    const ParamStore& params = model.params();
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

  int ranks_per_node() const { return std::min(machine_.ranks_per_node, layout_.world_size()); }

  void Layout() {
    print_("# layout\n" + layout_.ToString());
    print_(DrawNodes(layout_, ranks_per_node()) +
           DrawStages(layout_, PlaceOf(layout_, layout_.llm().first_rank(), spec_), inputs_.model));
  }

  // The first replica's: the others' are like them.
  void LoadSteps() {
    Loader loader(inputs_.LoaderFor(spec_, 0, 0, layout_.num_replicas()), inputs_.sources,
                  inputs_.encoder);
    for (int i = 0; i < kPlannedSteps; ++i) {
      steps_.push_back(loader.Next());
      for (MicroBatch& mb : steps_.back().micro_batches)
        std::vector<float>().swap(mb.items.patches);
    }
  }

  void Work() {
    double encoder = 0, llm = 0, rows = 0, text = 0, vision = 0, samples = 0, micro_batches = 0;
    for (const StepBatch& batch : steps_) {
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
    const double train = TrainFlops(spec_, encoder, llm);
    const auto num_ranks = static_cast<double>(layout_.ReplicaRanks(0).size());
    print_(fmt::format(
        "# work of a step (mean of the first {} steps)\n"
        "  {:.0f} samples, {:.0f} text and {:.0f} vision rows over all ranks\n"
        "  a replica: {:.1f} micro-batches, {:.0f} rows, filled {:.0f} %\n"
        "  a rank, in the mean: {:.2f} GFLOP (encoder {:.0f} %, llm {:.0f} %)\n",
        kPlannedSteps, samples, text, vision, micro_batches, rows,
        100 * rows /
            std::max(1.0, micro_batches * static_cast<double>(spec_.batch.micro_batch_tokens)),
        train / 1e9 / num_ranks, 100 * TrainFlops(spec_, encoder, 0) / train,
        100 * TrainFlops(spec_, 0, llm) / train));
  }

  // Of one pipeline rank, on its first seat.
  struct StageEstimate {
    MemoryEstimate chosen;
    RecomputePlan recompute;  // of the step that recomputes most
  };

  void MemoryAndTraffic() {
    const Mesh& mesh = layout_.llm();
    const int pp = mesh.size(Axis::kPp);
    std::vector<StageEstimate> stages;
    std::vector<RankTraffic> replica;
    for (int rank = 0; rank < pp; ++rank) {
      Mesh::Coordinates at = mesh.CoordinatesOf(mesh.first_rank());
      at[static_cast<size_t>(Axis::kPp)] = rank;
      stages.push_back(Stage(mesh.RankAt(at), &replica));
    }
    Memory(stages);
    const std::string table = TrafficTable(
        SumTraffic(layout_, replica, inputs_.model.text.num_kv_heads, ranks_per_node()));
    if (table.empty()) return;
    print_(fmt::format("# traffic of a step (mean of the first {} steps)", kPlannedSteps));
    print_(table + "\n");
  }

  StageEstimate Stage(int rank, std::vector<RankTraffic>* replica) const {
    MultimodalModel model(inputs_.model, PlaceOf(layout_, rank, spec_));
    const auto num_shards = SharingSizes(layout_, rank, inputs_.model.text.num_kv_heads);
    model.params().Plan(ParamLayoutOf(spec_, num_shards));
    const DeviceKind device = RunsOnGpu(spec_, machine_) ? DeviceKind::kCuda : DeviceKind::kCpu;
    ReplicaShape shape = ShapeOf(layout_, rank, spec_);
    const auto estimate = [&](const std::vector<StepPlan>& plans) {
      std::vector<PlannedStep> planned;
      for (size_t i = 0; i < plans.size(); ++i) {
        planned.push_back({&plans[i], &steps_[i].micro_batches});
      }
      return EstimateMemory(model, shape, planned, num_shards, device, spec_.runtime.threads);
    };
    // `beside`: what else is on the device. Ranks are taken one by one; a run agrees on the most.
    std::map<size_t, std::shared_ptr<const Schedule>> schedules;  // by number of micro-batches
    const auto choose = [&](int64_t beside) {
      std::vector<StepPlan> plans;
      const auto fits = [&](size_t bytes) {
        return machine_.device_bytes == 0 ||
               FitsActivations(static_cast<int64_t>(bytes), machine_.device_bytes - beside);
      };
      for (const StepBatch& step : steps_) {
        const size_t n = step.micro_batches.size();
        if (schedules.count(n) == 0) {
          schedules[n] =
              BuildStepSchedule(model, shape, static_cast<int>(n), SchedulePurpose::kTrain);
        }
        plans.push_back(
            ChoosePlan(model, shape, schedules[n], step.micro_batches, device, fits, nullptr));
      }
      return plans;
    };
    const MemoryEstimate first = estimate(choose(0));
    const std::vector<StepPlan> plans = choose(first.total() - first.activations - first.scratch);
    StageEstimate stage;
    stage.chosen = estimate(plans);
    for (const StepPlan& plan : plans) {
      const bool is_more = Strength(plan.recompute) > Strength(stage.recompute);
      if (is_more) stage.recompute = plan.recompute;
    }

    for (size_t seat = 0; seat < shape.seats.size(); ++seat) {
      shape.seat = static_cast<int>(seat);
      replica->emplace_back();
      for (size_t i = 0; i < plans.size(); ++i) {
        AddStepTraffic(model, shape, plans[i], steps_[i].micro_batches, &replica->back());
      }
      for (SentBytes& sent : replica->back()) sent.Scale(1.0 / kPlannedSteps);
      AddParamTraffic(model.params(), num_shards, &replica->back());
    }
    return stage;
  }

  void Memory(const std::vector<StageEstimate>& stages) {
    size_t most = 0;
    for (size_t i = 0; i < stages.size(); ++i) {
      if (stages[i].chosen.total() > stages[most].chosen.total()) most = i;
    }
    std::vector<std::string> columns;
    std::vector<MemoryEstimate> estimates;
    for (size_t i = 0; i < stages.size(); ++i) {
      const bool is_shown =
          stages.size() <= kMostColumns || i < 2 || i == most || i + 1 == stages.size();
      if (!is_shown) continue;
      columns.push_back(stages.size() == 1 ? "a rank" : fmt::format("pp {}", i));
      estimates.push_back(stages[i].chosen);
    }
    print_(fmt::format("# memory of a rank (sizes of the first {} steps)\n{}", kPlannedSteps,
                       MemoryTable(columns, estimates)));
    Recomputation(stages[most], stages.size() == 1 ? "" : fmt::format("pp {}: ", most));
  }

  void Recomputation(const StageEstimate& most, const std::string& where) {
    const std::string total = MiB(static_cast<double>(most.chosen.total()));
    std::string text = fmt::format("  at most {}{}", where, total);
    if (machine_.device_bytes > 0) {
      text += fmt::format(" of {}", MiB(static_cast<double>(machine_.device_bytes)));
      if (most.chosen.total() > machine_.device_bytes) {
        warnings_.push_back(fmt::format("{}{} do not fit a device of {}", where, total,
                                        MiB(static_cast<double>(machine_.device_bytes))));
      }
    }
    print_(text + "; recomputation: " + ToString(most.recompute) + "\n");
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
  const CheckMachine& machine_;
  const std::function<void(const std::string&)>& print_;
  JobInputs inputs_;
  WorkCounter work_;
  std::vector<StepBatch> steps_;
  std::vector<std::string> warnings_;
};

// What a run would refuse once it had opened its data, before any of that.
void CheckSplits(const JobSpec& spec, const ParallelLayout& layout) {
  const ModelConfig model = OpenModelConfig(spec);
  CheckSplit(spec, model.text);
  const LlmPlace place = PlaceOf(layout, layout.llm().first_rank(), spec);
  const int64_t num_kv = std::max(1, model.text.num_kv_heads / place.tp.size);
  MakeRowLayout(0, {}, place, {model.text.num_heads / place.tp.size, num_kv, model.text.head_dim});
}

}  // namespace

void CheckJob(const JobSpec& spec, const ParallelLayout& layout, const CheckMachine& machine,
              const std::function<void(const std::string&)>& print) {
  CheckSplits(spec, layout);
  Check(spec, layout, machine, print).Run();
}

}  // namespace omnitrain
