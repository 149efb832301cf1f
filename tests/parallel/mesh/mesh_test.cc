#include "parallel/mesh/mesh.h"

#include <algorithm>

#include "core/base/error.h"
#include "parallel/mesh/parallel_layout.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Ranks = std::vector<int>;

std::string ErrorOf(const ParallelDegrees& degrees, int world_size) {
  try {
    ParallelLayout::Build(degrees, world_size);
  } catch (const Error& error) {
    REQUIRE(error.code() == ErrorCode::kSpec);
    return error.what();
  }
  return "";
}

TEST_CASE("Ranks count along the fastest axis first") {
  const Mesh mesh(0, {2, 1, 3, 2});  // tp=2 cp=1 dp=3 pp=2
  REQUIRE(mesh.num_ranks() == 12);
  REQUIRE(mesh.Group(7, Axis::kTp) == Ranks{6, 7});
  REQUIRE(mesh.Group(7, Axis::kCp) == Ranks{7});
  REQUIRE(mesh.Group(3, Axis::kDp) == Ranks{1, 3, 5});
  REQUIRE(mesh.Group(3, Axis::kPp) == Ranks{3, 9});
  REQUIRE(mesh.Group(3, {Axis::kPp, Axis::kTp}) == Ranks{2, 3, 8, 9});
  REQUIRE(mesh.Coordinate(9, Axis::kTp) == 1);
  REQUIRE(mesh.Coordinate(9, Axis::kDp) == 1);
  REQUIRE(mesh.Coordinate(9, Axis::kPp) == 1);
  REQUIRE(mesh.ToString() == "ranks 0-11: tp=2 cp=1 dp=3 pp=2");
}

TEST_CASE("Another order moves the groups, not their meaning") {
  const Mesh mesh(4, {2, 1, 3, 2}, {Axis::kPp, Axis::kDp, Axis::kCp, Axis::kTp});
  REQUIRE(mesh.Group(4, Axis::kPp) == Ranks{4, 5});
  REQUIRE(mesh.Group(4, Axis::kDp) == Ranks{4, 6, 8});
  REQUIRE(mesh.Group(4, Axis::kTp) == Ranks{4, 10});
  REQUIRE(!mesh.Contains(3));
  REQUIRE(mesh.Contains(15));
  REQUIRE(!mesh.Contains(16));
  REQUIRE_THROWS_AS(mesh.CoordinatesOf(3), Error);
}

TEST_CASE("Coordinates and groups agree for every order and shape") {
  Mesh::Order order = Mesh::kDefaultOrder;
  do {
    for (int shape = 0; shape < 81; ++shape) {
      const Mesh mesh(5, {1 + shape % 3, 1 + shape / 3 % 3, 1 + shape / 9 % 3, 1 + shape / 27},
                      order);
      for (int rank : mesh.Ranks()) REQUIRE(mesh.RankAt(mesh.CoordinatesOf(rank)) == rank);
      for (const std::vector<Axis>& axes : {std::vector<Axis>{Axis::kTp},
                                            {Axis::kDp, Axis::kCp},
                                            {Axis::kPp, Axis::kTp, Axis::kCp}}) {
        Ranks covered;
        for (const Ranks& group : mesh.Groups(axes)) {
          REQUIRE(std::is_sorted(group.begin(), group.end()));
          for (int rank : group) {
            REQUIRE(mesh.Group(rank, axes) == group);
            for (Axis axis : order) {
              if (std::find(axes.begin(), axes.end(), axis) != axes.end()) continue;
              REQUIRE(mesh.Coordinate(rank, axis) == mesh.Coordinate(group[0], axis));
            }
          }
          covered.insert(covered.end(), group.begin(), group.end());
        }
        std::sort(covered.begin(), covered.end());
        REQUIRE(covered == mesh.Ranks());
      }
    }
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE("dp is what the world leaves") {
  ParallelDegrees degrees;
  degrees.tp = 2;
  degrees.pp = 2;
  const ParallelLayout layout = ParallelLayout::Build(degrees, 8);
  REQUIRE(layout.num_replicas() == 2);
  REQUIRE(layout.ReplicaRanks(6) == Ranks{2, 3, 6, 7});
  REQUIRE(layout.ReplicaOf(6) == 1);
  REQUIRE(layout.ToString() == "world 8: llm ranks 0-7: tp=2 cp=1 dp=2 pp=2 vpp=1 ep=1");
  REQUIRE(!layout.is_disaggregated());
  degrees.dp = 2;
  REQUIRE(ParallelLayout::Build(degrees, 8).llm() == layout.llm());
}

TEST_CASE("Encoders may have ranks of their own") {
  ParallelDegrees degrees;
  degrees.cp = 2;
  degrees.encoder_ranks = 2;
  const ParallelLayout layout = ParallelLayout::Build(degrees, 6);
  REQUIRE(layout.is_disaggregated());
  REQUIRE(layout.llm().Ranks() == Ranks{0, 1, 2, 3});
  REQUIRE(layout.encoder().Ranks() == Ranks{4, 5});
  REQUIRE(layout.num_replicas() == 2);
}

TEST_CASE("Degrees that do not fit are told with their arithmetic") {
  ParallelDegrees degrees;
  degrees.tp = 2;
  degrees.dp = 2;
  REQUIRE(ErrorOf(degrees, 6) ==
          "parallel.llm.dp: world of 6 ranks is not tp*cp*pp*dp = 4 (2*1*1*2)");
  degrees.dp.reset();
  degrees.cp = 2;
  REQUIRE(ErrorOf(degrees, 6) ==
          "parallel.llm: world of 6 ranks does not split into replicas of tp*cp*pp = 2*2*1 = 4 "
          "ranks");
  REQUIRE(ErrorOf(degrees, 2) != "");
  degrees = {};
  degrees.ep = 3;
  REQUIRE(ErrorOf(degrees, 4) ==
          "parallel.llm.ep: dp*cp*tp = 4*1*1 = 4 ranks do not split into groups of ep=3");
  degrees = {};
  degrees.vpp = 2;
  REQUIRE(ErrorOf(degrees, 4) == "parallel.llm.vpp: 2 chunks a rank need a pipeline, but pp=1");
  degrees = {};
  degrees.pp = 0;
  REQUIRE(ErrorOf(degrees, 4) == "parallel.llm.pp: 0 is not a positive number of ranks");
  degrees = {};
  degrees.encoder_ranks = 4;
  REQUIRE(ErrorOf(degrees, 4) ==
          "parallel.encoder.ranks: 4 of a world of 4 ranks leaves 0 for the LLM");
  degrees = {};
  degrees.order = {Axis::kTp, Axis::kTp, Axis::kDp, Axis::kPp};
  REQUIRE(ErrorOf(degrees, 4) ==
          "parallel.order: tp stands twice; give each of tp, cp, dp, pp once");
  degrees = {};
  degrees.tp = degrees.cp = degrees.pp = 1 << 20;  // their product needs 64 bits
  REQUIRE(ErrorOf(degrees, 4) != "");
}

}  // namespace
}  // namespace omnitrain
