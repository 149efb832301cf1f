#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/checkpoint/safetensors.h"

namespace omnitrain {

/// The weights of a Hugging Face model directory: `model.safetensors`, or else the shards that
/// `model.safetensors.index.json` lists. Opening reads the header of every file and checks that
/// each tensor of the index is where the index says. Reads may run in several threads at once.
/// Errors: kCheckpoint, naming the directory, file and tensor.
class HfDirectory {
 public:
  static HfDirectory Open(const std::string& path);

  const std::string& path() const { return path_; }
  /// Of all tensors, file by file, in the order of their data.
  const std::vector<std::string>& names() const { return names_; }
  bool Has(const std::string& name) const { return files_of_.count(name) != 0; }
  /// The file that holds the tensor. Errors: a name that no file holds.
  const SafetensorsFile& FileOf(const std::string& name) const;

  const TensorEntry& Find(const std::string& name) const { return FileOf(name).Find(name); }
  void RequireShape(const std::string& name, const std::vector<int64_t>& shape) const {
    FileOf(name).RequireShape(name, shape);
  }
  /// As SafetensorsFile::ReadAs.
  void ReadAs(const std::string& name, DType dtype, void* out, int64_t begin, int64_t count) const {
    FileOf(name).ReadAs(name, dtype, out, begin, count);
  }
  template <typename T>
  std::vector<T> ReadAll(const std::string& name) const {
    return FileOf(name).ReadAll<T>(name);
  }

 private:
  void OpenShards(const std::string& index_path);

  std::string path_;
  std::vector<std::string> names_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::unordered_map<std::string, const SafetensorsFile*> files_of_;
};

}  // namespace omnitrain
