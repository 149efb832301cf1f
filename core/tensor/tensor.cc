#include "core/tensor/tensor.h"

namespace omnitrain {

std::string Shape::ToString() const {
  std::string out = "[";
  for (int i = 0; i < rank_; ++i) out += fmt::format("{}{}", i ? ", " : "", dims_[i]);
  return out + "]";
}

Tensor Tensor::Rows(int64_t begin, int64_t count) const {
  OT_CHECK(shape.rank() >= 1 && begin >= 0 && count >= 0 && begin + count <= shape[0],
           "rows [{}, {}) of {}", begin, begin + count, Describe(*this));
  Tensor t = *this;
  t.data = static_cast<char*>(data) + begin * row_stride * static_cast<int64_t>(DTypeBytes(dtype));
  t.shape[0] = count;
  return t;
}

Tensor Tensor::Columns(int64_t begin, int64_t count) const {
  OT_CHECK(shape.rank() == 2 && begin >= 0 && count >= 0 && begin + count <= shape[1],
           "columns [{}, {}) of {}", begin, begin + count, Describe(*this));
  Tensor t = *this;
  t.data = static_cast<char*>(data) + begin * static_cast<int64_t>(DTypeBytes(dtype));
  t.shape[1] = count;
  return t;
}

Tensor Tensor::View(Shape to) const {
  OT_CHECK(to.num_elements() == num_elements(), "{} seen as {}", Describe(*this), to.ToString());
  Tensor t = *this;
  t.shape = to;
  if (is_dense()) {
    t.row_stride = to.row_elements();
  } else {
    OT_CHECK(to.rank() >= 1 && to[0] == shape[0], "strided {} seen as {}", Describe(*this),
             to.ToString());
  }
  return t;
}

std::string Describe(const Tensor& t) {
  return fmt::format("{} {}", DTypeName(t.dtype), t.shape.ToString());
}

}  // namespace omnitrain
