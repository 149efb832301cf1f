#pragma once

#include <array>
#include <vector>

#include "core/model/param_store.h"
#include "core/optim/sharded_adamw.h"
#include "core/runtime/context.h"

namespace omnitrain {

/// Which layers two slots hold while a stack runs through its layers, forth and back: the one that
/// runs and, ahead of its turn, the next. Pure: a run gathers as it says, and estimates count with
/// it.
class SlotTurns {
 public:
  explicit SlotTurns(int num_layers) : num_layers_(num_layers) {}

  /// What has to be gathered, and where.
  struct Fill {
    int slot = 0, layer = 0;
  };
  using Fills = std::vector<Fill>;
  /// At the start of a run slots hold nothing of use.
  Fills Begin();
  Fills Forward(int layer) { return Use(layer, layer + 1); }
  Fills Backward(int layer) { return Use(layer, layer - 1); }
  /// The slot that holds a layer, or -1.
  int Find(int layer) const;

 private:
  Fills Use(int layer, int next);
  void Take(int layer, int staying, Fills* fills);

  int num_layers_ = 0;
  std::array<int, 2> held_ = {-1, -1};
};

/// Brings the layers that a ParamStore keeps as shards together while they are used: ZeRO stage 3.
/// Two slots, as large as the largest layer, hold whole values: of the layer that runs, and of the
/// next, which is gathered beside it. Two hold gradients: what a layer's backward adds up is
/// reduced into the ranks' shards beside the backward of the next, for each micro-batch. A sum
/// begins with what the shards hold, so it needs no memory of its own.
/// Async: on the stream of the context. Collective over the groups of the classes: all of their
/// ranks run the same layers in the same order, those with empty micro-batches too; a layer's
/// classes follow each other in the order of its buckets, which is that of its parameters.
/// Source: Rajbhandari et al. 2020 (ZeRO), section 5.3; Rajbhandari et al. 2021 (ZeRO-Infinity),
/// section 6.2 (gathering ahead).
class LayerSlots {
 public:
  /// `params` is allocated and, as the communicators of `groups`, outlives the slots.
  LayerSlots(Context& ctx, ParamStore& params, const SharingGroups& groups);

  /// Bytes of all slots, once `params` is planned.
  static int64_t Bytes(const ParamStore& params);

  /// Before a run: shards may have new values. Starts gathering the first layer.
  void Begin(Context& ctx);
  /// The values of a layer are there for what the stream does next, its neighbour's on their way.
  void BeforeForward(Context& ctx, int layer);
  /// Also where its gradients are added.
  void BeforeBackward(Context& ctx, int layer);
  /// Starts summing the gradients of a layer over its holders.
  void AfterWeightGrad(Context& ctx, int layer);
  /// After a run: the gradients of all shards are complete, and no layer has values. May be called
  /// twice.
  void End(Context& ctx);

 private:
  struct Slot {
    OwnedTensor memory;
    int layer = -1;  // that it holds, or is about to
    std::vector<CommHandle> calls;
  };
  /// The buckets of a layer that other ranks hold as well, each with its group.
  template <typename F>
  void ForEachShared(int layer, F&& f) const;
  void Wait(Context& ctx, Slot* slot);
  void Gather(Context& ctx, const SlotTurns::Fills& fills);
  /// Takes what a slot holds from the parameters.
  void Empty(Context& ctx, Slot* slot);
  /// Gives it to them.
  void Use(Context& ctx, int layer);

  ParamStore& params_;
  SharingGroups groups_;
  SlotTurns turns_;
  std::array<Slot, 2> values_, grads_;
  int grad_turn_ = 0;  // which slot the next layer's gradients take
};

}  // namespace omnitrain
