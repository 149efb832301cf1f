#include "core/train/model_io.h"

#include <numeric>

#include "core/checkpoint/safetensors_writer.h"
#include "tests/core/checkpoint/files.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

struct Stored {
  std::string name;
  std::vector<int64_t> shape;
};

// A directory whose tensors count their elements: 0, 1, 2, ...
void WriteModel(const std::string& path, const std::vector<Stored>& tensors) {
  static std::vector<float> numbers(200);
  std::iota(numbers.begin(), numbers.end(), 0.0f);
  std::vector<TensorSource> sources;
  for (const Stored& t : tensors) {
    sources.push_back(MemorySource(t.name, DType::kF32, t.shape, numbers.data()));
  }
  WriteSafetensors(path + "/model.safetensors", std::move(sources));
}

ParamSpec Spec(Shape shape, std::vector<HfPart> parts) {
  ParamSpec spec;
  spec.name = parts[0].name;
  spec.shape = shape;
  spec.hf_parts = std::move(parts);
  return spec;
}

// Values after loading, a list per parameter.
std::vector<std::vector<double>> Load(const std::string& path, std::vector<ParamSpec> specs) {
  CpuContext cpu(1);
  ParamStore params;
  for (ParamSpec& spec : specs) params.Add(std::move(spec));
  ParamStore::AllocateOptions options;
  options.dtype = DType::kF64;
  params.Allocate(*cpu.device, options);
  LoadParams(cpu.ctx, HfDirectory::Open(path), params);
  std::vector<std::vector<double>> values;
  for (ParamId id = 0; id < params.num_params(); ++id) {
    const double* value = params.value(id).ptr<double>();
    values.emplace_back(value, value + params.value(id).num_elements());
  }
  return values;
}

using Values = std::vector<double>;

TEST_CASE("A rank reads its rows and columns of each stored tensor") {
  TemporaryDirectory dir;
  WriteModel(dir.path(), {{"gate", {4, 5}}, {"up", {4, 5}}, {"patch", {3, 2, 2}}});
  const auto values =
      Load(dir.path(), {Spec({3, 2}, {{"gate", 0, 2, {4, 5}, 1, 3}, {"up", 2, 1, {4, 5}, 3, 0}}),
                        Spec({2, 4}, {{"patch", 0, 2, {3, 2, 2}, 1, 0}})});
  CHECK(values[0] == Values{8, 9, 13, 14, 15, 16});
  CHECK(values[1] == Values{4, 5, 6, 7, 8, 9, 10, 11});
  CHECK(Contains(MessageOf([&] {
                   Load(dir.path(), {Spec({2, 5}, {{"up", 0, 2, {2, 5}}})});
                 }),
                 "[2, 5]"));
}

TEST_CASE("Experts are read as transformers keeps them and as hub files have them") {
  // Three experts of which this rank has the last two; `down` is square and does not tell.
  const std::string up = "layers.0.mlp.experts.gate_up_proj",
                    down = "layers.0.mlp.experts.down_proj";
  const auto specs = [&] {
    return std::vector<ParamSpec>{Spec({2, 2, 2}, {{down, 0, 2, {3, 2, 2}, 1, 0}}),
                                  Spec({2, 4, 2}, {{up, 0, 2, {3, 4, 2}, 1, 0}})};
  };
  TemporaryDirectory kept, hub;
  WriteModel(kept.path(), {{up, {3, 4, 2}}, {down, {3, 2, 2}}});
  auto values = Load(kept.path(), specs());
  CHECK(values[0] == Values{4, 5, 6, 7, 8, 9, 10, 11});
  CHECK(values[1] == Values{8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23});
  WriteModel(hub.path(), {{up, {3, 2, 4}}, {down, {3, 2, 2}}});
  values = Load(hub.path(), specs());
  CHECK(values[0] == Values{4, 6, 5, 7, 8, 10, 9, 11});
  CHECK(values[1] == Values{8, 12, 9, 13, 10, 14, 11, 15, 16, 20, 17, 21, 18, 22, 19, 23});
  TemporaryDirectory tall;
  WriteModel(tall.path(), {{up, {1, 3, 40}}});
  const Values tall_values = Load(tall.path(), {Spec({1, 40, 3}, {{up, 0, 1, {1, 40, 3}}})})[0];
  for (int64_t i = 0; i < 120; ++i) {
    CHECK(tall_values[static_cast<size_t>(i)] == static_cast<double>(i % 3 * 40 + i / 3));
  }
  // Some of each is neither.
  TemporaryDirectory mixed;
  WriteModel(mixed.path(), {{up, {3, 2, 4}}, {down, {3, 1, 4}}});
  CHECK(Contains(MessageOf([&] { Load(mixed.path(), specs()); }), down));
}

TEST_CASE("Of a sharded layer a rank reads its shard, whatever it cuts through") {
  const std::string up = "layers.0.mlp.experts.gate_up_proj", q = "layers.0.q", k = "layers.0.k";
  TemporaryDirectory dir;
  WriteModel(dir.path(), {{up, {3, 6, 10}}, {q, {7, 5}}, {k, {3, 5}}});  // experts as hub files
  const auto specs = [&] {
    std::vector<ParamSpec> all = {Spec({3, 10, 6}, {{up, 0, 3, {3, 10, 6}}}),
                                  Spec({10, 5}, {{q, 0, 7, {7, 5}}, {k, 7, 3, {3, 5}}})};
    all[0].name = "llm.layers.0.experts";
    all[1].name = "llm.layers.0.qkv";
    return all;
  };
  const std::vector<Values> whole = Load(dir.path(), specs());
  CHECK(whole[0][1] == 10);  // turned
  std::vector<Values> joined(2);
  for (int rank = 0; rank < 3; ++rank) {
    CpuContext cpu(1);
    ParamStore params;
    for (ParamSpec& spec : specs()) params.Add(std::move(spec));
    ParamStore::AllocateOptions options;
    options.dtype = DType::kF64;
    options.sharded_stack = "llm";
    options.num_shards.fill(3);
    options.shard_idx.fill(rank);
    params.Allocate(*cpu.device, options);
    CHECK(LoadParams(cpu.ctx, HfDirectory::Open(dir.path()), params).size() == 3);
    for (ParamId id = 0; id < 2; ++id) {
      const ParamStore::Kept kept = params.kept(id);
      if (!kept.values) continue;
      CHECK(kept.begin == static_cast<int64_t>(joined[static_cast<size_t>(id)].size()));
      const double* value = kept.values.ptr<double>();
      joined[static_cast<size_t>(id)].insert(joined[static_cast<size_t>(id)].end(), value,
                                             value + kept.values.num_elements());
    }
  }
  CHECK(joined == whole);
}

}  // namespace
}  // namespace omnitrain
