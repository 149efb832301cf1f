#include "core/model/expert_exchange.h"

#include "kernels/rows/rows.h"

namespace omnitrain {
namespace {

std::vector<int64_t> Bytes(const std::vector<int64_t>& rows, const Tensor& t) {
  std::vector<int64_t> bytes;
  for (const int64_t n : rows) {
    bytes.push_back(n * t.shape[1] * static_cast<int64_t>(DTypeBytes(t.dtype)));
  }
  return bytes;
}

}  // namespace

ExpertExchange::ExpertExchange(const AxisSeat& ep, int64_t num_experts)
    : ep_(ep), num_experts_(num_experts) {
  OT_REQUIRE(num_experts % ep.size == 0, ErrorCode::kSpec,
             "parallel.llm.ep: {} experts do not split over ep={}", num_experts, ep.size);
}

ExpertRoute ExpertExchange::Plan(Context& ctx, BlockPool& pool, const Tensor& counts) const {
  const auto num_experts = static_cast<size_t>(num_experts_);
  const auto num_here = static_cast<size_t>(num_experts_here());
  const auto num_ranks = static_cast<size_t>(ep_.size);
  const size_t bytes = num_experts * sizeof(int32_t);
  std::vector<int32_t> to(num_experts), from(num_experts);  // from: [ep, experts here]
  ctx.device().Copy(to.data(), counts.data, bytes, ctx.stream());
  if (!is_alone()) {
    OT_CHECK(ep_.comm != nullptr, "ep={} without a communicator", ep_.size);
    const PooledTensor their_counts(pool, DType::kI32, {num_experts_});
    const std::vector<int64_t> share(num_ranks, static_cast<int64_t>(num_here * sizeof(int32_t)));
    ep_.comm->AllToAllV(counts, share, *their_counts, share, ctx.stream()).Wait(ctx.stream());
    ctx.device().Copy(from.data(), their_counts->data, bytes, ctx.stream());
  }
  ctx.stream().Synchronize();
  if (is_alone()) from = to;

  ExpertRoute route;
  route.expert_rows.assign(to.begin(), to.end());
  route.sent.resize(num_ranks);
  route.received.resize(num_ranks);
  route.offsets.assign(num_here + 1, 0);
  for (size_t i = 0; i < num_experts; ++i) {
    route.sent[i / num_here] += to[i];
    route.received[i / num_here] += from[i];
    route.offsets[i % num_here + 1] += from[i];
  }
  for (size_t e = 0; e < num_here; ++e) route.offsets[e + 1] += route.offsets[e];
  const int64_t num_rows = route.num_received();
  OT_CHECK(num_rows <= INT32_MAX, "{} rows for the experts of a rank, at most 2^31 - 1", num_rows);
  if (is_alone() || num_rows == 0) return route;

  std::vector<int32_t> order(2 * static_cast<size_t>(num_rows));
  int32_t* const arrival_of = order.data();
  int32_t* const sorted_of = arrival_of + num_rows;
  std::vector<int64_t> next(route.offsets.begin(), route.offsets.end() - 1);
  int32_t arrival = 0;
  for (size_t i = 0; i < num_experts; ++i) {
    int64_t& sorted = next[i % num_here];
    for (int32_t n = 0; n < from[i]; ++n, ++arrival, ++sorted) {
      arrival_of[sorted] = arrival;
      sorted_of[arrival] = static_cast<int32_t>(sorted);
    }
  }
  route.orders = PooledTensor(pool, DType::kI32, {2 * num_rows});
  ctx.device().Copy(route.orders->data, order.data(), order.size() * sizeof(int32_t), ctx.stream());
  route.arrival_of = route.orders->Rows(0, num_rows);
  route.sorted_of = route.orders->Rows(num_rows, num_rows);
  return route;
}

void ExpertExchange::ToExperts(Context& ctx, BlockPool& pool, const ExpertRoute& route,
                               const Tensor& tokens, Tensor experts) const {
  const PooledTensor arrived(pool, experts.dtype, experts.shape);
  ep_.comm
      ->AllToAllV(tokens, Bytes(route.sent, tokens), *arrived, Bytes(route.received, *arrived),
                  ctx.stream())
      .Wait(ctx.stream());
  if (route.arrival_of) {
    GatherRows(ctx, *arrived, route.arrival_of, Write::kOverwrite, experts);
  }
}

void ExpertExchange::FromExperts(Context& ctx, BlockPool& pool, const ExpertRoute& route,
                                 const Tensor& experts, Tensor tokens) const {
  const PooledTensor leaving(pool, experts.dtype, experts.shape);
  if (route.sorted_of) GatherRows(ctx, experts, route.sorted_of, Write::kOverwrite, *leaving);
  ep_.comm
      ->AllToAllV(*leaving, Bytes(route.received, *leaving), tokens, Bytes(route.sent, tokens),
                  ctx.stream())
      .Wait(ctx.stream());
}

}  // namespace omnitrain
