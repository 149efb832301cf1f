#include "core/train/run_checkpoint.h"

#include "core/checkpoint/checkpoint_reader.h"
#include "parallel/comm/inprocess_communicator.h"
#include "tests/core/checkpoint/files.h"
#include "tests/core/optim/split_params.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

std::string Save(Communicator& world, const std::string& run, int64_t step, SplitParams* split,
                 const ShardedAdamW& optimizer) {
  RunCheckpoints checkpoints(split->ctx(), world, {run, /*keep_last=*/0, /*is_async=*/false});
  checkpoints.Start(step, split->params(), optimizer, {{"step", step}});
  const std::vector<RunCheckpoints::Result> results = checkpoints.Finish(/*block=*/true);
  if (!results.at(0).error.empty()) Fail(ErrorCode::kCheckpoint, "{}", results[0].error);
  return results[0].path;
}

// A trained state under a layout, as a checkpoint. Main gradients of bf16 are f32, those of f64 are
// filled with noise.
std::string SaveTrained(const std::string& run, const SplitLayout& layout, DType dtype) {
  std::string path;
  InProcessWorld(layout.world()).Run([&](Communicator& world) {
    SplitParams split(world, layout, dtype);
    split.params().Initialize(5, 0.3, split.ctx().stream());
    ShardedAdamW optimizer(split.ctx(), split.params(), split.groups(), AdamWConfig());
    if (dtype == DType::kF64) {
      split.Backward(1, &optimizer);
      optimizer.Update(split.ctx(), 1, 0.01, 0.5, optimizer.GradNorm(split.ctx(), 0.5));
      optimizer.FinishGather(split.ctx());
    }
    const std::string mine = Save(world, run, 1, &split, optimizer);
    if (world.rank() == 0) path = mine;
  });
  return path;
}

// What another layout saves right after restoring it.
std::string SaveRestored(const std::string& from, const std::string& run, const SplitLayout& layout,
                         DType dtype) {
  std::string path;
  std::vector<int> num_off(static_cast<size_t>(layout.world()), -1);
  InProcessWorld(layout.world()).Run([&](Communicator& world) {
    SplitParams split(world, layout, dtype);
    split.params().Initialize(6, 0.3, split.ctx().stream());  // other values
    ShardedAdamW optimizer(split.ctx(), split.params(), split.groups(), AdamWConfig());
    const Json state = RestoreCheckpoint(split.ctx(), from, split.params(), optimizer);
    OT_CHECK(state.at("step") == 1, "step {}", state.dump());
    if (dtype == DType::kF64) {
      std::map<std::string, std::vector<double>> whole;
      const CheckpointReader reader = CheckpointReader::Open(from);
      for (const CheckpointTensor& tensor : reader.tensors()) {
        const size_t slash = tensor.name.find('/');
        const std::string kind = tensor.name.substr(0, slash);
        if (kind != "master" && kind != "frozen") continue;
        std::vector<double>& values = whole[tensor.name.substr(slash + 1)];
        values.resize(static_cast<size_t>(tensor.shape.num_elements()));
        reader.Read(tensor.name, 0, tensor.shape.num_elements(), DType::kF64, values.data());
      }
      num_off[static_cast<size_t>(world.rank())] = static_cast<int>(split.NumOff(whole, 0));
    }
    const std::string mine = Save(world, run, 1, &split, optimizer);
    if (world.rank() == 0) path = mine;
  });
  for (int n : num_off) CHECK(n == (dtype == DType::kF64 ? 0 : -1));
  return path;
}

// All tensors of a checkpoint as bytes.
std::map<std::string, std::string> Contents(const std::string& path) {
  std::map<std::string, std::string> contents;
  const CheckpointReader reader = CheckpointReader::Open(path, Verify::kHashes);
  for (const CheckpointTensor& tensor : reader.tensors()) {
    std::string bytes(static_cast<size_t>(tensor.shape.num_elements()) * DTypeBytes(tensor.dtype),
                      '\0');
    reader.Read(tensor.name, 0, tensor.shape.num_elements(), tensor.dtype, bytes.data());
    contents[tensor.name + tensor.shape.ToString() + DTypeName(tensor.dtype)] = bytes;
  }
  return contents;
}

// tp, dp, pp, ep, kv_heads, is_sharded.
const std::vector<SplitLayout> kLayouts = {
    {1, 1, 1, 1, 1}, {2, 2, 1, 2, 1}, {4, 1, 1, 4, 2},       {1, 4, 1, 2, 1},
    {1, 2, 2, 1, 2}, {2, 1, 2, 2, 2}, {2, 2, 1, 2, 1, true}, {1, 3, 1, 1, 2, true}};

TEST_CASE("What one layout saves any other restores, bit for bit") {
  for (DType dtype : {DType::kF64, DType::kBF16}) {
    for (const SplitLayout& saved : kLayouts) {
      TemporaryDirectory run;
      const std::string path = SaveTrained(run / "saved", saved, dtype);
      const auto want = Contents(path);
      CHECK(want.size() == 3 * 17 + 2);
      for (const SplitLayout& restored : kLayouts) {
        INFO("tp=" << saved.tp << " dp=" << saved.dp << " pp=" << saved.pp << " sharded="
                   << saved.is_sharded << " -> tp=" << restored.tp << " dp=" << restored.dp
                   << " pp=" << restored.pp << " sharded=" << restored.is_sharded);
        CHECK(Contents(SaveRestored(path, run / "restored", restored, dtype)) == want);
      }
    }
  }
}

TEST_CASE("Frozen layers are saved once, whole or by their shards") {
  const std::vector<SplitLayout> layouts = {
      {1, 1, 1, 1, 1, false, true}, {2, 2, 1, 2, 1, true, true}, {1, 3, 1, 1, 1, true, true}};
  for (const SplitLayout& saved : layouts) {
    TemporaryDirectory run;
    const std::string path = SaveTrained(run / "saved", saved, DType::kF64);
    const auto want = Contents(path);
    CHECK(want.size() == 17 + 2);
    for (const SplitLayout& restored : layouts) {
      CHECK(Contents(SaveRestored(path, run / "restored", restored, DType::kF64)) == want);
    }
  }
}

TEST_CASE("One rank reads the whole model of a split run") {
  TemporaryDirectory run;
  const std::string path = SaveTrained(run.path(), {2, 2, 1, 2, 1}, DType::kF64);
  const auto self = NewSelfCommunicator();
  SplitParams whole(*self, {}, DType::kF64);
  whole.params().Initialize(6, 0.3, whole.ctx().stream());
  CHECK(RestoreValues(whole.ctx(), path, whole.params()).at("step") == 1);
  const CheckpointReader reader = CheckpointReader::Open(path);
  for (const auto& [name, values] : whole.Whole()) {
    std::vector<double> want(values.size());
    const std::string kind = name.rfind("vision", 0) == 0 ? "frozen/" : "master/";
    reader.Read(kind + name, 0, static_cast<int64_t>(want.size()), DType::kF64, want.data());
    CHECK(values == want);
  }
}

}  // namespace
}  // namespace omnitrain
