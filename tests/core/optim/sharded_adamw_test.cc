#include "core/optim/sharded_adamw.h"

#include "core/train/gather_gradients.h"
#include "parallel/comm/inprocess_communicator.h"
#include "tests/core/optim/split_params.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

constexpr int kSteps = 3;

struct Outcome {
  std::vector<double> norms;
  NamedTensors grads;  // of the last step
  std::map<std::string, std::vector<double>> values;
  double sum_of_ranks = 0;
  int64_t num_off = 0;
  bool was_tied_last = true;
};

AdamWConfig Config() {
  AdamWConfig config;
  config.weight_decay = 0.1;
  config.clip = 3.0;
  return config;
}

// Some steps under a layout on one rank of it; values are compared with `whole` where it is given.
Outcome Train(Communicator& world, const SplitLayout& layout, const Outcome* whole) {
  SplitParams split(world, layout, DType::kF64);
  split.params().Initialize(5, 0.3, split.ctx().stream());
  ShardedAdamW optimizer(split.ctx(), split.params(), split.groups(), Config());
  Outcome out;
  for (int64_t step = 1; step <= kSteps; ++step) {
    out.was_tied_last &= split.Backward(step, &optimizer);
    out.norms.push_back(optimizer.GradNorm(split.ctx(), 0.5));
    if (step == kSteps) {
      out.grads = GatherGradients(split.ctx(), optimizer, split.params(), world);
    }
    optimizer.Update(split.ctx(), step, 0.01, 0.5, out.norms.back());
    optimizer.FinishGather(split.ctx());
  }
  out.sum_of_ranks = optimizer.SumOverRanks(1);
  if (whole == nullptr) {
    out.values = split.Whole();
  } else {
    out.num_off = split.NumOff(whole->values, 1e-12);
  }
  return out;
}

std::vector<Outcome> TrainAll(const SplitLayout& layout, const Outcome* whole) {
  std::vector<Outcome> outcomes(static_cast<size_t>(layout.world()));
  InProcessWorld(layout.world()).Run([&](Communicator& world) {
    outcomes[static_cast<size_t>(world.rank())] = Train(world, layout, whole);
  });
  return outcomes;
}

bool IsNear(double a, double b) { return std::fabs(a - b) <= 1e-12 * std::max(1.0, std::fabs(b)); }

TEST_CASE("Norm, gradients and updates of a split model are those of the whole one") {
  const Outcome whole = TrainAll({}, nullptr)[0];
  CHECK(whole.grads.size() == 17);  // 8 a layer and the embeddings
  CHECK(whole.grads.at("layers.1.experts").shape == std::vector<int64_t>{4, 3, 5});
  CHECK(IsNear(whole.grads.at("embed").values[7], RandomNormal(kSteps, StreamId("embed"), 7)));
  for (const SplitLayout& layout :
       {SplitLayout{2, 2, 1, 2, 1}, SplitLayout{2, 2, 1, 2, 2}, SplitLayout{2, 2, 1, 4, 1},
        SplitLayout{4, 1, 1, 4, 2}, SplitLayout{1, 4, 1, 2, 2}, SplitLayout{1, 2, 2, 2, 2},
        SplitLayout{2, 1, 2, 1, 1}, SplitLayout{2, 2, 2, 2, 1}, SplitLayout{1, 1, 1, 1, 1, true},
        SplitLayout{1, 2, 1, 1, 1, true}, SplitLayout{2, 2, 1, 2, 1, true},
        SplitLayout{2, 2, 1, 4, 1, true}, SplitLayout{4, 1, 1, 4, 2, true},
        SplitLayout{1, 4, 1, 2, 2, true}, SplitLayout{2, 4, 1, 2, 2, true}}) {
    INFO("tp=" << layout.tp << " dp=" << layout.dp << " pp=" << layout.pp << " ep=" << layout.ep
               << " kv_heads=" << layout.kv_heads << " sharded=" << layout.is_sharded);
    for (const Outcome& outcome : TrainAll(layout, &whole)) {
      CHECK(outcome.sum_of_ranks == layout.world());
      CHECK(outcome.num_off == 0);
      CHECK(outcome.was_tied_last);
      for (int i = 0; i < kSteps; ++i) CHECK(IsNear(outcome.norms[i], whole.norms[i]));
      CHECK(outcome.grads.size() == whole.grads.size());
      int num_off = 0;
      for (const auto& [name, want] : whole.grads) {
        const HostTensor& got = outcome.grads.at(name);
        CHECK(got.shape == want.shape);
        for (size_t i = 0; i < want.values.size(); ++i) {
          num_off += IsNear(got.values[i], want.values[i]) ? 0 : 1;
        }
      }
      CHECK(num_off == 0);
    }
  }
}

TEST_CASE("Groups that are not the holders of their class are found") {
  const auto message = [](bool believes_alone) -> std::string {
    const SplitLayout layout = {1, 2, 1, 1, 1};
    try {
      InProcessWorld(layout.world()).Run([&](Communicator& world) {
        SplitParams split(world, layout, DType::kF64);
        SharingGroups groups = split.groups();
        if (believes_alone) groups.of_class.fill(nullptr);
        ShardedAdamW optimizer(split.ctx(), split.params(), groups, Config());
        GatherGradients(split.ctx(), optimizer, split.params(), world);
      });
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  CHECK(message(false) == "no error");
  CHECK(message(true).find("comes from two ranks") != std::string::npos);
}

}  // namespace
}  // namespace omnitrain
