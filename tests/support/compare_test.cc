#include "tests/support/compare.h"

#include <cmath>

#include "tests/support/catch.h"

namespace omnitrain {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
using V = std::vector<double>;

TEST_CASE("Compare accepts what is in bound and names what is not") {
  CHECK(Compare(V{1, 2, 3}, V{1, 2, 3}, {}));
  CHECK(Compare(V{}, V{}, {}));
  CHECK(Compare(V{1, 2.001}, V{1, 2}, {0.01}));
  CHECK(Compare(V{1, 2.001}, V{1, 2}, {0, 0.001}));
  const Comparison c = Compare(V{1, 2.5, 4}, V{1, 2, 3}, {0.1});
  CHECK_FALSE(c);
  CHECK(c.first_bad == 1);
  CHECK(c.max_abs == 1);
  CHECK_FALSE(Compare(V{1, 2.001}, V{1, 2}, {1, 1, 1e-6}));
}

TEST_CASE("Compare lets no NaN pass, whatever the bound") {
  const Bound wide{kInf, kInf, kInf};
  CHECK_FALSE(Compare(V{1, kNan}, V{1, 2}, wide));
  CHECK_FALSE(Compare(V{1, 2}, V{1, kNan}, wide));
  CHECK_FALSE(Compare(V{kNan}, V{kNan}, wide));
  CHECK_FALSE(Compare(V{kInf}, V{1}, wide));
  CHECK(Compare(V{kInf, -kInf}, V{kInf, -kInf}, {}));
}

TEST_CASE("Compare walks strided rows and refuses other shapes") {
  std::vector<float> a{1, 2, 9, 3, 4, 9};
  const V b{1, 2, 3, 4};
  const Tensor dense(const_cast<double*>(b.data()), DType::kF64, {2, 2});
  const Tensor strided = Tensor(a.data(), DType::kF32, {2, 3}).Columns(0, 2);
  CHECK(Compare(strided, dense, {}));
  CHECK_FALSE(Compare(strided, dense.View({4}), {}));
}

}  // namespace
}  // namespace omnitrain
