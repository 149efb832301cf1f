#include "core/optim/sharded_adamw.h"

#include <algorithm>
#include <cmath>

#include "kernels/adamw/adamw.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/reduce/reduce.h"

namespace omnitrain {
namespace {

/// Of sharded layers, what this rank keeps.
int64_t NumTrainedShardElements(const ParamStore& params) {
  int64_t elements = 0;
  for (const ShardedLayer& layer : params.sharded_layers()) {
    for (const ParamBucket& bucket : layer.buckets) elements += bucket.size / bucket.num_shards;
  }
  return params.are_sharded_layers_trained() ? elements : 0;
}

}  // namespace

SharingGroups SharingGroups::AllOver(Communicator& world) {
  SharingGroups groups;
  groups.of_class.fill(&world);
  groups.world = &world;
  return groups;
}

int SharingGroups::SizeOf(ParamSharing sharing) const {
  const Communicator* group = of_class[static_cast<size_t>(sharing)];
  return group == nullptr ? 1 : group->size();
}

int SharingGroups::RankIn(ParamSharing sharing) const {
  const Communicator* group = of_class[static_cast<size_t>(sharing)];
  return group == nullptr ? 0 : group->rank();
}

std::array<int, kNumParamSharings> SharingGroups::Sizes() const {
  std::array<int, kNumParamSharings> sizes;
  for (int i = 0; i < kNumParamSharings; ++i) sizes[i] = SizeOf(static_cast<ParamSharing>(i));
  return sizes;
}

std::array<int, kNumParamSharings> SharingGroups::Places() const {
  std::array<int, kNumParamSharings> places;
  for (int i = 0; i < kNumParamSharings; ++i) places[i] = RankIn(static_cast<ParamSharing>(i));
  return places;
}

ShardedAdamW::ShardedAdamW(Context& ctx, ParamStore& params, const SharingGroups& groups,
                           const AdamWConfig& config)
    : params_(params), groups_(groups), config_(config) {
  OT_CHECK(groups.world != nullptr, "an optimizer without a world");
  const DType state = params.grad_dtype();
  has_masters_ = params.dtype() != state;
  int64_t elements = 0, reduced_elements = 0;
  for (const ParamBucket& bucket : params.buckets()) {
    const int num_shards = groups.SizeOf(bucket.sharing);
    OT_CHECK(bucket.size % num_shards == 0, "a bucket of {} elements over {} ranks", bucket.size,
             num_shards);
    elements += bucket.size / num_shards;
    if (num_shards > 1) reduced_elements += bucket.size / num_shards;
  }
  elements += NumTrainedShardElements(params);
  Device& device = ctx.device();
  shard_grads_ = OwnedTensor(device, state, {reduced_elements});
  if (has_masters_) masters_ = OwnedTensor(device, state, {elements});
  m_ = OwnedTensor(device, state, {elements});
  v_ = OwnedTensor(device, state, {elements});
  sum_ = OwnedTensor(device, DType::kF64, {1});
  if (elements > 0) {
    Zero(ctx, *m_);
    Zero(ctx, *v_);
  }

  Cursor cursor;
  for (const ParamBucket& bucket : params.buckets()) {
    const int num_shards = groups.SizeOf(bucket.sharing);
    const int64_t count = bucket.size / num_shards, offset = count * groups.RankIn(bucket.sharing);
    Shard shard;
    shard.values = params.bucket_values(bucket).Rows(offset, count);
    shard.grads = params.bucket_grads(bucket);
    if (num_shards > 1) {
      shard.grads = shard_grads_->Rows(cursor.grads, count);
      cursor.grads += count;
    }
    AddShard(ctx, bucket, offset, shard, &cursor);
  }
  if (!params.are_sharded_layers_trained()) return;
  for (const ShardedLayer& layer : params.sharded_layers()) {
    for (const ParamBucket& bucket : layer.buckets) {
      Shard shard;
      shard.values = params.shard_values(bucket);
      shard.grads = params.shard_grads(bucket);
      AddShard(ctx, bucket, params.shard_offset(bucket), shard, &cursor);
    }
  }
}

void ShardedAdamW::AddShard(Context& ctx, const ParamBucket& bucket, int64_t offset, Shard shard,
                            Cursor* cursor) {
  const int64_t count = shard.values.rows();
  shard.master = has_masters_ ? masters_->Rows(cursor->state, count) : shard.values;
  shard.m = m_->Rows(cursor->state, count);
  shard.v = v_->Rows(cursor->state, count);
  if (has_masters_) Cast(ctx, shard.values, shard.master);
  cursor->state += count;

  const int64_t shard_begin = bucket.begin + offset, shard_end = shard_begin + count;
  for (ParamId id : bucket.params) {
    const int64_t param_begin = params_.flat_begin(id);
    const int64_t begin = std::max(param_begin, shard_begin);
    const int64_t end = std::min(param_begin + params_.spec(id).shape.num_elements(), shard_end);
    if (begin >= end) continue;
    const auto piece = [&](const Tensor& t) { return t.Rows(begin - shard_begin, end - begin); };
    owned_.push_back({id, begin - param_begin, end - param_begin, piece(shard.master),
                      piece(shard.m), piece(shard.v), piece(shard.grads)});
    owned_values_.push_back(piece(shard.values));
  }
  shards_.push_back(shard);
}

Communicator* ShardedAdamW::GroupOf(const ParamBucket& bucket) const {
  return groups_.SizeOf(bucket.sharing) == 1
             ? nullptr
             : groups_.of_class[static_cast<size_t>(bucket.sharing)];
}

void ShardedAdamW::StartReduce(Context& ctx, int bucket) {
  const ParamBucket& grads = params_.buckets()[bucket];
  Communicator* group = GroupOf(grads);
  if (group == nullptr) return;
  reduces_.push_back(group->ReduceScatter(params_.bucket_grads(grads), shards_[bucket].grads,
                                          ReduceOp::kSum, ctx.stream()));
}

void ShardedAdamW::FinishReduce(Context& ctx) {
  for (CommHandle& handle : reduces_) handle.Wait(ctx.stream());
  reduces_.clear();
}

double ShardedAdamW::GradNorm(Context& ctx, double grad_scale) {
  Zero(ctx, *sum_);
  // Per parameter, not per shard: the gaps between parameters hold zeros, but a parameter's own
  // elements alone define it.
  for (const OwnedRange& range : owned_) SumOfSquares(ctx, range.grads, *sum_);
  double sum = 0;
  ctx.device().Copy(&sum, sum_->data, sizeof sum, ctx.stream());
  ctx.stream().Synchronize();
  return std::sqrt(SumOverRanks(sum)) * grad_scale;
}

void ShardedAdamW::Update(Context& ctx, int64_t step, double lr, double grad_scale,
                          double grad_norm) {
  FinishGather(ctx);
  // The factor and its guard are those of torch.nn.utils.clip_grad_norm_.
  const double factor = config_.clip > 0 ? std::min(1.0, config_.clip / (grad_norm + 1e-6)) : 1.0;
  for (size_t i = 0; i < owned_.size(); ++i) {
    const OwnedRange& range = owned_[i];
    const ParamSpec& spec = params_.spec(range.param);
    AdamWParams p;
    p.lr = lr * config_.lr_scale[static_cast<size_t>(spec.group)];
    p.beta1 = config_.beta1;
    p.beta2 = config_.beta2;
    p.eps = config_.eps;
    p.weight_decay = spec.shape.rank() >= 2 ? config_.weight_decay : 0.0;
    p.step = step;
    p.grad_scale = grad_scale * factor;
    AdamWStep(ctx, p, range.grads, range.master, range.m, range.v, owned_values_[i]);
  }
  StartGather(ctx);
}

void ShardedAdamW::StartGather(Context& ctx) {
  for (size_t b = 0; b < params_.buckets().size(); ++b) {
    const ParamBucket& bucket = params_.buckets()[b];
    Communicator* group = GroupOf(bucket);
    gathers_.push_back(
        group == nullptr
            ? CommHandle()
            : group->AllGather(shards_[b].values, params_.bucket_values(bucket), ctx.stream()));
  }
}

void ShardedAdamW::FinishGather(Context& ctx, int end) {
  const int num_started = static_cast<int>(gathers_.size());
  if (end < 0 || end > num_started) end = num_started;
  for (; num_gathered_ < end; ++num_gathered_) gathers_[num_gathered_].Wait(ctx.stream());
  if (num_gathered_ < num_started) return;
  gathers_.clear();
  num_gathered_ = 0;
}

void ShardedAdamW::PublishMasters(Context& ctx) {
  FinishGather(ctx);
  for (const Shard& shard : shards_) {
    if (has_masters_) Cast(ctx, shard.master, shard.values);
  }
  StartGather(ctx);
  FinishGather(ctx);
}

int64_t ShardedAdamW::state_bytes() const {
  return m_->num_bytes() + v_->num_bytes() + masters_->num_bytes() + shard_grads_->num_bytes();
}

int64_t ShardedAdamW::StateBytes(const ParamStore& params,
                                 const std::array<int, kNumParamSharings>& num_shards) {
  const int64_t num_kept = params.dtype() != params.grad_dtype() ? 3 : 2;  // m, v and masters
  int64_t elements = 0;
  for (const ParamBucket& bucket : params.buckets()) {
    const int n = num_shards[static_cast<size_t>(bucket.sharing)];
    elements += bucket.size / n * (num_kept + (n > 1 ? 1 : 0));
  }
  elements += NumTrainedShardElements(params) * num_kept;
  return elements * static_cast<int64_t>(DTypeBytes(params.grad_dtype()));
}

std::string ShardedAdamW::FindNonFiniteGrad(Context& ctx) const {
  for (size_t i = 0; i < owned_.size(); ++i) {
    const Tensor& g = owned_[i].grads;
    std::vector<char> host(static_cast<size_t>(g.num_bytes()));
    ctx.device().Copy(host.data(), g.data, host.size(), ctx.stream());
    ctx.stream().Synchronize();
    bool finite = true;
    DispatchReal(g.dtype, [&](auto real) {
      using Real = decltype(real);
      const Real* x = reinterpret_cast<const Real*>(host.data());
      for (int64_t k = 0; k < g.num_elements() && finite; ++k) finite = std::isfinite(x[k]);
    });
    if (!finite) return params_.spec(owned_[i].param).name;
  }
  return "";
}

}  // namespace omnitrain
