#include "core/optim/layer_slots.h"

#include <algorithm>

#include "kernels/elementwise/elementwise.h"

namespace omnitrain {
namespace {

int64_t LargestSlot(const ParamStore& params) {
  int64_t elements = 0;
  for (const ShardedLayer& layer : params.sharded_layers()) {
    elements = std::max(elements, layer.slot_elements);
  }
  return elements;
}

Tensor PlaceOf(const ParamBucket& bucket, const Tensor& slot) {
  return slot.Rows(bucket.begin, bucket.size);
}

}  // namespace

SlotTurns::Fills SlotTurns::Begin() {
  held_ = {-1, -1};
  Fills fills;
  Take(0, -1, &fills);
  return fills;
}

SlotTurns::Fills SlotTurns::Use(int layer, int next) {
  Fills fills;
  Take(layer, -1, &fills);
  Take(next, layer, &fills);
  return fills;
}

void SlotTurns::Take(int layer, int staying, Fills* fills) {
  if (layer < 0 || layer >= num_layers_ || Find(layer) >= 0) return;
  const int slot = staying >= 0 && held_[0] == staying ? 1 : 0;
  held_[static_cast<size_t>(slot)] = layer;
  fills->push_back({slot, layer});
}

int SlotTurns::Find(int layer) const {
  if (held_[0] == layer) return 0;
  return held_[1] == layer ? 1 : -1;
}

LayerSlots::LayerSlots(Context& ctx, ParamStore& params, const SharingGroups& groups)
    : params_(params), groups_(groups), turns_(static_cast<int>(params.sharded_layers().size())) {
  const int64_t elements = LargestSlot(params);
  for (Slot& slot : values_) slot.memory = OwnedTensor(ctx.device(), params.dtype(), {elements});
  if (params.are_sharded_layers_trained()) {
    for (Slot& slot : grads_) {
      slot.memory = OwnedTensor(ctx.device(), params.grad_dtype(), {elements});
    }
  }
  for (const ShardedLayer& layer : params.sharded_layers()) {
    for (const ParamBucket& bucket : layer.buckets) {
      const int size = groups.SizeOf(bucket.sharing), place = groups.RankIn(bucket.sharing);
      OT_CHECK(
          bucket.num_shards == size && params.shard_offset(bucket) * size == bucket.size * place,
          "a bucket of {} shards over {} ranks, of which this is {}", bucket.num_shards, size,
          place);
    }
  }
}

int64_t LayerSlots::Bytes(const ParamStore& params) {
  const auto value_bytes = static_cast<int64_t>(DTypeBytes(params.dtype()));
  const auto grad_bytes = static_cast<int64_t>(DTypeBytes(params.grad_dtype()));
  return 2 * LargestSlot(params) *
         (value_bytes + (params.are_sharded_layers_trained() ? grad_bytes : 0));
}

template <typename F>
void LayerSlots::ForEachShared(int layer, F&& f) const {
  for (const ParamBucket& bucket :
       params_.sharded_layers().at(static_cast<size_t>(layer)).buckets) {
    if (bucket.num_shards > 1) f(bucket, *groups_.of_class[static_cast<size_t>(bucket.sharing)]);
  }
}

void LayerSlots::Wait(Context& ctx, Slot* slot) {
  for (CommHandle& call : slot->calls) call.Wait(ctx.stream());
  slot->calls.clear();
}

void LayerSlots::Begin(Context& ctx) {
  End(ctx);
  Gather(ctx, turns_.Begin());
}

void LayerSlots::Gather(Context& ctx, const SlotTurns::Fills& fills) {
  for (const SlotTurns::Fill& fill : fills) {
    Slot& slot = values_[static_cast<size_t>(fill.slot)];
    Empty(ctx, &slot);
    slot.layer = fill.layer;
    ForEachShared(fill.layer, [&](const ParamBucket& bucket, Communicator& group) {
      slot.calls.push_back(group.AllGather(params_.shard_values(bucket),
                                           PlaceOf(bucket, *slot.memory), ctx.stream()));
    });
  }
}

void LayerSlots::Empty(Context& ctx, Slot* slot) {
  Wait(ctx, slot);
  if (slot->layer < 0) return;
  ForEachShared(slot->layer, [&](const ParamBucket& bucket, Communicator&) {
    params_.BindValues(bucket, Tensor());
  });
  slot->layer = -1;
}

void LayerSlots::Use(Context& ctx, int layer) {
  Slot& slot = values_.at(static_cast<size_t>(turns_.Find(layer)));
  Wait(ctx, &slot);
  ForEachShared(layer, [&](const ParamBucket& bucket, Communicator&) {
    params_.BindValues(bucket, PlaceOf(bucket, *slot.memory));
  });
}

void LayerSlots::BeforeForward(Context& ctx, int layer) {
  Gather(ctx, turns_.Forward(layer));
  Use(ctx, layer);
}

void LayerSlots::BeforeBackward(Context& ctx, int layer) {
  Gather(ctx, turns_.Backward(layer));
  Use(ctx, layer);
  if (!params_.are_sharded_layers_trained()) return;
  Slot& slot = grads_[static_cast<size_t>(grad_turn_)];
  // The last sum of this slot, and that of the micro-batch before, whose result this one adds to.
  for (Slot& other : grads_) {
    if (&other == &slot || other.layer == layer) Wait(ctx, &other);
  }
  slot.layer = layer;
  ForEachShared(layer, [&](const ParamBucket& bucket, Communicator&) {
    const Tensor grads = PlaceOf(bucket, *slot.memory), shard = params_.shard_grads(bucket);
    Zero(ctx, grads);
    Cast(ctx, shard, grads.Rows(params_.shard_offset(bucket), shard.rows()));
    params_.BindGrads(bucket, grads);
  });
}

void LayerSlots::AfterWeightGrad(Context& ctx, int layer) {
  if (!params_.are_sharded_layers_trained()) return;
  Slot& slot = grads_[static_cast<size_t>(grad_turn_)];
  OT_CHECK(slot.layer == layer, "gradients of layer {}, not of {}", slot.layer, layer);
  grad_turn_ = 1 - grad_turn_;
  ForEachShared(layer, [&](const ParamBucket& bucket, Communicator& group) {
    params_.BindGrads(bucket, Tensor());
    slot.calls.push_back(group.ReduceScatter(
        PlaceOf(bucket, *slot.memory), params_.shard_grads(bucket), ReduceOp::kSum, ctx.stream()));
  });
}

void LayerSlots::End(Context& ctx) {
  for (Slot& slot : grads_) Wait(ctx, &slot);
  for (Slot& slot : values_) Empty(ctx, &slot);
}

}  // namespace omnitrain
