#include "core/train/traffic.h"

#include "tests/core/model/tiny_model.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

ParallelLayout Layout(int world, int tp, int pp) {
  ParallelDegrees degrees;
  degrees.tp = tp;
  degrees.pp = pp;
  return ParallelLayout::Build(degrees, world);
}

const AxisTraffic& Of(const std::array<AxisTraffic, kNumTrafficAxes>& sums, TrafficAxis axis) {
  return sums[static_cast<size_t>(axis)];
}
const SentBytes& Of(const RankTraffic& traffic, TrafficAxis axis) {
  return traffic[static_cast<size_t>(axis)];
}
SentBytes& Of(RankTraffic& traffic, TrafficAxis axis) { return traffic[static_cast<size_t>(axis)]; }

/// What one seat of a tiny model in f32 sends in a step of one micro-batch.
RankTraffic StepOf(const ModelConfig& config, const LlmPlace& place, const ReplicaShape& shape,
                   const std::vector<MicroBatch>& batches, bool is_frozen = false,
                   const ParamStore::AllocateOptions& layout = {}) {
  MultimodalModel model(config, place);
  ParamStore::AllocateOptions options = layout;
  options.frozen[static_cast<int>(ParamGroup::kLlm)] = is_frozen;
  model.params().Plan(options);
  const StepPlan plan = PlanStep(
      model, shape,
      BuildStepSchedule(model, shape, static_cast<int>(batches.size()), SchedulePurpose::kTrain),
      batches, RecomputePlan(), DeviceKind::kCpu);
  RankTraffic traffic;
  AddStepTraffic(model, shape, plan, batches, &traffic);
  return traffic;
}

/// A sample of 8 rows, the last one or two learned; row 5 is an image's where it has one.
MicroBatch EightRows(const ModelConfig& config, bool has_image) {
  TinySample sample;
  if (has_image) sample.images = {{1, 2, 2}};
  sample.text_before = has_image ? 5 : 6;
  sample.text_after = has_image ? 1 : 2;
  return TinyBatch(config, {sample}, 1);
}

TEST_CASE("Rings: each rank sends its share to its neighbour, perhaps on another node") {
  // Ranks (tp, dp): 0 (0, 0), 1 (1, 0), 2 (0, 1), 3 (1, 1).
  std::vector<RankTraffic> replica(2);
  for (RankTraffic& seat : replica) Of(seat, TrafficAxis::kTp).to_next = 10;
  Of(replica[0], TrafficAxis::kSlice).to_next = 3;
  Of(replica[1], TrafficAxis::kSlice).to_next = 5;
  const ParallelLayout layout = Layout(4, 2, 1);

  auto sums = SumTraffic(layout, replica, 2, 2);
  CHECK(Of(sums, TrafficAxis::kTp).num_ranks == 2);
  CHECK(Of(sums, TrafficAxis::kTp).most == 10);
  CHECK(Of(sums, TrafficAxis::kTp).total == 40);
  CHECK(Of(sums, TrafficAxis::kTp).across == 0);
  CHECK(Of(sums, TrafficAxis::kSlice).most == 5);
  CHECK(Of(sums, TrafficAxis::kSlice).total == 16);
  CHECK(Of(sums, TrafficAxis::kSlice).across == 16);
  CHECK(Of(sums, TrafficAxis::kPp).total == 0);

  sums = SumTraffic(layout, replica, 2, 4);
  CHECK(Of(sums, TrafficAxis::kSlice).across == 0);
  // Nodes of three ranks: of the ring 0 2 only one end is on the second node, of 1 3 as well.
  sums = SumTraffic(layout, replica, 2, 3);
  CHECK(Of(sums, TrafficAxis::kSlice).across == 10);
  CHECK(Of(sums, TrafficAxis::kTp).across == 20);
}

TEST_CASE("A ring over four ranks of two nodes crosses between them twice") {
  std::vector<RankTraffic> replica(1);
  Of(replica[0], TrafficAxis::kSlice).to_next = 6;
  const auto sums = SumTraffic(Layout(4, 1, 1), replica, 2, 2);
  CHECK(Of(sums, TrafficAxis::kSlice).num_ranks == 4);
  CHECK(Of(sums, TrafficAxis::kSlice).total == 24);
  CHECK(Of(sums, TrafficAxis::kSlice).across == 12);
}

TEST_CASE("Messages go where they go, exchanges to every other rank") {
  std::vector<RankTraffic> replica(4);  // pp 0 to 3
  for (size_t rank = 0; rank + 1 < 4; ++rank) Of(replica[rank], TrafficAxis::kPp).Add(rank + 1, 7);
  const auto sums = SumTraffic(Layout(4, 1, 4), replica, 2, 2);
  CHECK(Of(sums, TrafficAxis::kPp).most == 7);
  CHECK(Of(sums, TrafficAxis::kPp).total == 21);
  CHECK(Of(sums, TrafficAxis::kPp).across == 7);  // from rank 1 to 2

  std::vector<RankTraffic> seats(4);
  for (RankTraffic& seat : seats) Of(seat, TrafficAxis::kTp).to_each = 2;
  const auto exchanged = SumTraffic(Layout(4, 4, 1), seats, 4, 2);
  CHECK(Of(exchanged, TrafficAxis::kTp).most == 6);
  CHECK(Of(exchanged, TrafficAxis::kTp).total == 24);
  CHECK(Of(exchanged, TrafficAxis::kTp).across == 16);
}

TEST_CASE("Parameters: gradients are reduced and values gathered, a bucket at a time") {
  ParamStore params;
  ParamSpec spec;
  spec.name = "a";
  spec.shape = {10, 10};  // 100 elements, 128 with the gap for two shards of 64
  spec.hf_parts = {{"a", 0, 10, {10, 10}}};
  params.Add(spec);
  ParamStore::AllocateOptions options;
  options.dtype = DType::kBF16;
  options.num_shards = {2, 1, 1, 1, 1};
  params.Plan(options);
  RankTraffic traffic;
  AddParamTraffic(params, options.num_shards, &traffic);
  CHECK(Of(traffic, TrafficAxis::kSlice).to_next == 128.0 / 2 * (4 + 2));
  CHECK(Of(traffic, TrafficAxis::kWhole).to_next == 0);
}

TEST_CASE("Sharded layers: values are gathered as slots need them, gradients summed each time") {
  ModelConfig config = TinyModel(false);
  config.text.num_layers = 3;
  const std::vector<MicroBatch> batches = {EightRows(config, false), EightRows(config, true)};
  ParamStore::AllocateOptions layout;
  layout.dtype = DType::kBF16;
  layout.sharded_stack = "llm";
  layout.num_shards = {2, 4, 1, 1, 1};
  // qkv [64, 12], proj [12, 32], up [20, 12], down [12, 10], in pieces of 64.
  const double slice = 768 + 384 + 256 + 128;
  // Two norms over D, one over the heads of q and of k: 4 * 64, already a multiple of 4 * 64.
  const double whole = 4 * 64;
  // Forth 0 1 2, back 0; then 2 and 0 again, as layer 1 stays.
  const double gathers = (4 + 2) * 2, sums = 2 * 3 * 4;
  const RankTraffic trained = StepOf(config, {}, {}, batches, false, layout);
  CHECK(Of(trained, TrafficAxis::kSlice).to_next == slice / 2 * (gathers + sums));
  CHECK(Of(trained, TrafficAxis::kWhole).to_next == whole * 3 / 4 * (gathers + sums));
  const RankTraffic frozen = StepOf(config, {}, {}, batches, true, layout);
  CHECK(Of(frozen, TrafficAxis::kSlice).to_next == slice / 2 * gathers);
  // Embedding, head and norm go once a step, as without; layers do not.
  MultimodalModel model(config);
  model.params().Plan(layout);
  RankTraffic rest;
  AddParamTraffic(model.params(), layout.num_shards, &rest);
  CHECK(Of(rest, TrafficAxis::kSlice).to_next == 2 * 448.0 / 2 * (4 + 2));  // of [37, 12]
}

TEST_CASE("tp: four gathers and sums a layer forward, six backward, four of a frozen one") {
  const ModelConfig config = TinyModel(false);  // D = 12, two layers
  LlmPlace place;
  place.tp.size = 2;
  ReplicaShape shape;
  shape.seats = {{0, 0}, {0, 1}};
  const MicroBatch batch = EightRows(config, false);
  REQUIRE(batch.num_tokens() == 8);
  const double half = 8 * 12 * 4 / 2;  // of the rows [8, 12] in f32
  // Per label a maximum in f32 and two sums in f64, all-reduced.
  const double losses = static_cast<double>(batch.num_loss_tokens()) * (4 + 2 * 8);
  const RankTraffic trained = StepOf(config, place, shape, {batch});
  // Embedding, head, and their gradients once each.
  CHECK(Of(trained, TrafficAxis::kTp).to_next == (2 * 4 + 2 + 2 * 6 + 2) * half + losses);
  CHECK(Of(trained, TrafficAxis::kSeats).to.empty());
  const RankTraffic frozen = StepOf(config, place, shape, {batch}, true);
  CHECK(Of(frozen, TrafficAxis::kTp).to_next == (2 * 4 + 2 + 2 * 4 + 1) * half + losses);
}

TEST_CASE("Encoder rows go to the seat whose rows hold them, their gradients back") {
  const ModelConfig config = TinyModel(false);
  LlmPlace place;
  place.tp.size = 2;
  ReplicaShape shape;
  shape.seats = {{0, 0}, {0, 1}};
  const MicroBatch batch = EightRows(config, true);
  REQUIRE(batch.num_tokens() == 8);
  REQUIRE(batch.item_rows == std::vector<int32_t>{5});  // on seat 1; seat 0 encodes
  const double row = 2 * 12 * 4;                        // two features
  const RankTraffic first = StepOf(config, place, shape, {batch});
  CHECK(Of(first, TrafficAxis::kSeats).to == std::vector<double>{0, row});
  shape.seat = 1;
  place.tp.rank = 1;
  const RankTraffic second = StepOf(config, place, shape, {batch});
  CHECK(Of(second, TrafficAxis::kSeats).to == std::vector<double>{row});
}

TEST_CASE("cp: the ring sends keys that others see, and gradients of those it saw") {
  const ModelConfig config = TinyModel(false);  // G = 2, K = 8, two layers
  const MicroBatch batch = EightRows(config, false);
  LlmPlace place;
  place.cp.size = 2;
  place.context_method = ContextMethod::kRing;
  ReplicaShape shape;
  shape.seats = {{0, 0}, {1, 0}};
  // Rank 0 has rows 0 1 6 7, rank 1 rows 2 3 4 5: it sees rows 0 1, and rank 0 sees all of its.
  const double row = 2 * 2 * 8 * 4;
  const RankTraffic first = StepOf(config, place, shape, {batch});
  CHECK(Of(first, TrafficAxis::kCp).to == std::vector<double>{0, 2 * (2 + 2 + 4) * row});
  shape.seat = 1;
  place.cp.rank = 1;
  const RankTraffic second = StepOf(config, place, shape, {batch});
  CHECK(Of(second, TrafficAxis::kCp).to == std::vector<double>{2 * (4 + 4 + 2) * row});

  // Ulysses, to the one other rank: 4 rows of 2 query heads and one kv head, forward q k v o,
  // backward q k v o do and dq dk dv.
  place.context_method = ContextMethod::kUlysses;
  const RankTraffic heads = StepOf(config, place, shape, {batch});
  CHECK(Of(heads, TrafficAxis::kCp).to_each == 2 * 4 * (6 + 12) * 8 * 4);
}

TEST_CASE("pp: rows go down the pipeline and their gradients up, micro-batch by micro-batch") {
  const ModelConfig config = TinyModel(false);
  const std::vector<MicroBatch> batches = {EightRows(config, false), EightRows(config, true)};
  LlmPlace place;
  place.num_stages = 2;
  ReplicaShape shape;
  shape.pp = 2;
  CHECK(Of(StepOf(config, place, shape, batches), TrafficAxis::kPp).to ==
        std::vector<double>{0, 2 * 8 * 12 * 4});
  place.stages = {1};
  shape.pp_rank = 1;
  CHECK(Of(StepOf(config, place, shape, batches), TrafficAxis::kPp).to ==
        std::vector<double>{2 * 8 * 12 * 4});
}

TEST_CASE("ep: rows go to experts evenly and come back, forward and backward") {
  ModelConfig config = TinyModel(false);
  config.family = ModelFamily::kQwen3VlMoe;
  MakeSparse(&config.text);  // two sparse layers, 4 experts, 2 a row
  LlmPlace place;
  place.ep.size = 2;
  const RankTraffic traffic = StepOf(config, place, ReplicaShape(), {EightRows(config, false)});
  // Half of the 16 rows, four ways; of the 4 counts half.
  CHECK(Of(traffic, TrafficAxis::kEp).to_each == 2 * (4 * 8 * 12 * 4 + 2 * 4));
}

TEST_CASE("The table has a line for each axis that carries something") {
  std::array<AxisTraffic, kNumTrafficAxes> sums;
  CHECK(TrafficTable(sums).empty());
  sums[static_cast<size_t>(TrafficAxis::kTp)] = {2, 3.0 * (1 << 20), 12.0 * (1 << 20), 3 << 20};
  CHECK(TrafficTable(sums) ==
        "  MiB sent                    ranks   a rank at most      all ranks   other nodes\n"
        "  tp                              2            3.000         12.000          25 %");
}

}  // namespace
}  // namespace omnitrain
