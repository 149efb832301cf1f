#include <cmath>
#include <map>
#include <mutex>

#include "core/model/check_place.h"
#include "parallel/comm/inprocess_communicator.h"
#include "tests/core/model/tiny_model.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

constexpr int kNumFeatures = 2;  // the embedding's and one of deep-stack

struct Job {
  TextConfig text;
  std::vector<MicroBatch> batches;
  int num_stages = 1;
  bool is_split = false;  // the backward in two halves
  bool is_frozen = false;
  Recompute recompute = Recompute::kNone;
};

TextConfig TinyText(int num_heads, int num_kv_heads, bool is_tied) {
  TextConfig text = TinyModel(is_tied).text;
  text.num_heads = num_heads;
  text.num_kv_heads = num_kv_heads;
  text.ffn_width = 24;
  return text;
}

/// Segments of noise; every fifth row is an encoder's, and two of three are learned.
MicroBatch TextBatch(const TextConfig& text, const std::vector<int>& segments, uint64_t seed) {
  MicroBatch batch;
  for (int length : segments) {
    for (int i = 0; i < length; ++i) {
      const uint64_t row = batch.ids.size();
      batch.ids.push_back(static_cast<int32_t>(RandomBits(seed, 1, row) % text.vocab_size));
      const auto label = static_cast<int32_t>(RandomBits(seed, 2, row) % text.vocab_size);
      batch.labels.push_back(row % 3 == 1 ? -1 : label);
      batch.loss_weights.push_back(0.5f + 0.25f * static_cast<float>(row % 4));
      if (row % 5 == 2) batch.item_rows.push_back(static_cast<int32_t>(row));
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.ids.size()));
  }
  for (int axis = 0; axis < 3; ++axis) {
    for (int length : segments) {
      for (int i = 0; i < length; ++i) batch.position_ids.push_back(axis == 0 ? i : i / (1 + axis));
    }
  }
  return batch;
}

/// What a job computes, in the terms of the whole model whatever the layout.
struct Outcome {
  double loss = 0, evaluated_loss = 0;
  std::map<std::string, std::vector<double>> values;  // gradients, logits, hidden states
  std::vector<double>& At(const std::string& name, int64_t size) {
    std::vector<double>& v = values[name];
    v.resize(static_cast<size_t>(size));
    return v;
  }
};

/// Calls f(flat place in the parameter, flat place in the stored tensor) for the elements of a
/// part.
template <typename F>
void ForElements(const ParamSpec& spec, const HfPart& part, F&& f) {
  int64_t stored = 1;
  for (int64_t d : part.shape) stored *= d;
  const int64_t columns = stored / part.shape[0], width = spec.shape.row_elements();
  for (int64_t r = 0; r < part.num_rows; ++r) {
    for (int64_t c = 0; c < width; ++c) {
      f((part.row_begin + r) * width + c, (part.first_row + r) * columns + part.first_column + c);
    }
  }
}

/// One rank of a job.
class Rank {
 public:
  Rank(const Job& job, Communicator& comm, Outcome* outcome, std::mutex* mutex)
      : job_(job),
        cpu_(1),
        place_(PlaceOf(job, comm)),
        llm_(&params_, job.text, place_),
        outcome_(outcome),
        mutex_(mutex) {
    ParamStore::AllocateOptions options;
    options.dtype = DType::kF64;
    options.frozen[static_cast<int>(ParamGroup::kLlm)] = job.is_frozen;
    params_.Allocate(*cpu_.device, options);
    for (ParamId id = 0; id < params_.num_params(); ++id) {
      const ParamSpec& spec = params_.spec(id);
      const double mean = spec.init == ParamInit::kOne ? 1 : 0;
      for (const HfPart& part : spec.hf_parts) {
        const double std = part.shape.size() > 1 ? 0.35 : 0.2;
        ForElements(spec, part, [&](int64_t ours, int64_t theirs) {
          const auto at = static_cast<uint64_t>(theirs);
          params_.value(id).ptr<double>()[ours] =
              mean + std * RandomNormal(3, StreamId(part.name.c_str()), at);
        });
      }
    }
  }

  void Run() {
    for (size_t i = 0; i < job_.batches.size(); ++i) RunBatch(i, LossMode::kLoss);
    for (size_t i = 0; i < job_.batches.size(); ++i) RunBatch(i, LossMode::kGradients);
    const std::lock_guard<std::mutex> lock(*mutex_);
    for (ParamId id = 0; id < params_.num_params(); ++id) {
      const ParamSpec& spec = params_.spec(id);
      if (params_.is_frozen(id)) continue;
      for (const HfPart& part : spec.hf_parts) {
        int64_t size = 1;
        for (int64_t d : part.shape) size *= d;
        std::vector<double>& sum = outcome_->At(part.name, size);
        ForElements(spec, part, [&](int64_t ours, int64_t theirs) {
          sum[static_cast<size_t>(theirs)] += params_.grad(id).ptr<double>()[ours];
        });
      }
    }
  }

 private:
  static LlmPlace PlaceOf(const Job& job, Communicator& comm) {
    LlmPlace place;
    place.tp = {comm.size(), comm.rank(), &comm};
    place.num_stages = job.num_stages;
    place.stages.clear();
    for (int s = 0; s < job.num_stages; ++s) place.stages.push_back(s);
    return place;
  }

  /// Memory of NaNs for what `carve` takes.
  template <typename F>
  auto Carve(F&& carve) {
    Carver count;
    carve(count);
    blocks_.emplace_back(count.used() / sizeof(double) + 1, std::nan(""));
    Carver carver(blocks_.back().data(), count.used(), DeviceKind::kCpu);
    return carve(carver);
  }

  /// Adds local [n, width] to the outcome's rows.
  void Give(const std::string& name, int64_t num_rows, int64_t whole_width, int64_t first_column,
            const std::vector<int32_t>& rows, const Tensor& local) {
    const std::lock_guard<std::mutex> lock(*mutex_);
    std::vector<double>& all = outcome_->At(name, num_rows * whole_width);
    OT_CHECK(local.rows() == static_cast<int64_t>(rows.size()), "{} rows", rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] >= num_rows) continue;  // padding
      for (int64_t c = 0; c < local.shape[1]; ++c) {
        all[static_cast<size_t>(rows[i] * whole_width + first_column + c)] +=
            local.row<double>(static_cast<int64_t>(i))[c];
      }
    }
  }

  static std::vector<int32_t> Indices(const RowRuns& runs) {
    std::vector<int32_t> rows;
    for (const RowRun& run : runs) {
      for (int64_t r = run.begin; r < run.end(); ++r) rows.push_back(static_cast<int32_t>(r));
    }
    return rows;
  }

  void RunBatch(size_t index, LossMode mode) {
    Context& ctx = cpu_.ctx;
    const MicroBatch& batch = job_.batches[index];
    const int64_t D = job_.text.width, T = batch.num_tokens();
    const LocalItems items = llm_.ItemsAt(batch, 0, place_.tp.rank);
    const auto num_items = static_cast<int64_t>(items.rows.size());
    std::vector<Array> features, d_features;
    for (uint64_t k = 0; k < kNumFeatures; ++k) {
      features.emplace_back(DType::kF64, Shape{num_items, D});
      d_features.emplace_back(DType::kF64, Shape{num_items, D});
      for (int64_t i = 0; i < num_items * D; ++i) {
        const int64_t at = items.encoder_rows[i / D] * D + i % D;
        features[k].at(i, RandomNormal(5 + index, k, static_cast<uint64_t>(at)));
      }
    }
    const auto tensors = [](const std::vector<Array>& arrays) {
      std::vector<Tensor> list;
      for (const Array& a : arrays) list.push_back(*a);
      return list;
    };

    Array loss = Array::Filled(DType::kF64, {1}, 0);
    std::vector<LlmActivations> acts;
    for (int s = 0; s < job_.num_stages; ++s) {
      acts.push_back(
          Carve([&](Carver& c) { return llm_.Carve(c, batch, s, mode, job_.recompute); }));
      llm_.Upload(ctx, batch, &acts[s]);
      if (s > 0) Copy(acts[s - 1].output(), acts[s].input());
      llm_.Forward(ctx, acts[s], tensors(features), mode, *loss);
    }
    const std::string of = "batch " + std::to_string(index);
    {
      const std::lock_guard<std::mutex> lock(*mutex_);
      (mode == LossMode::kLoss ? outcome_->evaluated_loss : outcome_->loss) += loss.at(0);
      OT_CHECK(place_.tp.rank == 0 || loss.at(0) == 0, "the loss counts twice");
    }
    if (mode == LossMode::kLoss) {
      const std::vector<int32_t> rows = Indices(llm_.ContextRowsAt(batch, 0));
      const VocabRange vocab = llm_.vocab();
      // In two pieces of rows.
      for (const size_t begin : {size_t{0}, rows.size() / 2}) {
        const size_t end = begin == 0 ? rows.size() / 2 : rows.size();
        Array logits(DType::kF64, {static_cast<int64_t>(end - begin), vocab.count});
        llm_.Logits(ctx, acts.back(), static_cast<int64_t>(begin), *logits);
        if (begin == end) continue;
        Give(of + " logits", T, job_.text.vocab_size, vocab.first,
             {rows.begin() + static_cast<int64_t>(begin), rows.begin() + static_cast<int64_t>(end)},
             *logits);
      }
      Give(of + " hidden", T, D, 0, Indices(llm_.RowsAt(batch, 0, place_.tp.rank)),
           acts.back().hidden);
      return;
    }

    Array d(DType::kF64, {acts[0].num_rows, D});
    std::vector<int> done, all;
    const auto on_layer_done = [&](int layer) { done.push_back(layer); };
    for (int i = job_.text.num_layers - 1; i >= 0; --i) all.push_back(i);
    for (int s = job_.num_stages - 1; s >= 0; --s) {
      const BackwardPart part = job_.is_split ? BackwardPart::kInput : BackwardPart::kBoth;
      const auto grads = Carve([&](Carver& c) { return llm_.CarveGradients(c, batch, s, part); });
      llm_.Backward(ctx, acts[s], grads, part, tensors(d_features), *d, on_layer_done);
      if (!job_.is_split) continue;
      const Array before = d;
      llm_.Backward(ctx, acts[s], grads, BackwardPart::kWeight, {}, *d, on_layer_done);
      OT_CHECK(d == before, "a weight pass changed d");
    }
    OT_CHECK(done == all, "{} layers are done", done.size());
    for (int k = 0; k < kNumFeatures; ++k) {
      Give(of + " d_feature " + std::to_string(k), static_cast<int64_t>(batch.item_rows.size()), D,
           0, items.encoder_rows, *d_features[static_cast<size_t>(k)]);
    }
  }

  static void Copy(const Tensor& from, const Tensor& to) {
    std::copy_n(from.ptr<double>(), from.num_elements(), to.ptr<double>());
  }

  const Job& job_;
  CpuContext cpu_;
  LlmPlace place_;
  ParamStore params_;
  LanguageModel llm_;
  Outcome* outcome_;
  std::mutex* mutex_;
  std::vector<std::vector<double>> blocks_;
};

Outcome RunJob(const Job& job, int tp) {
  Outcome outcome;
  std::mutex mutex;
  InProcessWorld(tp).Run([&](Communicator& comm) { Rank(job, comm, &outcome, &mutex).Run(); });
  return outcome;
}

void CheckEqual(const Outcome& got, const Outcome& want) {
  CHECK(want.loss > 10);
  CHECK(std::fabs(got.loss - want.loss) <= 1e-12 * want.loss);
  CHECK(std::fabs(got.evaluated_loss - want.evaluated_loss) <= 1e-12 * want.loss);
  REQUIRE(got.values.size() == want.values.size());
  for (const auto& [name, values] : want.values) {
    INFO(name);
    REQUIRE(got.values.count(name) == 1);
    const std::vector<double>& mine = got.values.at(name);
    REQUIRE(mine.size() == values.size());
    double squares = 0, difference = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      squares += values[i] * values[i];
      difference += (mine[i] - values[i]) * (mine[i] - values[i]);
    }
    INFO("off by " << std::sqrt(difference) << " of " << std::sqrt(squares));
    CHECK((values.empty() || squares > 1e-8));
    CHECK(std::sqrt(difference) <= 1e-12 * std::sqrt(squares));
  }
}

/// Packed sequences of awkward lengths, one of them empty.
std::vector<MicroBatch> AwkwardBatches(const TextConfig& text) {
  return {TextBatch(text, {5, 1, 7}, 1), TextBatch(text, {}, 2), TextBatch(text, {3}, 3),
          TextBatch(text, {16, 8, 8}, 4)};
}

TEST_CASE("tensor parallelism gives the same losses and gradients") {
  struct Sizes {
    int num_heads, num_kv_heads, tp;
  };
  // Kv heads that split over tp, and those that ranks share.
  const auto [num_heads, num_kv_heads, tp] =
      GENERATE(Sizes{4, 2, 2}, Sizes{8, 4, 4}, Sizes{8, 8, 2}, Sizes{4, 1, 2}, Sizes{8, 2, 4},
               Sizes{4, 1, 4}, Sizes{8, 2, 8});
  const bool is_tied = GENERATE(true, false);
  const int vocabulary = is_tied ? 37 : 41;
  Job job;
  job.text = TinyText(num_heads, num_kv_heads, is_tied);
  job.text.vocab_size = vocabulary;
  job.text.qk_norm = is_tied;
  job.text.attention_bias = !is_tied || num_kv_heads == 2;
  job.batches = AwkwardBatches(job.text);
  CAPTURE(num_heads, num_kv_heads, tp, is_tied);
  CheckEqual(RunJob(job, tp), RunJob(job, 1));
}

TEST_CASE("tensor parallelism under split backwards, recomputation and stages") {
  const int tp = GENERATE(2, 4);
  Job job;
  job.text = TinyText(8, 2, /*is_tied=*/true);
  job.text.attention_bias = true;
  job.batches = AwkwardBatches(job.text);
  const Outcome want = RunJob(job, 1);
  CAPTURE(tp);
  SECTION("split") { job.is_split = true; }
  SECTION("recomputed") { job.recompute = Recompute::kNormsAndActivations; }
  SECTION("two stages") { job.num_stages = 2; }
  SECTION("two stages, split") {
    job.num_stages = 2;
    job.is_split = true;
  }
  CheckEqual(RunJob(job, tp), want);
}

TEST_CASE("tensor parallelism next to a frozen LLM") {
  Job job;
  job.text = TinyText(8, 2, /*is_tied=*/false);
  job.batches = AwkwardBatches(job.text);
  job.is_frozen = true;
  SECTION("at once") {}
  SECTION("split") { job.is_split = true; }
  const Outcome want = RunJob(job, 1);
  CHECK(want.values.count("batch 3 d_feature 1") == 1);
  CHECK(want.values.count("lm_head.weight") == 0);
  CheckEqual(RunJob(job, 4), want);
}

TEST_CASE("a slice of the LLM says what it holds and who shares it") {
  ParamStore params;
  LlmPlace place;
  place.tp.size = 4;
  place.tp.rank = 3;
  place.num_stages = 2;
  place.stages = {1};
  const TextConfig text = TinyText(8, 2, /*is_tied=*/true);
  const LanguageModel llm(&params, text, place);
  CHECK(llm.vocab().first == 27);
  CHECK(llm.vocab().count == 10);
  std::map<std::string, ParamSpec> specs;
  for (ParamId id = 0; id < params.num_params(); ++id) {
    specs[params.spec(id).name] = params.spec(id);
  }
  const auto sharing = [&](const char* name) { return specs.at(name).sharing; };
  CHECK(sharing("llm.embed.weight") == ParamSharing::kTied);
  CHECK(sharing("llm.layers.1.norm1.weight") == ParamSharing::kWhole);
  CHECK(sharing("llm.layers.1.k_norm.weight") == ParamSharing::kWhole);
  CHECK(sharing("llm.layers.1.q.weight") == ParamSharing::kSlice);
  CHECK(sharing("llm.layers.1.kv.weight") == ParamSharing::kKvHeads);
  CHECK(sharing("llm.layers.1.down.weight") == ParamSharing::kSlice);
  CHECK(specs.at("llm.layers.1.kv.weight").hf_parts[1].first_row == 8);
  CHECK(specs.at("llm.layers.1.up.weight").hf_parts[1].first_row == 18);
  CHECK(specs.at("llm.layers.1.down.weight").hf_parts[0].first_column == 18);
}

TEST_CASE("CheckPlace refuses what does not split, with both numbers") {
  const auto message = [](int num_heads, int num_kv_heads, int ffn, int tp, int pp) {
    TextConfig text = TinyText(num_heads, num_kv_heads, true);
    text.ffn_width = ffn;
    ParallelDegrees degrees;
    degrees.tp = tp;
    degrees.pp = pp;
    try {
      CheckPlace(text, degrees);
    } catch (const Error& e) {
      CHECK(e.code() == ErrorCode::kSpec);
      return std::string(e.what());
    }
    return std::string("fine");
  };
  CHECK(message(14, 2, 8, 2, 2) == "fine");
  CHECK(message(12, 1, 8, 4, 1) == "fine");
  CHECK(message(14, 2, 8, 4, 1) == "parallel.llm.tp: 14 query heads do not split over tp=4");
  CHECK(message(12, 3, 8, 2, 1) == "parallel.llm.tp: 3 kv heads do not split over tp=2");
  CHECK(message(12, 4, 10, 4, 1) ==
        "parallel.llm.tp: 10 columns of the mlp do not split over tp=4");
  CHECK(message(4, 2, 8, 1, 3) ==
        "parallel.llm.pp: 2 layers do not fill the 3 stages of pp=3 vpp=1");
}

}  // namespace
}  // namespace omnitrain
