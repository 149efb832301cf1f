#include "core/checkpoint/hf_save.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <utility>

#include "core/base/json.h"
#include "core/checkpoint/file.h"

namespace omnitrain {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 12> kSideFiles = {"config.json",
                                                    "generation_config.json",
                                                    "tokenizer.json",
                                                    "tokenizer_config.json",
                                                    "vocab.json",
                                                    "merges.txt",
                                                    "added_tokens.json",
                                                    "special_tokens_map.json",
                                                    "preprocessor_config.json",
                                                    "chat_template.json",
                                                    "video_preprocessor_config.json",
                                                    "chat_template.jinja"};

constexpr const char* kIndexName = "model.safetensors.index.json";

int64_t FileBytes(const TensorSource& tensor) {
  return tensor.num_elements() * static_cast<int64_t>(DTypeBytes(tensor.dtype));
}

// The replacement deletes what stood there: only what looks like a model may be deleted.
void RequireReplaceable(const std::string& target, const HfSaveOptions& options) {
  if (!fs::exists(target)) return;
  OT_REQUIRE(fs::is_directory(target), ErrorCode::kCheckpoint, "{}: exists and is no directory",
             target);
  for (const std::string& name : ListDirectory(target)) {
    const fs::path path = fs::path(target) / name;
    const bool is_known = std::count(kSideFiles.begin(), kSideFiles.end(), name) != 0 ||
                          options.side_files.count(name) != 0 || name == kIndexName ||
                          (name.rfind("model", 0) == 0 && path.extension() == ".safetensors");
    OT_REQUIRE(is_known && !fs::is_directory(path), ErrorCode::kCheckpoint,
               "{}: holds {}, which saving a model there would delete; choose another directory",
               target, name);
  }
}

std::map<std::string, std::string> GatherSideFiles(const std::string& target,
                                                   const HfSaveOptions& options) {
  std::map<std::string, std::string> files;
  if (!options.side_files_from.empty()) {
    for (const char* name : kSideFiles) {
      const fs::path path = fs::path(options.side_files_from) / name;
      if (fs::exists(path)) files[name] = ReadFile(path.string(), ErrorCode::kCheckpoint);
    }
  }
  for (const auto& [name, contents] : options.side_files) files[name] = contents;
  OT_REQUIRE(files.count("config.json") != 0, ErrorCode::kCheckpoint,
             "{}: no config.json to save{}{}", target,
             options.side_files_from.empty() ? "" : ": there is none in ", options.side_files_from);
  return files;
}

Json ParseConfig(const std::string& target, const std::string& text) {
  try {
    const Json config = Json::parse(text);
    if (config.is_object()) return config;
  } catch (const Json::exception&) {
  }
  Fail(ErrorCode::kCheckpoint, "{}: the config.json to save is no JSON object", target);
}

// The top level wins over text_config: mixture-of-experts releases contradict themselves there.
bool TiesEmbeddings(const Json& config) {
  for (const Json* level :
       {&config, config.contains("text_config") ? &config["text_config"] : nullptr}) {
    if (level == nullptr || !level->is_object()) continue;
    const auto found = level->find("tie_word_embeddings");
    if (found != level->end() && found->is_boolean()) return found->get<bool>();
  }
  return false;
}

// Returns whether anything changed.
bool SetFloatType(const std::string& dtype, Json* config) {
  bool changed = false;
  for (auto& [key, value] : config->items()) {
    if (value.is_object()) changed |= SetFloatType(dtype, &value);
    if ((key == "dtype" || key == "torch_dtype") && value.is_string() && value != dtype) {
      value = dtype;
      changed = true;
    }
  }
  return changed;
}

std::string TransformersName(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "float64";
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    default:
      return "";
  }
}

// The type of most elements: a few tensors may stay in a wider one.
DType MainFloatType(const std::vector<TensorSource>& tensors) {
  std::map<DType, int64_t> counts;
  for (const TensorSource& tensor : tensors) {
    if (!TransformersName(tensor.dtype).empty()) counts[tensor.dtype] += tensor.num_elements();
  }
  DType main = DType::kF32;
  int64_t most = -1;
  for (const auto& [dtype, count] : counts) {
    if (count > most) {
      main = dtype;
      most = count;
    }
  }
  return main;
}

void WriteWeights(const std::string& directory, std::vector<TensorSource> tensors,
                  int64_t max_shard_bytes) {
  std::vector<std::vector<TensorSource>> shards(1);
  int64_t total_bytes = 0, shard_bytes = 0;
  for (TensorSource& tensor : tensors) {
    const int64_t bytes = FileBytes(tensor);
    if (!shards.back().empty() && shard_bytes + bytes > max_shard_bytes) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shard_bytes += bytes;
    total_bytes += bytes;
    shards.back().push_back(std::move(tensor));
  }
  if (shards.size() == 1) {
    WriteSafetensors(directory + "/model.safetensors", std::move(shards[0]));
    return;
  }
  std::map<std::string, std::string> weight_map;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const TensorSource& tensor : shards[i]) {
      const bool is_new = weight_map.emplace(tensor.name, name).second;
      OT_REQUIRE(is_new, ErrorCode::kCheckpoint, "{}: tensor {} is given twice", directory,
                 tensor.name);
    }
    WriteSafetensors(directory + "/" + name, std::move(shards[i]));
  }
  nlohmann::json index;
  index["metadata"]["total_size"] = total_bytes;
  index["weight_map"] = weight_map;
  WriteFileAtomically(directory + "/" + kIndexName, index.dump(2) + "\n", ErrorCode::kCheckpoint);
}

}  // namespace

void SaveHfDirectory(const std::string& target, std::vector<TensorSource> tensors,
                     const HfSaveOptions& options) {
  // A link to a directory is followed, and a trailing slash is no part of the name.
  std::string place = fs::weakly_canonical(target).string();
  if (place.size() > 1 && place.back() == '/') place.pop_back();
  RequireReplaceable(place, options);

  std::map<std::string, std::string> files = GatherSideFiles(target, options);
  Json config = ParseConfig(target, files["config.json"]);
  if (TiesEmbeddings(config)) {
    tensors.erase(std::remove_if(tensors.begin(), tensors.end(),
                                 [](const TensorSource& t) { return t.name == "lm_head.weight"; }),
                  tensors.end());
  }
  if (SetFloatType(TransformersName(MainFloatType(tensors)), &config)) {
    files["config.json"] = config.dump(2) + "\n";
  }

  const std::string temporary = place + ".part";
  RemoveTree(temporary);
  MakeDirectories(temporary);
  try {
    WriteWeights(temporary, std::move(tensors), options.max_shard_bytes);
    for (const auto& [name, contents] : files) {
      WriteFileAtomically(temporary + "/" + name, contents, ErrorCode::kCheckpoint);
    }
    SyncDirectory(temporary);
    ReplaceAtomically(temporary, place);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
}

}  // namespace omnitrain
