#include "tests/core/model/llm_job.h"

#include <cmath>
#include <memory>
#include <mutex>

#include "parallel/comm/inprocess_communicator.h"
#include "tests/core/model/tiny_model.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

constexpr int kNumFeatures = 2;  // the embedding's and one of deep-stack

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
  Rank(const Job& job, const JobLayout& layout, Communicator& world, Outcome* outcome,
       std::mutex* mutex)
      : job_(job),
        layout_(layout),
        dp_rank_(world.rank() / (layout.tp * layout.cp)),
        tp_group_(Group(world, "tp", layout.tp)),
        cp_group_(Group(world, "cp", layout.cp, layout.tp)),
        ep_group_(Group(world, "ep", layout.ep)),
        rows_group_(Group(world, "rows", layout.tp * layout.cp)),
        cpu_(1),
        place_(Place()),
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
    const auto dp = static_cast<size_t>(layout_.dp), n = job_.batches.size();
    OT_CHECK(n % dp == 0, "{} micro-batches over dp={}", n, dp);
    for (const LossMode mode : {LossMode::kLoss, LossMode::kGradients}) {
      for (size_t i = static_cast<size_t>(dp_rank_); i < n; i += dp) RunBatch(i, mode);
    }
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
  /// `size` ranks, `stride` from one to the next, this rank among them.
  static std::unique_ptr<Communicator> Group(Communicator& world, const char* name, int size,
                                             int stride = 1) {
    const int block = size * stride;
    const int first = world.rank() / block * block + world.rank() % stride;
    std::vector<int> ranks;
    for (int i = 0; i < size; ++i) ranks.push_back(first + i * stride);
    return world.NewGroup(name, ranks);
  }

  LlmPlace Place() const {
    LlmPlace place;
    place.tp = {tp_group_->size(), tp_group_->rank(), tp_group_.get()};
    place.cp = {cp_group_->size(), cp_group_->rank(), cp_group_.get()};
    place.ep = {ep_group_->size(), ep_group_->rank(), ep_group_.get()};
    place.rows = rows_group_.get();
    place.context_method = layout_.context_method;
    place.num_stages = job_.num_stages;
    place.stages.clear();
    for (int s = 0; s < job_.num_stages; ++s) place.stages.push_back(s);
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
    const LocalItems items = llm_.ItemsAt(batch, place_.cp.rank, place_.tp.rank);
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
      const bool has_balance = mode == LossMode::kGradients && job_.text.num_experts > 0;
      OT_CHECK(place_.tp.rank == 0 || has_balance || loss.at(0) == 0, "the loss counts twice");
    }
    if (mode == LossMode::kLoss) CheckPoolIdle();
    if (mode == LossMode::kLoss) {
      const std::vector<int32_t> rows = Indices(llm_.ContextRowsAt(batch, place_.cp.rank));
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
      Give(of + " hidden", T, D, 0, Indices(llm_.RowsAt(batch, place_.cp.rank, place_.tp.rank)),
           acts.back().hidden);
      return;
    }

    Array d(DType::kF64, {acts[0].num_rows, D});
    std::vector<int> done, all;
    StackHooks hooks;
    hooks.after_weight_grad = [&](int layer) { done.push_back(layer); };
    for (int i = job_.text.num_layers - 1; i >= 0; --i) all.push_back(i);
    for (int s = job_.num_stages - 1; s >= 0; --s) {
      const BackwardPart part = job_.is_split ? BackwardPart::kInput : BackwardPart::kBoth;
      const auto grads = Carve([&](Carver& c) { return llm_.CarveGradients(c, batch, s, part); });
      llm_.Backward(ctx, acts[s], grads, part, tensors(d_features), *d, hooks);
      if (!job_.is_split) continue;
      const Array before = d;
      llm_.Backward(ctx, acts[s], grads, BackwardPart::kWeight, {}, *d, hooks);
      OT_CHECK(d == before, "a weight pass changed d");
    }
    OT_CHECK(done == all, "{} layers are done", done.size());
    CheckPoolIdle();
    for (int k = 0; k < kNumFeatures; ++k) {
      Give(of + " d_feature " + std::to_string(k), static_cast<int64_t>(batch.item_rows.size()), D,
           0, items.encoder_rows, *d_features[static_cast<size_t>(k)]);
    }
  }

  void CheckPoolIdle() const {
    const BlockPool* pool = llm_.stack().pool();
    OT_CHECK((pool != nullptr) == (job_.text.num_experts > 0), "a pool without experts");
    if (pool == nullptr) return;
    OT_CHECK(pool->idle_bytes() == pool->bytes(), "{} of {} bytes are idle", pool->idle_bytes(),
             pool->bytes());
  }

  static void Copy(const Tensor& from, const Tensor& to) {
    std::copy_n(from.ptr<double>(), from.num_elements(), to.ptr<double>());
  }

  const Job& job_;
  const JobLayout layout_;
  const int dp_rank_;
  const std::unique_ptr<Communicator> tp_group_, cp_group_, ep_group_, rows_group_;
  CpuContext cpu_;
  LlmPlace place_;
  ParamStore params_;
  LanguageModel llm_;
  Outcome* outcome_;
  std::mutex* mutex_;
  std::vector<std::vector<double>> blocks_;
};

}  // namespace

TextConfig TinyText(int num_heads, int num_kv_heads, bool is_tied) {
  TextConfig text = TinyModel(is_tied).text;
  text.num_heads = num_heads;
  text.num_kv_heads = num_kv_heads;
  text.ffn_width = 24;
  return text;
}

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
    batch.sample_ids.push_back(static_cast<int64_t>(batch.sample_ids.size()));
  }
  for (int axis = 0; axis < 3; ++axis) {
    for (int length : segments) {
      for (int i = 0; i < length; ++i) batch.position_ids.push_back(axis == 0 ? i : i / (1 + axis));
    }
  }
  return batch;
}

std::vector<MicroBatch> AwkwardBatches(const TextConfig& text) {
  return {TextBatch(text, {5, 1, 7}, 1), TextBatch(text, {}, 2), TextBatch(text, {3}, 3),
          TextBatch(text, {16, 8, 8}, 4)};
}

Outcome RunJob(const Job& job, const JobLayout& layout) {
  Outcome outcome;
  std::mutex mutex;
  InProcessWorld(layout.tp * layout.cp * layout.dp).Run([&](Communicator& world) {
    Rank(job, layout, world, &outcome, &mutex).Run();
  });
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

}  // namespace omnitrain
