#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "core/base/rng.h"
#include "core/runtime/context.h"

namespace omnitrain {

/// A host tensor for tests with memory of its own; rows may be `gap` elements further apart than
/// they are long, and everything starts as NaN, so that what an op fails to write shows.
class Array {
 public:
  Array(DType dtype, Shape shape, int64_t gap = 0) {
    const int64_t stride = shape.row_elements() + (shape.rank() > 1 ? gap : 0);
    const int64_t rows = shape.rank() == 0 ? 1 : shape[0];
    storage_.resize(static_cast<size_t>(rows * stride) + 1);
    tensor_ = Tensor(storage_.data(), dtype, shape);
    tensor_.row_stride = stride;
    num_stored_ = rows * stride;
    for (int64_t i = 0; i < num_stored_; ++i) {
      Set(i, dtype == DType::kI32 ? -1 : std::numeric_limits<double>::quiet_NaN());
    }
  }
  /// Filled with normal values that are the same in every dtype (they are floats).
  static Array Random(DType dtype, Shape shape, uint64_t stream, int64_t gap = 0,
                      double scale = 1) {
    Array a(dtype, shape, gap);
    for (int64_t i = 0; i < a.tensor_.num_elements(); ++i) {
      a.at(i, static_cast<float>(scale * RandomNormal(17, stream, static_cast<uint64_t>(i))));
    }
    return a;
  }
  static Array Filled(DType dtype, Shape shape, double value, int64_t gap = 0) {
    Array a(dtype, shape, gap);
    for (int64_t i = 0; i < a.tensor_.num_elements(); ++i) a.at(i, value);
    return a;
  }
  static Array Ints(const std::vector<int32_t>& values) {
    Array a(DType::kI32, {static_cast<int64_t>(values.size())});
    for (size_t i = 0; i < values.size(); ++i) a.Set(static_cast<int64_t>(i), values[i]);
    return a;
  }
  Array(const Array& o) { *this = o; }
  Array& operator=(const Array& o) {
    storage_ = o.storage_;
    tensor_ = o.tensor_;
    tensor_.data = storage_.data();
    num_stored_ = o.num_stored_;
    return *this;
  }

  const Tensor& operator*() const { return tensor_; }
  /// Element by flat index over the rows.
  double at(int64_t i) const { return Get(Place(i)); }
  void at(int64_t i, double value) { Set(Place(i), value); }
  /// All elements, row after row, and back.
  std::vector<double> Values() const {
    std::vector<double> values(static_cast<size_t>(tensor_.num_elements()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = at(static_cast<int64_t>(i));
    return values;
  }
  void SetValues(const std::vector<double>& values) {
    for (size_t i = 0; i < values.size(); ++i) at(static_cast<int64_t>(i), values[i]);
  }
  /// Bitwise equal, gaps included.
  bool operator==(const Array& o) const { return storage_ == o.storage_; }

 private:
  int64_t Place(int64_t i) const {
    const int64_t width = tensor_.shape.row_elements();
    return i / width * tensor_.row_stride + i % width;
  }
  double Get(int64_t place) const {
    if (tensor_.dtype == DType::kF32) return static_cast<const float*>(tensor_.data)[place];
    if (tensor_.dtype == DType::kI32) return static_cast<const int32_t*>(tensor_.data)[place];
    return static_cast<const double*>(tensor_.data)[place];
  }
  void Set(int64_t place, double value) {
    if (tensor_.dtype == DType::kF32) {
      static_cast<float*>(tensor_.data)[place] = static_cast<float>(value);
    } else if (tensor_.dtype == DType::kI32) {
      static_cast<int32_t*>(tensor_.data)[place] = static_cast<int32_t>(value);
    } else {
      static_cast<double*>(tensor_.data)[place] = value;
    }
  }

  std::vector<uint64_t> storage_;  // bits, so that comparing them compares NaNs too
  Tensor tensor_;
  int64_t num_stored_ = 0;
};

/// A context on the host with `num_threads` OpenMP threads (0: as the environment says).
struct CpuContext {
  explicit CpuContext(int num_threads = 0)
      : device(NewCpuDevice(num_threads)), stream(device->NewStream()), ctx(*device, *stream) {}
  std::unique_ptr<Device> device;
  std::unique_ptr<Stream> stream;
  Context ctx;
};

}  // namespace omnitrain
