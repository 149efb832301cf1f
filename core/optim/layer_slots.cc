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

int SlotTurns::Find(int layer) const {
  for (int s = 0; s < 2; ++s) {
    if (held(s) == layer) return s;
  }
  return -1;
}

int SlotTurns::Take(int layer, int staying) {
  if (Find(layer) >= 0) return -1;
  const int slot = held(0) == staying ? 1 : 0;
  held_[static_cast<size_t>(slot)] = layer;
  return slot;
}

LayerSlots::LayerSlots(Context& ctx, ParamStore& params, const SharingGroups& groups)
    : params_(params), groups_(groups) {
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
  if (num_layers() > 0) Gather(ctx, 0, -1);
}

void LayerSlots::Gather(Context& ctx, int layer, int staying) {
  const int s = turns_.Take(layer, staying);
  if (s < 0) return;
  Slot& slot = values_[static_cast<size_t>(s)];
  Wait(ctx, &slot);
  if (slot.layer >= 0) {
    ForEachShared(slot.layer, [&](const ParamBucket& bucket, Communicator&) {
      params_.BindValues(bucket, Tensor());
    });
  }
  slot.layer = layer;
  ForEachShared(layer, [&](const ParamBucket& bucket, Communicator& group) {
    slot.calls.push_back(
        group.AllGather(params_.shard_values(bucket), PlaceOf(bucket, *slot.memory), ctx.stream()));
  });
}

void LayerSlots::Use(Context& ctx, int layer, int next) {
  Gather(ctx, layer, -1);
  Slot& slot = values_[static_cast<size_t>(turns_.Find(layer))];
  Wait(ctx, &slot);
  ForEachShared(layer, [&](const ParamBucket& bucket, Communicator&) {
    params_.BindValues(bucket, PlaceOf(bucket, *slot.memory));
  });
  if (next >= 0 && next < num_layers()) Gather(ctx, next, layer);
}

void LayerSlots::BeforeForward(Context& ctx, int layer) { Use(ctx, layer, layer + 1); }

void LayerSlots::BeforeBackward(Context& ctx, int layer) {
  Use(ctx, layer, layer - 1);
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
  for (Slot& slot : values_) {
    Wait(ctx, &slot);
    if (slot.layer < 0) continue;
    ForEachShared(slot.layer, [&](const ParamBucket& bucket, Communicator&) {
      params_.BindValues(bucket, Tensor());
    });
    slot.layer = -1;
  }
  turns_.Clear();
}

}  // namespace omnitrain
