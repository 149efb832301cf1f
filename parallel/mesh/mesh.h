#pragma once

#include <array>
#include <string>
#include <vector>

namespace omnitrain {

/// The axes of parallelism, in the default rank order from fastest to slowest. ep is no axis of its
/// own: it is a view over the ranks of dp x cp (x tp).
enum class Axis { kTp, kCp, kDp, kPp };

constexpr int kNumAxes = 4;

/// "tp", "cp", "dp", "pp".
const char* AxisName(Axis axis);

/// A range of ranks seen as a grid with named axes. A value; no I/O, no globals.
class Mesh {
 public:
  using Sizes = std::array<int, kNumAxes>;  // by Axis, not by order
  using Order = std::array<Axis, kNumAxes>;
  using Coordinates = std::array<int, kNumAxes>;  // by Axis

  static constexpr Order kDefaultOrder = {Axis::kTp, Axis::kCp, Axis::kDp, Axis::kPp};

  /// One rank.
  Mesh() : Mesh(0, {1, 1, 1, 1}) {}
  /// Ranks [first_rank, first_rank + product of sizes); order from fastest to slowest.
  Mesh(int first_rank, Sizes sizes, Order order = kDefaultOrder);

  int first_rank() const { return first_rank_; }
  int num_ranks() const;
  int size(Axis axis) const { return sizes_[static_cast<size_t>(axis)]; }
  const Order& order() const { return order_; }
  bool Contains(int rank) const;

  /// Requires Contains(rank).
  Coordinates CoordinatesOf(int rank) const;
  int Coordinate(int rank, Axis axis) const;
  int RankAt(const Coordinates& coordinates) const;

  /// The ranks that share all coordinates of `rank` but those along `axes`, ascending by the mesh
  /// order; along one axis that is ascending by its coordinate. `rank` is among them.
  std::vector<int> Group(int rank, Axis axis) const;
  std::vector<int> Group(int rank, const std::vector<Axis>& axes) const;
  /// Every group along `axes`: each rank of the mesh is in exactly one.
  std::vector<std::vector<int>> Groups(const std::vector<Axis>& axes) const;
  /// All ranks.
  std::vector<int> Ranks() const;

  /// "ranks 0-7: tp=2 cp=1 dp=2 pp=2".
  std::string ToString() const;
  bool operator==(const Mesh& o) const;
  bool operator!=(const Mesh& o) const { return !(*this == o); }

 private:
  int first_rank_;
  Sizes sizes_;
  Order order_;
  std::array<int, kNumAxes> strides_;  // by Axis: ranks between neighbours
};

}  // namespace omnitrain
