#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "core/runtime/device.h"
#include "core/tensor/element_run.h"

namespace omnitrain {

/// The parts of a model that are frozen, or trained at another rate, together.
enum class ParamGroup : uint8_t { kVision, kProjector, kLlm };
const char* ParamGroupName(ParamGroup group);  // "vision", "projector", "llm"

enum class ParamInit : uint8_t { kNormal, kZero, kOne };

/// How rows of a parameter are named in a Hugging Face directory, and which part of the tensor
/// there they are. A fused projection has several parts. The stored tensor counts as a matrix of
/// shape[0] rows; this rank holds rows [first_row, first_row + num_rows) of it and, of these,
/// columns from first_column on, as many as a row of the parameter has.
struct HfPart {
  std::string name;
  int64_t row_begin = 0, num_rows = 0;  // rows of the parameter
  std::vector<int64_t> shape;  // the whole as stored: patch_embed.proj.weight has five dims
  int64_t first_row = 0, first_column = 0;
};

/// Which ranks hold the same elements of a parameter: they sum its gradients and share its
/// optimizer state.
enum class ParamSharing : uint8_t {
  kSlice,    // one tp slice of a layer: its dp x cp
  kWhole,    // the same on all tp ranks (norms, the router, encoders): dp x cp x tp
  kKvHeads,  // a kv head that several tp ranks hold: dp x cp x (tp / kv heads)
  kTied,     // embeddings that the first and the last stage hold: dp x cp x these two
  kExperts,  // some experts of a layer: dp x cp x tp / ep
};
constexpr int kNumParamSharings = 5;

struct ParamSpec {
  std::string name;  // ours, global: "llm.layers.3.qkv.weight"
  Shape shape;       // [D] or [out, in]
  ParamGroup group = ParamGroup::kLlm;
  ParamInit init = ParamInit::kNormal;
  ParamSharing sharing = ParamSharing::kSlice;
  std::vector<HfPart> hf_parts;  // cover the rows exactly once
};

/// Elements of a parameter and where they lie in the tensor stored under a Hugging Face name.
struct StoredPiece {
  const HfPart* part = nullptr;
  int64_t begin = 0, end = 0;    // elements of the parameter, flat
  std::vector<ElementRun> runs;  // the same, in this order, in the whole stored tensor

  int64_t num_elements() const { return end - begin; }
};

/// Elements [begin, end) of a parameter by the stored tensors they belong to: one piece for each
/// part that has some of them, in their order; a piece has three runs at most (the rest of a row,
/// whole rows, the beginning of a row).
std::vector<StoredPiece> StoredPieces(const ParamSpec& spec, int64_t begin, int64_t end);
std::vector<StoredPiece> StoredPieces(const ParamSpec& spec);  // of all its elements

using ParamId = int;

/// Parameters whose values and gradients are contiguous: what ZeRO shards, reduces and gathers as
/// one. All of them are shared by the same ranks.
struct ParamBucket {
  int64_t begin = 0, size = 0;  // in elements of the flat values (and gradients), or of the slot of
                                // a sharded layer; size is a multiple of 64 * shards
  std::vector<ParamId> params;  // ascending
  ParamSharing sharing = ParamSharing::kSlice;
  // Of a sharded layer:
  int num_shards = 1;       // one: this rank alone holds it, as its shard, and needs no slot
  int64_t shard_begin = 0;  // where this rank's shard lies among those that it keeps
};

/// A layer of which a rank keeps its shards alone (ZeRO stage 3): its parameters have values and
/// gradients only while they are bound to a slot that holds all of them.
struct ShardedLayer {
  std::vector<ParamBucket> buckets;  // one for each class, side by side in a slot
  int64_t slot_elements = 0;
};

/// All parameters of a model on one rank: values in the compute dtype and main gradients (f32, or
/// f64 for f64), each in one flat block, so that a bucket of either is one tensor. Frozen
/// parameters have a block of their own and no gradients; sharded layers have a block of shards,
/// and gradients of it unless they are frozen.
/// A bucket takes parameters of its class in the order of Add, and buckets follow each other by
/// their first parameters: a backward, which goes through the parameters from the last to the
/// first, completes buckets from the last to the first. Tied embeddings alone go in front of all.
class ParamStore {
 public:
  /// Declares a parameter; before Allocate().  Errors: kInternal when hf_parts do not cover the
  /// rows.
  ParamId Add(ParamSpec spec);

  /// Makes the memory; values are undefined and gradients zero afterwards.
  /// `frozen[group]` says which groups get no gradient; `num_shards[sharing]` is the number of
  /// ranks that a bucket of this class is divided over, `shard_idx[sharing]` this one's place among
  /// them; a bucket ends with the parameter that takes it past `bucket_elements`.
  /// `sharded_stack`: the layers of this stack ("llm", all of them on this rank) are sharded.
  struct AllocateOptions {
    DType dtype = DType::kF32;
    bool frozen[3] = {false, false, false};
    std::array<int, kNumParamSharings> num_shards = {1, 1, 1, 1, 1};
    std::array<int, kNumParamSharings> shard_idx = {0, 0, 0, 0, 0};
    int64_t bucket_elements = int64_t{1} << 24;
    std::string sharded_stack;
  };
  void Allocate(Device& device, const AllocateOptions& options);

  /// The layout that Allocate would make, without memory: dtypes, buckets and sizes are known
  /// afterwards.
  void Plan(const AllocateOptions& options);
  /// Bytes of values and of main gradients on this rank, slots of layers left out, after Plan or
  /// Allocate.
  int64_t value_bytes() const;
  int64_t grad_bytes() const;

  /// Draws the values of parameters of a fresh model from (seed, Hugging Face name, place in the
  /// whole stored tensor): the same model on every layout. kNormal is N(0, std^2).
  /// Source: initializer_range of the Hugging Face configurations.
  void Initialize(uint64_t seed, double std, Stream& stream);

  int num_params() const { return static_cast<int>(specs_.size()); }
  const ParamSpec& spec(ParamId id) const { return specs_[id]; }
  bool is_group_frozen(ParamGroup group) const { return frozen_[static_cast<int>(group)]; }
  bool is_frozen(ParamId id) const { return is_group_frozen(specs_[id].group); }
  DType dtype() const { return dtype_; }
  DType grad_dtype() const { return grad_dtype_; }
  int64_t num_elements() const;

  /// Errors: kInternal for a sharded parameter that is not bound.
  const Tensor& value(ParamId id) const;
  /// Absent (no data) for a frozen parameter.  Errors: as value.
  const Tensor& grad(ParamId id) const;

  /// What a rank keeps of a parameter's values whatever is bound: elements [begin, begin +
  /// values.rows()), flat. All of them, or those in its shard, which may be none (absent).
  struct Kept {
    int64_t begin = 0;
    Tensor values;
  };
  Kept kept(ParamId id) const;
  bool is_sharded(ParamId id) const { return layer_of_[id] >= 0; }

  /// Those of trained parameters, without sharded layers.
  const std::vector<ParamBucket>& buckets() const { return buckets_; }
  Tensor bucket_values(const ParamBucket& bucket) const;
  Tensor bucket_grads(const ParamBucket& bucket) const;
  /// Where a parameter starts: in the flat block of trained parameters, or in its layer's slot.
  int64_t flat_begin(ParamId id) const { return flat_begin_[id]; }
  void ZeroGrads(Stream& stream);

  /// Layers from the first on.
  const std::vector<ShardedLayer>& sharded_layers() const { return sharded_layers_; }
  bool are_sharded_layers_trained() const { return num_shard_grads_ > 0; }
  /// This rank's shard of a sharded layer's bucket.
  Tensor shard_values(const ParamBucket& bucket) const;
  Tensor shard_grads(const ParamBucket& bucket) const;
  /// The place of this rank's shard in such a bucket.
  int64_t shard_offset(const ParamBucket& bucket) const;
  /// Points the parameters of such a bucket at memory of its size; an absent tensor takes it away.
  void BindValues(const ParamBucket& bucket, const Tensor& memory);
  void BindGrads(const ParamBucket& bucket, const Tensor& memory);

 private:
  void PlanSharded(ParamId id, int layer);
  void PlaceSharded(const AllocateOptions& options);
  void Bind(const ParamBucket& bucket, const Tensor& memory, std::vector<Tensor>* tensors) const;

  std::vector<ParamSpec> specs_;
  std::vector<Tensor> values_, grads_;
  std::vector<int64_t> flat_begin_;
  std::vector<int> layer_of_;  // -1: not of a sharded layer
  std::vector<ParamBucket> buckets_;
  std::vector<ShardedLayer> sharded_layers_;
  std::array<int, kNumParamSharings> shard_idx_{};
  bool frozen_[3] = {false, false, false};
  DType dtype_ = DType::kF32, grad_dtype_ = DType::kF32;
  // Elements of the blocks, gaps included.
  int64_t num_trained_ = 0, num_frozen_ = 0, num_shard_values_ = 0, num_shard_grads_ = 0;
  Device* device_ = nullptr;
  OwnedTensor flat_values_, flat_grads_, frozen_values_, shard_values_, shard_grads_;
};

/// The stack and layer that a parameter's name says: "llm.layers.3.qkv.weight" is of {"llm", 3}.
/// {"", -1}: of no layer.
std::pair<std::string, int> LayerOfName(const std::string& name);

/// The main-gradient dtype that goes with a compute dtype.
DType MainGradDType(DType compute);

}  // namespace omnitrain
