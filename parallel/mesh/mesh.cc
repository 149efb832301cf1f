#include "parallel/mesh/mesh.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/base/check.h"

namespace omnitrain {
namespace {

size_t Index(Axis axis) { return static_cast<size_t>(axis); }

}  // namespace

const char* AxisName(Axis axis) {
  switch (axis) {
    case Axis::kTp:
      return "tp";
    case Axis::kCp:
      return "cp";
    case Axis::kDp:
      return "dp";
    case Axis::kPp:
      return "pp";
  }
  return "?";
}

Mesh::Mesh(int first_rank, Sizes sizes, Order order)
    : first_rank_(first_rank), sizes_(sizes), order_(order), strides_{} {
  OT_CHECK(first_rank >= 0, "first rank {}", first_rank);
  int stride = 1;
  for (Axis axis : order_) {
    OT_CHECK(size(axis) >= 1, "{}={}", AxisName(axis), size(axis));
    OT_CHECK(strides_[Index(axis)] == 0, "axis {} twice in the order", AxisName(axis));
    strides_[Index(axis)] = stride;
    stride *= size(axis);
  }
}

int Mesh::num_ranks() const {
  return std::accumulate(sizes_.begin(), sizes_.end(), 1, std::multiplies<int>());
}

bool Mesh::Contains(int rank) const {
  return rank >= first_rank_ && rank < first_rank_ + num_ranks();
}

Mesh::Coordinates Mesh::CoordinatesOf(int rank) const {
  OT_CHECK(Contains(rank), "rank {} is not in {}", rank, ToString());
  Coordinates coordinates{};
  for (Axis axis : order_) {
    coordinates[Index(axis)] = (rank - first_rank_) / strides_[Index(axis)] % size(axis);
  }
  return coordinates;
}

int Mesh::Coordinate(int rank, Axis axis) const { return CoordinatesOf(rank)[Index(axis)]; }

int Mesh::RankAt(const Coordinates& coordinates) const {
  int rank = first_rank_;
  for (Axis axis : order_) {
    const int c = coordinates[Index(axis)];
    OT_CHECK(c >= 0 && c < size(axis), "{} coordinate {} in {}", AxisName(axis), c, ToString());
    rank += c * strides_[Index(axis)];
  }
  return rank;
}

std::vector<int> Mesh::Group(int rank, Axis axis) const {
  return Group(rank, std::vector<Axis>{axis});
}

std::vector<int> Mesh::Group(int rank, const std::vector<Axis>& axes) const {
  Coordinates base = CoordinatesOf(rank);
  for (Axis axis : axes) base[Index(axis)] = 0;
  std::vector<int> group = {RankAt(base)};
  for (Axis axis : order_) {  // each slower axis repeats what there is, so ranks come out ascending
    if (std::find(axes.begin(), axes.end(), axis) == axes.end()) continue;
    const size_t count = group.size();
    for (int c = 1; c < size(axis); ++c) {
      for (size_t i = 0; i < count; ++i) group.push_back(group[i] + c * strides_[Index(axis)]);
    }
  }
  return group;
}

std::vector<std::vector<int>> Mesh::Groups(const std::vector<Axis>& axes) const {
  std::vector<std::vector<int>> groups;
  for (int rank : Ranks()) {
    std::vector<int> group = Group(rank, axes);
    if (group.front() == rank) groups.push_back(std::move(group));
  }
  return groups;
}

std::vector<int> Mesh::Ranks() const {
  std::vector<int> ranks(static_cast<size_t>(num_ranks()));
  std::iota(ranks.begin(), ranks.end(), first_rank_);
  return ranks;
}

std::string Mesh::ToString() const {
  std::string text = num_ranks() == 1
                         ? fmt::format("rank {}:", first_rank_)
                         : fmt::format("ranks {}-{}:", first_rank_, first_rank_ + num_ranks() - 1);
  for (Axis axis : order_) text += fmt::format(" {}={}", AxisName(axis), size(axis));
  return text;
}

bool Mesh::operator==(const Mesh& o) const {
  return first_rank_ == o.first_rank_ && sizes_ == o.sizes_ && order_ == o.order_;
}

}  // namespace omnitrain
