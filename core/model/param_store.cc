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
  flat_begin_.resize(specs_.size());
  std::array<int, kNumParamSharings> open;  // the bucket that takes parameters of a class, or -1
  open.fill(-1);
  for (ParamId id = 0; id < num_params(); ++id) {
    const int64_t elements = RoundUp(specs_[id].shape.num_elements(), kAlignElements);
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
}

int64_t ParamStore::value_bytes() const {
  return (num_trained_ + num_frozen_) * static_cast<int64_t>(DTypeBytes(dtype_));
}

int64_t ParamStore::grad_bytes() const {
  return num_trained_ * static_cast<int64_t>(DTypeBytes(grad_dtype_));
}

void ParamStore::Allocate(Device& device, const AllocateOptions& options) {
  Plan(options);
  device_ = &device;
  flat_values_ = OwnedTensor(device, dtype_, {num_trained_});
  frozen_values_ = OwnedTensor(device, dtype_, {num_frozen_});
  flat_grads_ = OwnedTensor(device, grad_dtype_, {num_trained_});
  const auto stream = device.NewStream();
  // The gaps between parameters take part in reductions, norms and updates: they hold zeros for
  // good.
  for (const OwnedTensor* t : {&flat_values_, &frozen_values_, &flat_grads_}) {
    device.Fill((*t)->data, 0, static_cast<size_t>((*t)->num_bytes()), *stream);
  }
  stream->Synchronize();

  for (ParamId id = 0; id < num_params(); ++id) {
    const ParamSpec& spec = specs_[id];
    const int64_t elements = spec.shape.num_elements();
    const Tensor& block = is_frozen(id) ? *frozen_values_ : *flat_values_;
    values_.push_back(block.Rows(flat_begin_[id], elements).View(spec.shape));
    grads_.push_back(is_frozen(id) ? Tensor()
                                   : flat_grads_->Rows(flat_begin_[id], elements).View(spec.shape));
  }
}

void ParamStore::Initialize(uint64_t seed, double std, Stream& stream) {
  for (ParamId id = 0; id < num_params(); ++id) {
    const ParamSpec& spec = specs_[id];
    std::vector<float> f32(static_cast<size_t>(spec.shape.num_elements()),
                           spec.init == ParamInit::kOne ? 1.0f : 0.0f);
    if (spec.init == ParamInit::kNormal) {
      for (const StoredPiece& piece : StoredPieces(spec)) {
        const uint64_t name_stream = StreamId(piece.part->name.c_str());
        float* out = f32.data() + piece.begin;
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
      device_->Copy(values_[id].data, host.data(), host.size() * sizeof(host[0]), stream);
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
  if (flat_grads_->num_bytes() > 0) {
    device_->Fill(flat_grads_->data, 0, static_cast<size_t>(flat_grads_->num_bytes()), stream);
  }
}

}  // namespace omnitrain
