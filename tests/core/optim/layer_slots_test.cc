#include "core/optim/layer_slots.h"

#include "parallel/comm/inprocess_communicator.h"
#include "tests/core/checkpoint/files.h"
#include "tests/core/optim/split_params.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

// "0>1": layer 0 into slot 1.
std::string Text(const SlotTurns::Fills& fills) {
  std::string text;
  for (const SlotTurns::Fill& fill : fills) {
    text += fmt::format("{}{}>{}", text.empty() ? "" : " ", fill.layer, fill.slot);
  }
  return text;
}

// What micro-batches of a stack gather, the layer that runs in front; every layer must be there
// when it runs.
std::vector<std::string> Turns(int num_layers, int num_micro_batches) {
  SlotTurns turns(num_layers);
  std::vector<std::string> lines = {"begin " + Text(turns.Begin())};
  const auto add = [&](const char* kind, int layer, const SlotTurns::Fills& fills) {
    CHECK(turns.Find(layer) >= 0);
    if (!fills.empty()) lines.push_back(fmt::format("{}{} {}", kind, layer, Text(fills)));
  };
  for (int m = 0; m < num_micro_batches; ++m) {
    for (int layer = 0; layer < num_layers; ++layer) add("F", layer, turns.Forward(layer));
    for (int layer = num_layers - 1; layer >= 0; --layer) add("B", layer, turns.Backward(layer));
  }
  return lines;
}

using Lines = std::vector<std::string>;

TEST_CASE("Slots are filled a layer ahead, and what one still holds is not gathered again") {
  CHECK(Turns(1, 2) == Lines{"begin 0>0"});
  CHECK(Turns(2, 2) == Lines{"begin 0>0", "F0 1>1"});
  CHECK(Turns(4, 2) == Lines{"begin 0>0", "F0 1>1", "F1 2>0", "F2 3>1", "B2 1>1", "B1 0>0",
                             "F1 2>0", "F2 3>1", "B2 1>1", "B1 0>0"});
}

TEST_CASE("Forward alone starts over with each micro-batch") {
  SlotTurns turns(4);
  turns.Begin();
  for (int layer = 0; layer < 4; ++layer) turns.Forward(layer);
  CHECK(Text(turns.Forward(0)) == "0>0 1>1");
  CHECK(turns.Find(3) == -1);
  CHECK(Text(turns.Begin()) == "0>0");  // shards may be new
}

ParamId IdOf(ParamStore& params, const std::string& name) {
  for (ParamId id = 0; id < params.num_params(); ++id) {
    if (params.spec(id).name == name) return id;
  }
  FAIL("no parameter " << name);
  return -1;
}

TEST_CASE("Parameters of a layer are there while it is used, and asking elsewhere is an error") {
  InProcessWorld(2).Run([](Communicator& world) {
    SplitParams split(world, {1, 2, 1, 1, 1, true}, DType::kF64);
    ParamStore& params = split.params();
    params.Initialize(5, 0.3, split.ctx().stream());
    const ParamId first = IdOf(params, "llm.layers.0.up.weight");
    const ParamId second = IdOf(params, "llm.layers.1.up.weight");
    const auto has_value = [&](ParamId id) {
      return MessageOf([&] { params.value(id); }).find("llm.layers") == std::string::npos;
    };
    const auto has_grad = [&](ParamId id) {
      return MessageOf([&] { params.grad(id); }).find("llm.layers") == std::string::npos;
    };
    const auto states = [&] {
      return std::vector<bool>{has_value(first), has_value(second), has_grad(first),
                               has_grad(second)};
    };
    LayerSlots& slots = split.slots();
    std::vector<std::vector<bool>> seen = {states()};
    slots.Begin(split.ctx());
    seen.push_back(states());
    slots.BeforeForward(split.ctx(), 0);
    seen.push_back(states());
    slots.BeforeForward(split.ctx(), 1);
    seen.push_back(states());
    slots.BeforeBackward(split.ctx(), 1);
    seen.push_back(states());
    slots.AfterWeightGrad(split.ctx(), 1);
    seen.push_back(states());
    slots.End(split.ctx());
    seen.push_back(states());
    const std::vector<std::vector<bool>> want = {
        {false, false, false, false}, {false, false, false, false}, {true, false, false, false},
        {true, true, false, false},   {true, true, false, true},    {true, true, false, false},
        {false, false, false, false}};
    OT_CHECK(seen == want, "parameters are there at other times");
  });
}

TEST_CASE("Values are gathered anew in each run: shards change between them") {
  InProcessWorld(2).Run([](Communicator& world) {
    SplitParams split(world, {1, 2, 1, 1, 1, true}, DType::kF64);
    ParamStore& params = split.params();
    const ParamId id = IdOf(params, "llm.layers.0.up.weight");
    double sums[2] = {0, 0};
    for (int run : {0, 1}) {
      params.Initialize(static_cast<uint64_t>(run), 0.3, split.ctx().stream());
      split.slots().Begin(split.ctx());
      split.slots().BeforeForward(split.ctx(), 0);
      const double* value = params.value(id).ptr<double>();
      for (int64_t i = 0; i < params.value(id).num_elements(); ++i) sums[run] += value[i];
    }
    split.slots().End(split.ctx());
    OT_CHECK(sums[0] != sums[1], "the values of the first run");
  });
}

TEST_CASE("A layer that follows itself adds to the sum that is under way") {
  InProcessWorld(2).Run([](Communicator& world) {
    SplitParams split(world, {1, 2, 1, 1, 1, true}, DType::kF64);
    ParamStore& params = split.params();
    const ParamId id = IdOf(params, "llm.layers.0.up.weight");
    split.slots().Begin(split.ctx());
    for (int micro_batch = 0; micro_batch < 3; ++micro_batch) {
      split.slots().BeforeBackward(split.ctx(), 0);
      double* grad = params.grad(id).ptr<double>();
      for (int64_t i = 0; i < params.grad(id).num_elements(); ++i) grad[i] += 1;
      split.slots().AfterWeightGrad(split.ctx(), 0);
    }
    split.slots().End(split.ctx());
    const ParamBucket& bucket = params.sharded_layers()[0].buckets[1];
    OT_CHECK(bucket.params[0] == id, "the class of matrices");
    const double* sum = params.shard_grads(bucket).ptr<double>();
    // Its 160 elements are in the first of two shards of 192.
    OT_CHECK(sum[0] == (world.rank() == 0 ? 6 : 0), "sum {}", sum[0]);
  });
}

/// As late as a transport may be: a call reads its input when it is waited for.
class LateCommunicator : public Communicator {
 public:
  explicit LateCommunicator(Communicator& other)
      : Communicator(other.name(), other.ranks(), other.rank(), other.timeout()), other_(other) {}
  std::unique_ptr<Communicator> NewGroup(const std::string&, const std::vector<int>&) override {
    return nullptr;
  }

 protected:
  std::unique_ptr<PendingComm> Start(CommCall call, Stream&) override {
    return std::make_unique<PendingLate>(other_, std::move(call));
  }

 private:
  class PendingLate : public PendingComm {
   public:
    PendingLate(Communicator& other, CommCall call) : other_(other), call_(std::move(call)) {}
    void Wait(Stream& stream) override { StartOn(other_, call_, stream)->Wait(stream); }

   private:
    Communicator& other_;
    CommCall call_;
  };
  Communicator& other_;
};

TEST_CASE("Nothing is written into a slot while its sum is under way") {
  InProcessWorld(2).Run([](Communicator& world) {
    SplitParams split(world, {1, 2, 1, 1, 1, true}, DType::kF64);
    ParamStore& params = split.params();
    params.Initialize(5, 0.3, split.ctx().stream());
    LateCommunicator late(*split.groups().of_class[0]);
    SharingGroups groups = split.groups();
    groups.of_class.fill(&late);
    LayerSlots slots(split.ctx(), params, groups);
    slots.Begin(split.ctx());
    // The second sum of layer 0 takes the slot of layer 1.
    for (int layer : {1, 0, 0}) {
      slots.BeforeBackward(split.ctx(), layer);
      const ParamId id = IdOf(params, fmt::format("llm.layers.{}.up.weight", layer));
      *params.grad(id).ptr<double>() += layer == 1 ? 1 : 10;
      slots.AfterWeightGrad(split.ctx(), layer);
    }
    slots.End(split.ctx());
    const auto first = [&](size_t layer) {
      return *params.shard_grads(params.sharded_layers()[layer].buckets[1]).ptr<double>();
    };
    OT_CHECK(world.rank() == 1 || (first(1) == 2 && first(0) == 40), "sums {} and {}", first(1),
             first(0));
  });
}

TEST_CASE("Memory: shards of each rank, and slots for what is shared") {
  // Of a layer 10 + 80 + 8 + 40 + 60 + 60 elements in pieces of 64, by class: matrices 128 + 64 +
  // 64, the norm 64, kv 64, experts 64.
  const auto bytes_of = [](const SplitLayout& layout) {
    std::vector<std::array<int64_t, 3>> bytes(static_cast<size_t>(layout.world()));
    InProcessWorld(layout.world()).Run([&](Communicator& world) {
      SplitParams split(world, layout, DType::kF64);
      bytes[static_cast<size_t>(world.rank())] = {split.params().value_bytes(),
                                                  split.params().grad_bytes(),
                                                  LayerSlots::Bytes(split.params())};
    });
    for (const auto& b : bytes) CHECK(b == bytes[0]);
    return bytes[0];
  };
  const int64_t frozen = 64 + 64, embed = 128;
  const std::array<int64_t, 3> whole = bytes_of({1, 1, 1, 1, 1, true});
  const int64_t slice = 192 + 64 + 128, layer = slice + 64 + 64 + 64;
  CHECK(whole[0] == (frozen + embed + 2 * layer) * 8);
  CHECK(whole[1] == (embed + 2 * layer) * 8);
  CHECK(whole[2] == 0);  // nobody else holds a part of it
  const std::array<int64_t, 3> two = bytes_of({1, 2, 1, 1, 1, true});
  const int64_t padded = slice + 128 + 128 + 128;  // multiples of 2 * 64
  CHECK(two[0] == (frozen + embed + 2 * padded / 2) * 8);
  CHECK(two[1] == (embed + 2 * padded / 2) * 8);
  CHECK(two[2] == 4 * padded * 8);
  // Experts on one rank each are nobody else's.
  const std::array<int64_t, 3> experts = bytes_of({1, 2, 1, 2, 1, true});
  CHECK(experts[2] == 4 * (slice + 128 + 128) * 8);
  // Frozen ones need no gradients.
  const std::array<int64_t, 3> fixed = bytes_of({1, 2, 1, 1, 1, true, true});
  CHECK(fixed[1] == 0);
  CHECK(fixed[2] == 2 * padded * 8);
}

TEST_CASE("Groups that are not those of the shards are found") {
  const std::string message = MessageOf([] {
    InProcessWorld(2).Run([](Communicator& world) {
      SplitParams split(world, {1, 2, 1, 1, 1, true}, DType::kF64);
      SharingGroups groups = split.groups();
      groups.of_class.fill(nullptr);
      LayerSlots slots(split.ctx(), split.params(), groups);
    });
  });
  CHECK(message.find("2 shards over 1 ranks") != std::string::npos);
}

}  // namespace
}  // namespace omnitrain
