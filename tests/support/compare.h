#pragma once

#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace omnitrain {

/// What two tensors may differ by. Per element: |got - want| <= abs + rel * |want|; for the whole:
/// ||got - want|| <= rel_l2 * ||want||. Bound{} means equal values.
struct Bound {
  double abs = 0;
  double rel = 0;
  double rel_l2 = std::numeric_limits<double>::infinity();
};

/// What Compare saw. A claim: `CHECK(Compare(got, want, {1e-6}))` prints the message.
struct Comparison {
  bool ok = false;
  double max_abs = 0;      // largest |got - want|; NaN when any difference is
  double rel_l2 = 0;       // ||got - want|| / ||want||
  int64_t first_bad = -1;  // flat index of the first element out of bound, -1 when none is
  std::string message;

  explicit operator bool() const { return ok; }
};
std::ostream& operator<<(std::ostream& out, const Comparison& comparison);

/// Compares in f64, element by element; dtypes may differ, rows may be strided, shapes must be
/// equal (else not ok). NaN on either side is out of bound; equal infinities are equal. Host
/// tensors only.
Comparison Compare(const Tensor& got, const Tensor& want, const Bound& bound);

template <typename A, typename B>
Comparison Compare(const std::vector<A>& got, const std::vector<B>& want, const Bound& bound) {
  const auto view = [](const auto& v) {
    using T = typename std::decay_t<decltype(v)>::value_type;
    return Tensor(const_cast<T*>(v.data()), DTypeOf<T>::value, {static_cast<int64_t>(v.size())});
  };
  return Compare(view(got), view(want), bound);
}

/// One element as f64, by flat index over the (possibly strided) rows. Host tensors only.
double ElementAt(const Tensor& t, int64_t flat_idx);

}  // namespace omnitrain
