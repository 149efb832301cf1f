#pragma once

#include <array>
#include <string>
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
  int64_t begin = 0, size = 0;  // in elements of the flat values (and gradients); size is a
                                // multiple of 64 * shards
  std::vector<ParamId> params;  // ascending
  ParamSharing sharing = ParamSharing::kSlice;
};

/// All parameters of a model on one rank: values in the compute dtype and main gradients (f32, or
/// f64 for f64), each in one flat block, so that a bucket of either is one tensor. Frozen
/// parameters have a block of their own and no gradients.
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
  /// ranks that a bucket of this class is divided over; a bucket ends with the parameter that takes
  /// it past `bucket_elements`.
  struct AllocateOptions {
    DType dtype = DType::kF32;
    bool frozen[3] = {false, false, false};
    std::array<int, kNumParamSharings> num_shards = {1, 1, 1, 1, 1};
    int64_t bucket_elements = int64_t{1} << 24;
  };
  void Allocate(Device& device, const AllocateOptions& options);

  /// The layout that Allocate would make, without memory: dtypes, buckets and sizes are known
  /// afterwards.
  void Plan(const AllocateOptions& options);
  /// Bytes of values and of main gradients on this rank, after Plan or Allocate.
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

  const Tensor& value(ParamId id) const { return values_[id]; }
  /// Absent (no data) for a frozen parameter.
  const Tensor& grad(ParamId id) const { return grads_[id]; }

  const std::vector<ParamBucket>& buckets() const { return buckets_; }
  Tensor bucket_values(const ParamBucket& bucket) const;
  Tensor bucket_grads(const ParamBucket& bucket) const;
  /// Where a parameter starts in the flat block of trained parameters.
  int64_t flat_begin(ParamId id) const { return flat_begin_[id]; }
  void ZeroGrads(Stream& stream);

 private:
  std::vector<ParamSpec> specs_;
  std::vector<Tensor> values_, grads_;
  std::vector<int64_t> flat_begin_;
  std::vector<ParamBucket> buckets_;
  bool frozen_[3] = {false, false, false};
  DType dtype_ = DType::kF32, grad_dtype_ = DType::kF32;
  int64_t num_trained_ = 0, num_frozen_ = 0;  // elements of the flat blocks, gaps included
  Device* device_ = nullptr;
  OwnedTensor flat_values_, flat_grads_, frozen_values_;
};

/// The main-gradient dtype that goes with a compute dtype.
DType MainGradDType(DType compute);

}  // namespace omnitrain
