#include "core/checkpoint/hf_directory.h"

#include <filesystem>
#include <map>
#include <utility>

#include "core/base/json.h"

namespace omnitrain {
namespace fs = std::filesystem;

HfDirectory HfDirectory::Open(const std::string& path) {
  OT_REQUIRE(fs::is_directory(path), ErrorCode::kCheckpoint, "{}: not a directory", path);
  HfDirectory directory;
  directory.path_ = path;
  const fs::path single = fs::path(path) / "model.safetensors";
  const fs::path index = fs::path(path) / "model.safetensors.index.json";
  // The order in which transformers looks.
  if (fs::exists(single)) {
    directory.files_.push_back(
        std::make_unique<SafetensorsFile>(SafetensorsFile::Open(single.string())));
    const SafetensorsFile& file = *directory.files_.back();
    directory.names_ = file.names();
    for (const std::string& name : file.names()) directory.files_of_.emplace(name, &file);
  } else if (fs::exists(index)) {
    directory.OpenShards(index.string());
  } else {
    Fail(ErrorCode::kCheckpoint,
         "{}: holds neither model.safetensors nor model.safetensors.index.json{}", path,
         fs::exists(fs::path(path) / "pytorch_model.bin") ||
                 fs::exists(fs::path(path) / "pytorch_model.bin.index.json")
             ? ": pytorch_model.bin is not read, save the model as safetensors"
             : "");
  }
  return directory;
}

void HfDirectory::OpenShards(const std::string& index_path) {
  const Json index = ReadJsonFile(index_path, ErrorCode::kCheckpoint);
  OT_REQUIRE(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
             ErrorCode::kCheckpoint, "{}: has no weight_map", index_path);
  std::map<std::string, std::vector<std::string>> names_of;  // file -> tensors
  for (const auto& [name, value] : index["weight_map"].items()) {
    OT_REQUIRE(value.is_string(), ErrorCode::kCheckpoint, "{}: tensor {}: no file name", index_path,
               name);
    const std::string file = value.get<std::string>();
    OT_REQUIRE(!file.empty() && fs::path(file).filename() == file, ErrorCode::kCheckpoint,
               "{}: tensor {}: \"{}\" is no file name", index_path, name, file);
    names_of[file].push_back(name);
  }
  for (const auto& [file_name, names] : names_of) {
    const fs::path path = fs::path(path_) / file_name;
    OT_REQUIRE(fs::exists(path), ErrorCode::kCheckpoint,
               "{}: shard {} is missing (of {} in the index): {} of its tensors, first {}", path_,
               file_name, names_of.size(), names.size(), names.front());
    files_.push_back(std::make_unique<SafetensorsFile>(SafetensorsFile::Open(path.string())));
    const SafetensorsFile& file = *files_.back();
    for (const std::string& name : names) {
      OT_REQUIRE(file.Has(name), ErrorCode::kCheckpoint,
                 "{}: holds no tensor {}, which {} places there", file.path(), name, index_path);
      const bool is_new = files_of_.emplace(name, &file).second;
      OT_REQUIRE(is_new, ErrorCode::kCheckpoint, "{}: lists tensor {} twice", index_path, name);
    }
    for (const std::string& name : file.names()) {
      const auto found = files_of_.find(name);
      if (found != files_of_.end() && found->second == &file) names_.push_back(name);
    }
  }
}

const SafetensorsFile& HfDirectory::FileOf(const std::string& name) const {
  const auto found = files_of_.find(name);
  OT_REQUIRE(found != files_of_.end(), ErrorCode::kCheckpoint, "{}: holds no tensor {}", path_,
             name);
  return *found->second;
}

}  // namespace omnitrain
