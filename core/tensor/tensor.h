#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/base/check.h"
#include "core/tensor/dtype.h"

namespace omnitrain {

/// Up to five dims, outermost first.
class Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    OT_CHECK(dims.size() <= kMaxRank, "{} dims", dims.size());
    for (int64_t d : dims) dims_[rank_++] = d;
  }
  static Shape FromRange(const int64_t* dims, int rank) {
    OT_CHECK(rank <= kMaxRank, "{} dims", rank);
    Shape s;
    for (int i = 0; i < rank; ++i) s.dims_[s.rank_++] = dims[i];
    return s;
  }

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t& operator[](int i) { return dims_[i]; }
  int64_t num_elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  /// Elements of one index of dim 0.
  int64_t row_elements() const {
    int64_t n = 1;
    for (int i = 1; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  bool operator==(const Shape& o) const {
    if (rank_ != o.rank_) return false;
    for (int i = 0; i < rank_; ++i) {
      if (dims_[i] != o.dims_[i]) return false;
    }
    return true;
  }
  bool operator!=(const Shape& o) const { return !(*this == o); }
  /// "[17, 64]".
  std::string ToString() const;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

enum class DeviceKind : uint8_t { kCpu, kCuda };

/// A view of memory on one device: never allocates, never owns. Rows (indices of dim 0) may be
/// further apart than their length (`row_stride`, in elements), so that heads of a fused projection
/// are views; everything inside a row is dense. Shapes: [row, ...].  A default-made tensor is empty
/// (no data) and stands for "absent" where an op allows it.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  DeviceKind device = DeviceKind::kCpu;
  Shape shape;
  int64_t row_stride = 0;

  Tensor() = default;
  /// A dense view.
  Tensor(void* data_, DType dtype_, Shape shape_, DeviceKind device_ = DeviceKind::kCpu)
      : data(data_),
        dtype(dtype_),
        device(device_),
        shape(shape_),
        row_stride(shape_.row_elements()) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t rows() const { return shape.rank() == 0 ? 1 : shape[0]; }
  int64_t num_elements() const { return shape.num_elements(); }
  int64_t num_bytes() const { return num_elements() * static_cast<int64_t>(DTypeBytes(dtype)); }
  bool is_dense() const { return rows() <= 1 || row_stride == shape.row_elements(); }

  template <typename T>
  T* ptr() const {
    OT_CHECK(dtype == DTypeOf<T>::value, "tensor holds {}", DTypeName(dtype));
    return static_cast<T*>(data);
  }
  template <typename T>
  T* row(int64_t i) const {
    return ptr<T>() + i * row_stride;
  }

  /// Rows [begin, begin + count).
  Tensor Rows(int64_t begin, int64_t count) const;
  /// Elements [begin, begin + count) of each row of a [T, D] tensor, seen as [T, count]: strided.
  Tensor Columns(int64_t begin, int64_t count) const;
  /// The same elements in another shape. Dense tensors take any shape; strided ones must keep dim
  /// 0.
  Tensor View(Shape shape) const;
};

/// One line for messages: "f32 [17, 64]".
std::string Describe(const Tensor& t);

}  // namespace omnitrain
