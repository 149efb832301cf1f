#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/optim/layer_slots.h"
#include "core/optim/sharded_adamw.h"
#include "core/train/reduce_ahead.h"
#include "tests/kernels/common/arrays.h"

namespace omnitrain {

/// A layout of the parameters below; ranks count tp first, then dp, then pp.
struct SplitLayout {
  int tp = 1, dp = 1, pp = 1;
  int ep = 1;        // over the tp x dp ranks of a stage
  int kv_heads = 1;  // that share the rows of the kv projection; more tp ranks hold them twice
  bool is_sharded = false;     // the layers; without pp
  bool is_llm_frozen = false;  // as the encoder is
  int world() const { return tp * dp * pp; }
};

/// Parameters of every sharing class as one rank of a layout holds them: tied embeddings, two
/// layers, frozen ones of two classes; together they are the same model in every layout.
class SplitParams {
 public:
  SplitParams(Communicator& world, const SplitLayout& layout, DType dtype)
      : cpu_(1), layout_(layout), world_(world), rank_(world.rank()) {
    tp_ = rank_ % layout.tp;
    dp_ = rank_ / layout.tp % layout.dp;
    pp_ = rank_ / (layout.tp * layout.dp);
    MakeGroups();
    if (has_stage(0)) AddEmbeddings();
    AddFrozen();
    for (int layer = 0; layer < 2; ++layer) {
      if (has_stage(layer)) AddLayer(layer);
    }
    if (layout.pp > 1 && has_stage(1)) AddEmbeddings();
    ParamStore::AllocateOptions options;
    options.dtype = dtype;
    options.num_shards = groups_.Sizes();
    options.shard_idx = groups_.Places();
    options.frozen[static_cast<int>(ParamGroup::kVision)] = true;
    options.frozen[static_cast<int>(ParamGroup::kLlm)] = layout.is_llm_frozen;
    options.bucket_elements = 100;
    if (layout.is_sharded) options.sharded_stack = "llm";
    params_.Allocate(*cpu_.device, options);
    if (layout.is_sharded) slots_ = std::make_unique<LayerSlots>(cpu_.ctx, params_, groups_);
  }

  Context& ctx() { return cpu_.ctx; }
  ParamStore& params() { return params_; }
  LayerSlots& slots() { return *slots_; }
  const SharingGroups& groups() const { return groups_; }

  /// Makes gradients whose sum over the holders is normal noise of (step, name, place), in two
  /// micro-batches that add up to it, and reduces them as a backward does, layer by layer. Returns
  /// whether tied embeddings came last.
  bool Backward(int64_t step, ShardedAdamW* optimizer) {
    params_.ZeroGrads(ctx().stream());
    AddGrads(step, -1, 1);
    if (slots_) slots_->Begin(ctx());
    for (double part : {0.25, 0.75}) {
      for (int layer : {1, 0}) {
        if (slots_) slots_->BeforeBackward(ctx(), layer);
        AddGrads(step, layer, part);
        if (slots_) slots_->AfterWeightGrad(ctx(), layer);
      }
    }
    if (slots_) slots_->End(ctx());

    ReduceAhead ahead(params_);
    bool was_tied_last = true;
    const auto take = [&] {
      for (int b; (b = ahead.Take()) >= 0;) {
        was_tied_last &= params_.buckets()[b].sharing != ParamSharing::kTied;
        optimizer->StartReduce(ctx(), b);
      }
    };
    for (int layer : {1, 0}) {
      ahead.MarkLayer("llm", layer);
      take();
    }
    ahead.MarkGroup(ParamGroup::kLlm);
    take();
    for (int b; (b = ahead.TakeRest()) >= 0;) optimizer->StartReduce(ctx(), b);
    optimizer->FinishReduce(ctx());
    return was_tied_last;
  }

  /// Elements of the whole tensors that this rank holds and that differ from `whole` by more than
  /// `bound`; of sharded layers all, as they come into slots. Twice, as in two micro-batches.
  int64_t NumOff(const std::map<std::string, std::vector<double>>& whole, double bound) {
    int64_t num_off = NumOffIn(-1, whole, bound);
    if (slots_) slots_->Begin(ctx());
    for (int layer : {0, 1, 0, 1}) {
      if (slots_) slots_->BeforeForward(ctx(), layer);
      num_off += NumOffIn(layer, whole, bound);
    }
    if (slots_) slots_->End(ctx());
    return num_off;
  }

  /// Of a layout of one rank: its parameters.
  std::map<std::string, std::vector<double>> Whole() {
    std::map<std::string, std::vector<double>> whole;
    for (ParamId id = 0; id < params_.num_params(); ++id) {
      const double* value = params_.value(id).ptr<double>();
      for (const StoredPiece& piece : StoredPieces(params_.spec(id))) {
        whole[piece.part->name].assign(value + piece.begin, value + piece.end);
      }
    }
    return whole;
  }

 private:
  void AddGrads(int64_t step, int layer, double part) {
    for (ParamId id = 0; id < params_.num_params(); ++id) {
      if (params_.is_frozen(id) || LayerOfName(params_.spec(id).name).second != layer) continue;
      const ParamSharing sharing = params_.spec(id).sharing;
      const int n = groups_.SizeOf(sharing);
      const double share = part * 2.0 * (groups_.RankIn(sharing) + 1) / (n * (n + 1));
      double* grad = params_.grad(id).ptr<double>();
      for (const StoredPiece& piece : StoredPieces(params_.spec(id))) {
        const uint64_t stream = StreamId(piece.part->name.c_str());
        for (const ElementRun& run : piece.runs) {
          for (int64_t i = 0; i < run.num_elements(); ++i) {
            *grad++ += share * RandomNormal(static_cast<uint64_t>(step), stream,
                                            static_cast<uint64_t>(run[i]));
          }
        }
      }
    }
  }

  int64_t NumOffIn(int layer, const std::map<std::string, std::vector<double>>& whole,
                   double bound) const {
    int64_t num_off = 0;
    for (ParamId id = 0; id < params_.num_params(); ++id) {
      if (LayerOfName(params_.spec(id).name).second != layer) continue;
      const double* value = params_.value(id).ptr<double>();
      for (const StoredPiece& piece : StoredPieces(params_.spec(id))) {
        const std::vector<double>& want = whole.at(piece.part->name);
        for (const ElementRun& run : piece.runs) {
          for (int64_t i = 0; i < run.num_elements(); ++i) {
            const double off = std::fabs(*value++ - want[static_cast<size_t>(run[i])]);
            if (!(off <= bound)) ++num_off;
          }
        }
      }
    }
    return num_off;
  }

  bool has_stage(int stage) const { return layout_.pp == 1 || pp_ == stage; }
  // Ranks of the tp axis that hold the same kv head.
  int tp_per_head() const { return std::max(1, layout_.tp / layout_.kv_heads); }
  int ep_rank() const { return (rank_ % (layout_.tp * layout_.dp)) % layout_.ep; }

  void MakeGroups() {
    groups_.world = &world_;
    const auto make = [&](ParamSharing sharing, const char* name, auto key) {
      std::vector<int> members;
      const int stage_size = layout_.tp * layout_.dp;
      for (int r = 0; r < layout_.world(); ++r) {
        const int tp = r % layout_.tp, in_stage = r % stage_size, pp = r / stage_size;
        if (key(tp, in_stage, pp) == key(tp_, rank_ % stage_size, pp_)) members.push_back(r);
      }
      if (members.size() == 1) return;  // alone: an absent group
      owned_groups_.push_back(world_.NewGroup(name, members));
      groups_.of_class[static_cast<size_t>(sharing)] = owned_groups_.back().get();
    };
    using Key = std::array<int, 2>;
    make(ParamSharing::kSlice, "slice", [](int tp, int, int pp) { return Key{tp, pp}; });
    make(ParamSharing::kWhole, "whole", [](int, int, int pp) { return Key{pp, 0}; });
    make(ParamSharing::kKvHeads, "kv", [this](int tp, int, int pp) {
      return Key{tp / tp_per_head(), pp};
    });
    make(ParamSharing::kTied, "tied", [](int tp, int, int) { return Key{tp, 0}; });
    make(ParamSharing::kExperts, "experts", [this](int, int in_stage, int pp) {
      return Key{in_stage % layout_.ep, pp};
    });
  }

  void Add(const std::string& name, Shape shape, ParamSharing sharing, std::vector<HfPart> parts,
           ParamGroup group = ParamGroup::kLlm, ParamInit init = ParamInit::kNormal) {
    ParamSpec spec;
    spec.name = name;
    spec.shape = shape;
    spec.group = group;
    spec.init = init;
    spec.sharing = sharing;
    spec.hf_parts = std::move(parts);
    params_.Add(std::move(spec));
  }

  void AddEmbeddings() {
    const int64_t rows = 12 / layout_.tp;
    Add("llm.embed.weight", {rows, 10}, ParamSharing::kTied,
        {{"embed", 0, rows, {12, 10}, tp_ * rows, 0}});
  }
  // An encoder, which only the first stage has.
  void AddFrozen() {
    if (!has_stage(0)) return;
    const int64_t columns = 8 / layout_.tp;
    Add("vision.patch.weight", {6, columns}, ParamSharing::kSlice,
        {{"vision.patch", 0, 6, {6, 2, 4}, 0, tp_ * columns}}, ParamGroup::kVision);
    Add("vision.norm.weight", {9}, ParamSharing::kWhole, {{"vision.norm", 0, 9, {9}}},
        ParamGroup::kVision, ParamInit::kOne);
  }
  void AddLayer(int layer) {
    const std::string ours = fmt::format("llm.layers.{}.", layer);
    const std::string theirs = fmt::format("layers.{}.", layer);
    Add(ours + "norm.weight", {10}, ParamSharing::kWhole, {{theirs + "norm", 0, 10, {10}}},
        ParamGroup::kLlm, ParamInit::kOne);
    const int64_t up = 8 / layout_.tp;
    Add(ours + "up.weight", {2 * up, 10}, ParamSharing::kSlice,
        {{theirs + "gate", 0, up, {8, 10}, tp_ * up, 0},
         {theirs + "up", up, up, {8, 10}, tp_ * up, 0}});
    Add(ours + "up.bias", {2 * up}, ParamSharing::kSlice,
        {{theirs + "gate.bias", 0, up, {8}, tp_ * up, 0},
         {theirs + "up.bias", up, up, {8}, tp_ * up, 0}});
    Add(ours + "down.weight", {10, up}, ParamSharing::kSlice,
        {{theirs + "down", 0, 10, {10, 8}, 0, tp_ * up}});
    const int64_t kv = 6 / std::min(layout_.tp, layout_.kv_heads);
    Add(ours + "kv.weight", {kv, 10}, ParamSharing::kKvHeads,
        {{theirs + "kv", 0, kv, {6, 10}, tp_ / tp_per_head() * kv, 0}});
    const int64_t experts = 4 / layout_.ep;
    Add(ours + "experts.weight", {experts, 3, 5}, ParamSharing::kExperts,
        {{theirs + "experts", 0, experts, {4, 3, 5}, ep_rank() * experts, 0}});
  }

  CpuContext cpu_;
  SplitLayout layout_;
  Communicator& world_;
  int rank_ = 0, tp_ = 0, dp_ = 0, pp_ = 0;
  std::vector<std::unique_ptr<Communicator>> owned_groups_;
  SharingGroups groups_;
  ParamStore params_;
  std::unique_ptr<LayerSlots> slots_;  // of sharded layers
};

}  // namespace omnitrain
