#include "core/checkpoint/manifest.h"

#include <filesystem>
#include <unordered_map>
#include <utility>

#include "core/base/json.h"
#include "core/checkpoint/exact_cover.h"
#include "core/checkpoint/hash.h"

namespace omnitrain {
namespace {

constexpr int kVersion = 2;

Json TensorsToJson(const std::vector<CheckpointTensor>& tensors) {
  Json list = Json::array();
  for (const CheckpointTensor& tensor : tensors) {
    Json shape = Json::array();
    for (int i = 0; i < tensor.shape.rank(); ++i) shape.push_back(tensor.shape[i]);
    list.push_back({{"name", tensor.name}, {"dtype", DTypeName(tensor.dtype)}, {"shape", shape}});
  }
  return list;
}

// The JSON readers below throw the library's exception or Error on any mismatch: FromText turns
// both into one message.
std::vector<CheckpointTensor> TensorsFromJson(const Json& list) {
  std::vector<CheckpointTensor> tensors;
  for (const Json& item : list) {
    CheckpointTensor tensor;
    tensor.name = item.at("name").get<std::string>();
    const std::string dtype = item.at("dtype").get<std::string>();
    bool is_known = false;
    for (DType candidate : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16, DType::kI64,
                            DType::kI32, DType::kU8}) {
      if (dtype != DTypeName(candidate)) continue;
      tensor.dtype = candidate;
      is_known = true;
    }
    OT_REQUIRE(is_known, ErrorCode::kCheckpoint, "tensor {}: unknown dtype {}", tensor.name, dtype);
    const auto dims = item.at("shape").get<std::vector<int64_t>>();
    OT_REQUIRE(dims.size() <= static_cast<size_t>(Shape::kMaxRank), ErrorCode::kCheckpoint,
               "tensor {}: {} dims", tensor.name, dims.size());
    int64_t bytes = static_cast<int64_t>(DTypeBytes(tensor.dtype));
    for (int64_t dim : dims) {
      OT_REQUIRE(dim >= 0 && !__builtin_mul_overflow(bytes, dim, &bytes), ErrorCode::kCheckpoint,
                 "tensor {}: impossible shape", tensor.name);
    }
    tensor.shape = Shape::FromRange(dims.data(), static_cast<int>(dims.size()));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

Json FileToJson(const ManifestFile& file) {
  Json regions = Json::array();
  for (const ManifestRegion& region : file.regions) {
    Json runs = Json::array();
    for (const ElementRun& run : region.runs) {
      runs.push_back(run.count == 1 ? Json{run.begin, run.length}
                                    : Json{run.begin, run.length, run.stride, run.count});
    }
    regions.push_back({{"tensor", region.tensor}, {"offset", region.offset}, {"runs", runs}});
  }
  return {
      {"name", file.name}, {"bytes", file.bytes}, {"xxh3_128", file.hash}, {"regions", regions}};
}

ManifestFile FileFromJson(const Json& item, size_t num_tensors) {
  ManifestFile file;
  file.name = item.at("name").get<std::string>();
  OT_REQUIRE(!file.name.empty() && std::filesystem::path(file.name).filename() == file.name,
             ErrorCode::kCheckpoint, "\"{}\" is no file name", file.name);
  file.bytes = item.at("bytes").get<int64_t>();
  file.hash = item.at("xxh3_128").get<std::string>();
  for (const Json& entry : item.at("regions")) {
    ManifestRegion region;
    region.tensor = entry.at("tensor").get<int>();
    OT_REQUIRE(region.tensor >= 0 && static_cast<size_t>(region.tensor) < num_tensors,
               ErrorCode::kCheckpoint, "{}: there is no tensor {}", file.name, region.tensor);
    region.offset = entry.at("offset").get<int64_t>();
    for (const Json& run : entry.at("runs")) {
      ElementRun r = {run.at(0).get<int64_t>(), run.at(1).get<int64_t>()};
      if (run.size() > 2) {
        r.stride = run.at(2).get<int64_t>();
        r.count = run.at(3).get<int64_t>();
      }
      region.runs.push_back(r);
    }
    file.regions.push_back(std::move(region));
  }
  return file;
}

// Whether a run lies in a tensor of so many elements, once each, without numbers that overflow.
bool IsInside(const ElementRun& run, int64_t elements) {
  if (run.begin < 0 || run.begin > elements) return false;
  const int64_t rest = elements - run.begin;
  if (run.length < 0 || run.length > rest || run.count < 1) return false;
  if (run.count == 1) return true;
  return run.length > 0 && run.stride >= run.length && run.stride <= rest &&
         run.count - 1 <= (rest - run.length) / run.stride;
}

}  // namespace

std::string Manifest::ToText() const {
  Json content = {{"format", "omnitrain-checkpoint"},
                  {"version", kVersion},
                  {"step", step},
                  {"save_idx", save_idx},
                  {"world_size", world_size},
                  {"tensors", TensorsToJson(tensors)}};
  Json list = Json::array();
  for (const ManifestFile& file : files) list.push_back(FileToJson(file));
  content["files"] = std::move(list);
  content["state"] = Json::parse(state);
  const std::string text = content.dump();
  return fmt::format("{{\"checksum\":\"{}\",\"content\":{}}}\n", HashOf(text), text);
}

Manifest Manifest::FromText(const std::string& path, const std::string& text) {
  try {
    const Json json = Json::parse(text);
    const Json& content = json.at("content");
    OT_REQUIRE(content.at("format") == "omnitrain-checkpoint", ErrorCode::kCheckpoint,
               "not a checkpoint of omnitrain");
    OT_REQUIRE(content.at("version") == kVersion, ErrorCode::kCheckpoint,
               "format version {}, this program reads {}", content.at("version").dump(), kVersion);
    OT_REQUIRE(json.at("checksum") == HashOf(content.dump()), ErrorCode::kCheckpoint,
               "the checksum does not match: damaged or edited");
    Manifest manifest;
    manifest.step = content.at("step").get<int64_t>();
    manifest.save_idx = content.at("save_idx").get<int64_t>();
    manifest.world_size = content.at("world_size").get<int>();
    manifest.tensors = TensorsFromJson(content.at("tensors"));
    for (const Json& file : content.at("files")) {
      manifest.files.push_back(FileFromJson(file, manifest.tensors.size()));
    }
    manifest.state = content.at("state").dump();
    const std::string fault = manifest.FindFault();
    OT_REQUIRE(fault.empty(), ErrorCode::kCheckpoint, "{}", fault);
    return manifest;
  } catch (const std::exception& e) {
    Fail(ErrorCode::kCheckpoint, "{}: {}", path, e.what());
  }
}

void Manifest::AddEntry(const std::string& entry) {
  const Json json = Json::parse(entry);
  const std::vector<CheckpointTensor> theirs = TensorsFromJson(json.at("tensors"));
  ManifestFile file = FileFromJson(json.at("file"), theirs.size());
  std::unordered_map<std::string, int> indices;
  for (size_t i = 0; i < tensors.size(); ++i) indices[tensors[i].name] = static_cast<int>(i);
  std::vector<int> ours(theirs.size());
  for (size_t i = 0; i < theirs.size(); ++i) {
    const auto [found, is_new] = indices.emplace(theirs[i].name, static_cast<int>(tensors.size()));
    if (is_new) tensors.push_back(theirs[i]);
    const CheckpointTensor& known = tensors[static_cast<size_t>(found->second)];
    OT_CHECK(known.dtype == theirs[i].dtype && known.shape == theirs[i].shape,
             "{}: tensor {} is {} {}, on an earlier rank {} {}", file.name, known.name,
             DTypeName(theirs[i].dtype), theirs[i].shape.ToString(), DTypeName(known.dtype),
             known.shape.ToString());
    ours[i] = found->second;
  }
  for (ManifestRegion& region : file.regions) {
    region.tensor = ours[static_cast<size_t>(region.tensor)];
  }
  files.push_back(std::move(file));
}

std::string Manifest::FindFault() const {
  std::vector<std::vector<ElementRun>> runs(tensors.size());
  for (const ManifestFile& file : files) {
    for (const ManifestRegion& region : file.regions) {
      const CheckpointTensor& tensor = tensors[static_cast<size_t>(region.tensor)];
      const int64_t elements = tensor.shape.num_elements();
      int64_t count = 0;
      for (const ElementRun& run : region.runs) {
        if (!IsInside(run, elements) || count > elements - run.num_elements()) {
          return fmt::format("{}: tensor {}: impossible elements [{}, +{}) x {}, {} apart",
                             file.name, tensor.name, run.begin, run.length, run.count, run.stride);
        }
        count += run.num_elements();
        runs[static_cast<size_t>(region.tensor)].push_back(run);
      }
      const int64_t bytes = count * static_cast<int64_t>(DTypeBytes(tensor.dtype));
      if (region.offset < 0 || bytes > file.bytes || region.offset > file.bytes - bytes) {
        return fmt::format("{}: tensor {} lies outside the file", file.name, tensor.name);
      }
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string fault = FindCoverFault(tensors[i].shape, runs[i]);
    if (!fault.empty()) return fmt::format("tensor {}: {}", tensors[i].name, fault);
  }
  return "";
}

std::string RankEntry(const std::vector<CheckpointTensor>& tensors, const ManifestFile& file) {
  return Json{{"tensors", TensorsToJson(tensors)}, {"file", FileToJson(file)}}.dump();
}

}  // namespace omnitrain
