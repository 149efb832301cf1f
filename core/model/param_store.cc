#include "core/model/param_store.h"

#include <algorithm>

#include "core/base/rng.h"

namespace omnitrain {
namespace {

// Parameters start on 256-byte borders in f32, so that views of them suit vector loads.
constexpr int64_t kAlignElements = 64;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

const char* ParamGroupName(ParamGroup group) {
  switch (group) {
    case ParamGroup::kVision:
      return "vision";
    case ParamGroup::kProjector:
      return "projector";
    case ParamGroup::kLlm:
      return "llm";
  }
  return "?";
}

DType MainGradDType(DType compute) { return compute == DType::kF64 ? DType::kF64 : DType::kF32; }

std::pair<std::string, int> LayerOfName(const std::string& name) {
  const std::string word = ".layers.";
  const size_t at = name.find(word);
  if (at == std::string::npos) return {"", -1};
  return {name.substr(0, at), std::stoi(name.substr(at + word.size()))};
}

std::vector<StoredPiece> StoredPieces(const ParamSpec& spec, int64_t begin, int64_t end) {
  OT_CHECK(begin >= 0 && end <= spec.shape.num_elements(), "{}: elements [{}, {}) of {}", spec.name,
           begin, end, spec.shape.num_elements());
  const int64_t columns = spec.shape.row_elements();
  std::vector<StoredPiece> pieces;
  for (const HfPart& part : spec.hf_parts) {
    StoredPiece piece;
    piece.part = &part;
    piece.begin = std::max(begin, part.row_begin * columns);
    piece.end = std::min(end, (part.row_begin + part.num_rows) * columns);
    if (piece.begin >= piece.end) continue;
    int64_t stride = 1;  // elements of a row of the stored tensor
    for (size_t i = 1; i < part.shape.size(); ++i) stride *= part.shape[i];
    const auto place_of = [&](int64_t row, int64_t column) {
      return (part.first_row + row - part.row_begin) * stride + part.first_column + column;
    };
    if (columns == stride) {
      piece.runs = {{place_of(0, piece.begin), piece.num_elements()}};
    } else {
      for (const ElementRect& rect : ToRects({{piece.begin, piece.num_elements()}}, columns)) {
        piece.runs.push_back(
            {place_of(rect.row_begin, rect.column_begin), rect.columns(), stride, rect.rows()});
      }
    }
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

std::vector<StoredPiece> StoredPieces(const ParamSpec& spec) {
  return StoredPieces(spec, 0, spec.shape.num_elements());
}

ParamId ParamStore::Add(ParamSpec spec) {
  OT_CHECK(device_ == nullptr, "{} added after Allocate", spec.name);
  int64_t covered = 0;
  for (HfPart& part : spec.hf_parts) {
    OT_CHECK(part.row_begin == covered, "{}: {} starts at row {}, not {}", spec.name, part.name,
             part.row_begin, covered);
    covered += part.num_rows;
    int64_t elements = 1;
    for (int64_t d : part.shape) elements *= d;
    const int64_t rows = part.shape.empty() ? 0 : part.shape[0];
    const int64_t columns = rows > 0 ? elements / rows : 0;
    OT_CHECK(part.first_row >= 0 && part.first_row + part.num_rows <= rows &&
                 part.first_column >= 0 && part.first_column + spec.shape.row_elements() <= columns,
             "{}: rows [{}, +{}) and columns [{}, +{}) of {}, which has {} x {}", spec.name,
             part.first_row, part.num_rows, part.first_column, spec.shape.row_elements(), part.name,
             rows, columns);
  }
  OT_CHECK(covered == spec.shape[0], "{}: parts cover {} of {} rows", spec.name, covered,
           spec.shape[0]);
  specs_.push_back(std::move(spec));
  return num_params() - 1;
}

int64_t ParamStore::num_elements() const {
  int64_t n = 0;
  for (const ParamSpec& spec : specs_) n += spec.shape.num_elements();
  return n;
}

void ParamStore::Plan(const AllocateOptions& options) {
  OT_CHECK(buckets_.empty() && device_ == nullptr, "planned twice");
  dtype_ = options.dtype;
  grad_dtype_ = MainGradDType(options.dtype);
  for (int g = 0; g < 3; ++g) frozen_[g] = options.frozen[g];
  shard_idx_ = options.shard_idx;
  flat_begin_.resize(specs_.size());
  layer_of_.assign(specs_.size(), -1);
  std::array<int, kNumParamSharings> open;  // the bucket that takes parameters of a class, or -1
  open.fill(-1);
  for (ParamId id = 0; id < num_params(); ++id) {
    const int64_t elements = RoundUp(specs_[id].shape.num_elements(), kAlignElements);
    const auto [stack, layer] = LayerOfName(specs_[id].name);
    if (!stack.empty() && stack == options.sharded_stack) layer_of_[id] = layer;
    if (is_sharded(id)) {
      PlanSharded(id, layer_of_[id]);
      continue;
    }
    if (is_frozen(id)) {
      flat_begin_[id] = num_frozen_;
      num_frozen_ += elements;
      continue;
    }
    int& b = open[static_cast<size_t>(specs_[id].sharing)];
    if (b < 0) {
      b = static_cast<int>(buckets_.size());
      buckets_.emplace_back();
      buckets_.back().sharing = specs_[id].sharing;
    }
    ParamBucket& bucket = buckets_[b];
    bucket.params.push_back(id);
    flat_begin_[id] = bucket.size;  // inside the bucket, which has no place yet
    bucket.size += elements;
    if (bucket.size >= options.bucket_elements) b = -1;
  }
  // The first and the last stage hold these at opposite ends of their lists, but have to reduce
  // and gather them at the same turn.
  std::stable_partition(buckets_.begin(), buckets_.end(), [](const ParamBucket& bucket) {
    return bucket.sharing == ParamSharing::kTied;
  });
  for (ParamBucket& bucket : buckets_) {
    bucket.begin = num_trained_;
    bucket.size = RoundUp(bucket.size,
                          kAlignElements * options.num_shards[static_cast<size_t>(bucket.sharing)]);
    num_trained_ += bucket.size;
    for (ParamId id : bucket.params) flat_begin_[id] += bucket.begin;
  }
  PlaceSharded(options);
}

void ParamStore::PlanSharded(ParamId id, int layer) {
  const auto i = static_cast<size_t>(layer);
  OT_CHECK(i <= sharded_layers_.size(), "{}: layers in front of it are not on this rank",
           specs_[id].name);
  if (i == sharded_layers_.size()) sharded_layers_.emplace_back();
  std::vector<ParamBucket>& buckets = sharded_layers_[i].buckets;
  auto bucket = std::find_if(buckets.begin(), buckets.end(),
                             [&](const ParamBucket& b) { return b.sharing == specs_[id].sharing; });
  if (bucket == buckets.end()) {
    bucket = buckets.emplace(bucket);
    bucket->sharing = specs_[id].sharing;
  }
  bucket->params.push_back(id);
  flat_begin_[id] = bucket->size;  // inside the bucket, which has no place yet
  bucket->size += RoundUp(specs_[id].shape.num_elements(), kAlignElements);
}

void ParamStore::PlaceSharded(const AllocateOptions& options) {
  for (ShardedLayer& layer : sharded_layers_) {
    for (ParamBucket& bucket : layer.buckets) {
      bucket.num_shards = options.num_shards[static_cast<size_t>(bucket.sharing)];
      bucket.size = RoundUp(bucket.size, kAlignElements * bucket.num_shards);
      bucket.shard_begin = num_shard_values_;
      num_shard_values_ += bucket.size / bucket.num_shards;
      if (bucket.num_shards == 1) continue;
      bucket.begin = layer.slot_elements;
      layer.slot_elements += bucket.size;
      for (ParamId id : bucket.params) flat_begin_[id] += bucket.begin;
    }
  }
  // One stack is one group: frozen as a whole or not at all.
  const bool is_trained =
      !sharded_layers_.empty() && !is_frozen(sharded_layers_[0].buckets[0].params[0]);
  num_shard_grads_ = is_trained ? num_shard_values_ : 0;
}

int64_t ParamStore::value_bytes() const {
  return (num_trained_ + num_frozen_ + num_shard_values_) *
         static_cast<int64_t>(DTypeBytes(dtype_));
}

int64_t ParamStore::grad_bytes() const {
  return (num_trained_ + num_shard_grads_) * static_cast<int64_t>(DTypeBytes(grad_dtype_));
}

void ParamStore::Allocate(Device& device, const AllocateOptions& options) {
  Plan(options);
  device_ = &device;
  flat_values_ = OwnedTensor(device, dtype_, {num_trained_});
  frozen_values_ = OwnedTensor(device, dtype_, {num_frozen_});
  flat_grads_ = OwnedTensor(device, grad_dtype_, {num_trained_});
  shard_values_ = OwnedTensor(device, dtype_, {num_shard_values_});
  shard_grads_ = OwnedTensor(device, grad_dtype_, {num_shard_grads_});
  const auto stream = device.NewStream();
  // The gaps between parameters take part in reductions, norms and updates: they hold zeros for
  // good.
  for (const OwnedTensor* t :
       {&flat_values_, &frozen_values_, &flat_grads_, &shard_values_, &shard_grads_}) {
    device.Fill((*t)->data, 0, static_cast<size_t>((*t)->num_bytes()), *stream);
  }
  stream->Synchronize();

  values_.resize(specs_.size());
  grads_.resize(specs_.size());
  for (ParamId id = 0; id < num_params(); ++id) {
    if (is_sharded(id)) continue;
    const ParamSpec& spec = specs_[id];
    const int64_t elements = spec.shape.num_elements();
    const Tensor& block = is_frozen(id) ? *frozen_values_ : *flat_values_;
    values_[id] = block.Rows(flat_begin_[id], elements).View(spec.shape);
    if (is_frozen(id)) continue;
    grads_[id] = flat_grads_->Rows(flat_begin_[id], elements).View(spec.shape);
  }
  for (const ShardedLayer& layer : sharded_layers_) {
    for (const ParamBucket& bucket : layer.buckets) {
      if (bucket.num_shards > 1) continue;
      BindValues(bucket, shard_values(bucket));
      if (are_sharded_layers_trained()) BindGrads(bucket, shard_grads(bucket));
    }
  }
}

const Tensor& ParamStore::value(ParamId id) const {
  OT_CHECK(values_[id], "{}: its layer is sharded and not in a slot", specs_[id].name);
  return values_[id];
}

const Tensor& ParamStore::grad(ParamId id) const {
  OT_CHECK(grads_[id] || is_frozen(id), "{}: its layer is sharded and has no gradients now",
           specs_[id].name);
  return grads_[id];
}

ParamStore::Kept ParamStore::kept(ParamId id) const {
  const int64_t elements = specs_[id].shape.num_elements();
  if (!is_sharded(id)) return {0, values_[id].View({elements})};
  const std::vector<ParamBucket>& buckets =
      sharded_layers_[static_cast<size_t>(layer_of_[id])].buckets;
  const ParamBucket& bucket =
      *std::find_if(buckets.begin(), buckets.end(),
                    [&](const ParamBucket& b) { return b.sharing == specs_[id].sharing; });
  const Tensor shard = shard_values(bucket);
  const int64_t param_begin = flat_begin_[id] - bucket.begin, offset = shard_offset(bucket);
  const int64_t begin = std::max(param_begin, offset);
  const int64_t end = std::min(param_begin + elements, offset + shard.rows());
  if (begin >= end) return {};
  return {begin - param_begin, shard.Rows(begin - offset, end - begin)};
}

void ParamStore::Initialize(uint64_t seed, double std, Stream& stream) {
  for (ParamId id = 0; id < num_params(); ++id) {
    const ParamSpec& spec = specs_[id];
    const Kept kept = this->kept(id);
    if (!kept.values) continue;
    const int64_t num_kept = kept.values.num_elements();
    std::vector<float> f32(static_cast<size_t>(num_kept),
                           spec.init == ParamInit::kOne ? 1.0f : 0.0f);
    if (spec.init == ParamInit::kNormal) {
      for (const StoredPiece& piece : StoredPieces(spec, kept.begin, kept.begin + num_kept)) {
        const uint64_t name_stream = StreamId(piece.part->name.c_str());
        float* out = f32.data() + piece.begin - kept.begin;
        for (const ElementRun& run : piece.runs) {
#pragma omp parallel for
          for (int64_t i = 0; i < run.num_elements(); ++i) {
            out[i] = static_cast<float>(
                std * RandomNormal(seed, name_stream, static_cast<uint64_t>(run[i])));
          }
          out += run.num_elements();
        }
      }
    }
    const auto write = [&](const auto& host) {
      device_->Copy(kept.values.data, host.data(), host.size() * sizeof(host[0]), stream);
      stream.Synchronize();
    };
    switch (dtype_) {
      case DType::kF32:
        write(f32);
        break;
      case DType::kF64:
        write(std::vector<double>(f32.begin(), f32.end()));
        break;
      case DType::kBF16: {
        std::vector<BFloat16> bf16(f32.size());
#pragma omp parallel for
        for (size_t i = 0; i < f32.size(); ++i) bf16[i] = ToBFloat16(f32[i]);
        write(bf16);
        break;
      }
      default:
        OT_CHECK(false, "parameters in {}", DTypeName(dtype_));
    }
  }
}

Tensor ParamStore::bucket_values(const ParamBucket& bucket) const {
  return flat_values_->Rows(bucket.begin, bucket.size);
}

Tensor ParamStore::bucket_grads(const ParamBucket& bucket) const {
  return flat_grads_->Rows(bucket.begin, bucket.size);
}

void ParamStore::ZeroGrads(Stream& stream) {
  for (const OwnedTensor* t : {&flat_grads_, &shard_grads_}) {
    if ((*t)->num_bytes() == 0) continue;
    device_->Fill((*t)->data, 0, static_cast<size_t>((*t)->num_bytes()), stream);
  }
}

Tensor ParamStore::shard_values(const ParamBucket& bucket) const {
  return shard_values_->Rows(bucket.shard_begin, bucket.size / bucket.num_shards);
}

Tensor ParamStore::shard_grads(const ParamBucket& bucket) const {
  return shard_grads_->Rows(bucket.shard_begin, bucket.size / bucket.num_shards);
}

int64_t ParamStore::shard_offset(const ParamBucket& bucket) const {
  return bucket.size / bucket.num_shards * shard_idx_[static_cast<size_t>(bucket.sharing)];
}

void ParamStore::BindValues(const ParamBucket& bucket, const Tensor& memory) {
  Bind(bucket, memory, &values_);
}

void ParamStore::BindGrads(const ParamBucket& bucket, const Tensor& memory) {
  Bind(bucket, memory, &grads_);
}

void ParamStore::Bind(const ParamBucket& bucket, const Tensor& memory,
                      std::vector<Tensor>* tensors) const {
  OT_CHECK(!memory || memory.num_elements() == bucket.size, "a bucket of {} elements in {}",
           bucket.size, memory.num_elements());
  for (ParamId id : bucket.params) {
    const Shape& shape = specs_[id].shape;
    (*tensors)[id] =
        memory ? memory.Rows(flat_begin_[id] - bucket.begin, shape.num_elements()).View(shape)
               : Tensor();
  }
}

}  // namespace omnitrain
