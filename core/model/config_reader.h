#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/base/json.h"

namespace omnitrain {

/// Typed access to one object of a model configuration that remembers which keys were asked for.
/// null counts as absent. Every message starts with the file (or `model.arch`) and names the key.
class ConfigReader {
 public:
  /// `fallback`: an object looked into for keys that `object` lacks, or null.
  ConfigReader(const Json& object, std::string where, std::string path, ErrorCode code,
               const Json* fallback = nullptr);

  bool Has(const std::string& key) { return Find(key) != nullptr; }
  const Json* Find(const std::string& key);

  /// Required, or `absent` if that is given.
  int64_t Int(const std::string& key, std::optional<int64_t> absent = std::nullopt);
  double Real(const std::string& key, std::optional<double> absent = std::nullopt);
  bool Bool(const std::string& key, bool absent);
  std::string String(const std::string& key, std::optional<std::string> absent = std::nullopt);
  std::vector<int64_t> Ints(const std::string& key,
                            std::optional<std::vector<int64_t>> absent = std::nullopt);
  /// An int from 1 on.
  int Size(const std::string& key, std::optional<int> absent = std::nullopt);
  /// The object at `key`.
  ConfigReader Object(const std::string& key);

  /// Refuses keys that were neither asked for nor are among `ignored`.
  void RefuseOthers(const std::vector<std::string>& ignored) const;

  template <typename... Args>
  void Require(bool is_fine, const std::string& key, fmt::format_string<Args...> format,
               Args&&... args) const {
    if (is_fine) return;
    Fail(code_, "{}: {}: {}", where_, PathOf(key),
         fmt::format(format, std::forward<Args>(args)...));
  }

  std::string PathOf(const std::string& key) const {
    return path_.empty() ? key : path_ + "." + key;
  }
  const Json& object() const { return *object_; }

 private:
  const Json& FindRequired(const std::string& key);

  const Json* object_;
  std::string where_;
  std::string path_;
  ErrorCode code_;
  const Json* fallback_;
  std::vector<std::string> asked_;
};

}  // namespace omnitrain
