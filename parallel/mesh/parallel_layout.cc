#include "parallel/mesh/parallel_layout.h"

#include <array>
#include <utility>

#include "core/base/check.h"

namespace omnitrain {
namespace {

void RequirePositive(const char* key, int degree) {
  OT_REQUIRE(degree >= 1, ErrorCode::kSpec, "{}: {} is not a positive number of ranks", key,
             degree);
}

void RequireOrder(const Mesh::Order& order) {
  std::array<bool, kNumAxes> is_seen{};
  for (Axis axis : order) {
    bool& seen = is_seen[static_cast<size_t>(axis)];
    OT_REQUIRE(!seen, ErrorCode::kSpec,
               "parallel.order: {} stands twice; give each of tp, cp, dp, pp once", AxisName(axis));
    seen = true;
  }
}

}  // namespace

ParallelLayout ParallelLayout::Build(const ParallelDegrees& degrees, int world_size) {
  OT_CHECK(world_size >= 1, "world of {} ranks", world_size);
  RequirePositive("parallel.llm.tp", degrees.tp);
  RequirePositive("parallel.llm.cp", degrees.cp);
  RequirePositive("parallel.llm.pp", degrees.pp);
  RequirePositive("parallel.llm.vpp", degrees.vpp);
  RequirePositive("parallel.llm.ep", degrees.ep);
  if (degrees.dp) RequirePositive("parallel.llm.dp", *degrees.dp);
  RequireOrder(degrees.order);
  OT_REQUIRE(degrees.encoder_ranks >= 0 && degrees.encoder_ranks < world_size, ErrorCode::kSpec,
             "parallel.encoder.ranks: {} of a world of {} ranks leaves {} for the LLM",
             degrees.encoder_ranks, world_size, world_size - degrees.encoder_ranks);

  const int llm_ranks = world_size - degrees.encoder_ranks;
  const std::string world = degrees.encoder_ranks == 0
                                ? fmt::format("world of {} ranks", world_size)
                                : fmt::format("world of {} ranks less {} for encoders", world_size,
                                              degrees.encoder_ranks);
  // As 64 bits: degrees are a user's numbers and may be absurd.
  const int64_t model_ranks = int64_t{degrees.tp} * degrees.cp * degrees.pp;
  int dp = 0;
  if (degrees.dp) {
    dp = *degrees.dp;
    OT_REQUIRE(model_ranks <= llm_ranks && model_ranks * dp == llm_ranks, ErrorCode::kSpec,
               "parallel.llm.dp: {} is not tp*cp*pp*dp = {} ({}*{}*{}*{})", world, model_ranks * dp,
               degrees.tp, degrees.cp, degrees.pp, dp);
  } else {
    OT_REQUIRE(llm_ranks % model_ranks == 0, ErrorCode::kSpec,
               "parallel.llm: {} does not split into replicas of tp*cp*pp = {}*{}*{} = {} ranks",
               world, degrees.tp, degrees.cp, degrees.pp, model_ranks);
    dp = static_cast<int>(llm_ranks / model_ranks);
  }
  OT_REQUIRE(degrees.vpp == 1 || degrees.pp > 1, ErrorCode::kSpec,
             "parallel.llm.vpp: {} chunks a rank need a pipeline, but pp=1", degrees.vpp);
  const int64_t expert_ranks = int64_t{dp} * degrees.cp * degrees.tp;
  OT_REQUIRE(expert_ranks % degrees.ep == 0, ErrorCode::kSpec,
             "parallel.llm.ep: dp*cp*tp = {}*{}*{} = {} ranks do not split into groups of ep={}",
             dp, degrees.cp, degrees.tp, expert_ranks, degrees.ep);

  ParallelLayout layout;
  layout.world_size_ = world_size;
  layout.llm_ = Mesh(0, {degrees.tp, degrees.cp, dp, degrees.pp}, degrees.order);
  const int encoder_first = degrees.encoder_ranks == 0 ? 0 : llm_ranks;
  const int encoder_size = degrees.encoder_ranks == 0 ? llm_ranks : degrees.encoder_ranks;
  layout.encoder_ = Mesh(encoder_first, {1, 1, encoder_size, 1});
  layout.vpp_ = degrees.vpp;
  layout.ep_ = degrees.ep;
  return layout;
}

std::vector<int> ParallelLayout::ReplicaRanks(int rank) const {
  return llm_.Group(rank, {Axis::kTp, Axis::kCp, Axis::kPp});
}

std::string ParallelLayout::ToString() const {
  const std::string apart = is_disaggregated() ? ", encoder " + encoder_.ToString() : "";
  return fmt::format("world {}: llm {} vpp={} ep={}{}", world_size_, llm_.ToString(), vpp_, ep_,
                     apart);
}

}  // namespace omnitrain
