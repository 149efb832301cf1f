#pragma once

#include <array>
#include <string>
#include <vector>

#include "core/model/param_store.h"
#include "core/runtime/context.h"
#include "parallel/comm/communicator.h"

namespace omnitrain {

struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;                  // of parameters with two or more dims
  double clip = 1.0;                        // largest global gradient norm; 0: no clipping
  std::array<double, 3> lr_scale{1, 1, 1};  // per ParamGroup
};

/// Which ranks hold the same elements as this one, per class: exactly these, so that every element
/// of the model is owned by one rank of the world.
struct SharingGroups {
  std::array<Communicator*, kNumParamSharings> of_class{};  // absent: this rank alone
  Communicator* world = nullptr;

  /// Every rank holds the whole model.
  static SharingGroups AllOver(Communicator& world);
  /// Ranks of a class's group, and this rank's place among them.
  int SizeOf(ParamSharing sharing) const;
  int RankIn(ParamSharing sharing) const;
  /// What ParamStore::AllocateOptions wants: num_shards and shard_idx.
  std::array<int, kNumParamSharings> Sizes() const;
  std::array<int, kNumParamSharings> Places() const;
};

/// A piece of a parameter whose optimizer state lives on this rank: elements [begin, end) of it,
/// flat.
struct OwnedRange {
  ParamId param = -1;
  int64_t begin = 0, end = 0;
  Tensor master, m, v;  // [end - begin]
  Tensor grads;         // [end - begin], summed over the holders once reduced
};

/// AdamW with its state divided over the ranks that hold the same parameters (ZeRO stage 1).
/// Each bucket of the ParamStore is cut into as many equal shards as its class has ranks; a rank
/// reduces, updates and hands out its own. Master weights are the values themselves where the
/// compute dtype is f32 or f64.
/// Of sharded layers it updates what the ParamStore keeps: their gradients are reduced and their
/// values gathered while a step runs (LayerSlots), not here.
/// Collective: all ranks of the world make the same calls. Calls of different groups interleave in
/// the order of buckets, last to first when reducing and first to last when gathering, which is the
/// same on all ranks of a pipeline stage as they declare the same parameters of the same sizes.
/// Tied embeddings, which span stages, are everywhere the last to be reduced and the first to be
/// gathered (see ReduceAhead).
/// Source: Rajbhandari et al. 2020 (ZeRO), section 5.1; Loshchilov & Hutter 2019.
class ShardedAdamW {
 public:
  /// Values must be filled already: master weights start from them. The communicators of `groups`
  /// outlive the optimizer.
  ShardedAdamW(Context& ctx, ParamStore& params, const SharingGroups& groups,
               const AdamWConfig& config);
  /// All of the model on every rank of `world`.
  ShardedAdamW(Context& ctx, ParamStore& params, Communicator& world, const AdamWConfig& config)
      : ShardedAdamW(ctx, params, SharingGroups::AllOver(world), config) {}

  /// Starts summing the gradients of a bucket over its holders, beside what the stream does next;
  /// the shard of this rank is complete after FinishReduce. All ranks of a group start the same
  /// buckets in the same order.
  void StartReduce(Context& ctx, int bucket);
  void FinishReduce(Context& ctx);

  /// The global L2 norm of the reduced gradients times `grad_scale` (1 / loss tokens), every
  /// parameter counted once. Waits for the device: the one host value of a step.
  double GradNorm(Context& ctx, double grad_scale);

  /// A host value summed over the ranks of the world.
  double SumOverRanks(double mine) { return groups_.world->AllReduceScalar(mine, ReduceOp::kSum); }

  /// Clips, updates the owned shards and starts gathering the new values, in the order of buckets,
  /// beside what the stream does next. `step` counts from 1.
  void Update(Context& ctx, int64_t step, double lr, double grad_scale, double grad_norm);
  /// After this, the values of buckets [0, end) are the new ones for work given to the stream from
  /// now on; -1: of all. To be called before values are read.
  void FinishGather(Context& ctx, int end = -1);

  const SharingGroups& groups() const { return groups_; }
  const std::vector<OwnedRange>& owned() const { return owned_; }
  /// Master weights were written from outside (a checkpoint): brings the values of all ranks up to
  /// date.
  void PublishMasters(Context& ctx);
  int64_t state_bytes() const;
  /// The same before there is an optimizer: of a rank whose classes have as many holders each.
  static int64_t StateBytes(const ParamStore& params,
                            const std::array<int, kNumParamSharings>& num_shards);

  /// The first parameter of this rank's shards with a gradient that is not finite, or "" (host
  /// side, slow).
  std::string FindNonFiniteGrad(Context& ctx) const;

 private:
  struct Shard {
    Tensor values;  // this rank's slice of the bucket's values
    Tensor grads;   // its reduced gradients
    Tensor master, m, v;
  };
  /// Where the next shard's state and, if it has to be reduced, gradients go.
  struct Cursor {
    int64_t state = 0, grads = 0;
  };
  /// The state of a shard, which begins at element `offset` of its bucket.
  void AddShard(Context& ctx, const ParamBucket& bucket, int64_t offset, Shard shard,
                Cursor* cursor);
  /// Of a bucket; absent: this rank alone.
  Communicator* GroupOf(const ParamBucket& bucket) const;
  /// Starts handing out this rank's values of every bucket that has other holders.
  void StartGather(Context& ctx);

  ParamStore& params_;
  SharingGroups groups_;
  AdamWConfig config_;
  bool has_masters_ = false;  // apart from the values
  OwnedTensor shard_grads_, masters_, m_, v_, sum_;
  std::vector<Shard> shards_;  // per bucket, those of sharded layers last
  std::vector<OwnedRange> owned_;
  std::vector<Tensor> owned_values_;  // per range
  std::vector<CommHandle> reduces_;
  std::vector<CommHandle> gathers_;  // per bucket, from the last StartGather
  int num_gathered_ = 0;             // of these, how many were waited for
};

}  // namespace omnitrain
