#include "core/model/config_reader.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/spec/suggest.h"

namespace omnitrain {
namespace {

const Json* FindIn(const Json* object, const std::string& key) {
  if (object == nullptr) return nullptr;
  const auto it = object->find(key);
  return it == object->end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

ConfigReader::ConfigReader(const Json& object, std::string where, std::string path, ErrorCode code,
                           const Json* fallback)
    : object_(&object),
      where_(std::move(where)),
      path_(std::move(path)),
      code_(code),
      fallback_(fallback) {
  if (!object.is_object()) {
    Fail(code_, "{}: {}expected an object of keys, got {}", where_,
         path_.empty() ? "" : path_ + ": ", object.dump());
  }
}

const Json* ConfigReader::Find(const std::string& key) {
  if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) asked_.push_back(key);
  const Json* value = FindIn(object_, key);
  return value != nullptr ? value : FindIn(fallback_, key);
}

const Json& ConfigReader::FindRequired(const std::string& key) {
  const Json* value = Find(key);
  Require(value != nullptr, key, "missing");
  return *value;
}

int64_t ConfigReader::Int(const std::string& key, std::optional<int64_t> absent) {
  if (absent.has_value() && !Has(key)) return *absent;
  const Json& value = FindRequired(key);
  Require(value.is_number_integer(), key, "expected an integer, got {}", value.dump());
  return value.get<int64_t>();
}

double ConfigReader::Real(const std::string& key, std::optional<double> absent) {
  if (absent.has_value() && !Has(key)) return *absent;
  const Json& value = FindRequired(key);
  Require(value.is_number() && std::isfinite(value.get<double>()), key, "expected a number, got {}",
          value.dump());
  return value.get<double>();
}

bool ConfigReader::Bool(const std::string& key, bool absent) {
  if (!Has(key)) return absent;
  const Json& value = FindRequired(key);
  Require(value.is_boolean(), key, "expected true or false, got {}", value.dump());
  return value.get<bool>();
}

std::string ConfigReader::String(const std::string& key, std::optional<std::string> absent) {
  if (absent.has_value() && !Has(key)) return *absent;
  const Json& value = FindRequired(key);
  Require(value.is_string(), key, "expected a string, got {}", value.dump());
  return value.get<std::string>();
}

std::vector<int64_t> ConfigReader::Ints(const std::string& key,
                                        std::optional<std::vector<int64_t>> absent) {
  if (absent.has_value() && !Has(key)) return *absent;
  const Json& value = FindRequired(key);
  const bool is_list_of_ints =
      value.is_array() &&
      std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_number_integer(); });
  Require(is_list_of_ints, key, "expected a list of integers, got {}", value.dump());
  return value.get<std::vector<int64_t>>();
}

int ConfigReader::Size(const std::string& key, std::optional<int> absent) {
  std::optional<int64_t> wide;
  if (absent.has_value()) wide = *absent;
  const int64_t size = Int(key, wide);
  Require(size >= 1 && size <= std::numeric_limits<int>::max(), key, "{} is not a size", size);
  return static_cast<int>(size);
}

ConfigReader ConfigReader::Object(const std::string& key) {
  return ConfigReader(FindRequired(key), where_, PathOf(key), code_);
}

void ConfigReader::RefuseOthers(const std::vector<std::string>& ignored) const {
  for (const auto& [key, value] : object_->items()) {
    const auto is_key = [&key = key](const std::string& other) { return other == key; };
    if (std::any_of(asked_.begin(), asked_.end(), is_key)) continue;
    if (std::any_of(ignored.begin(), ignored.end(), is_key)) continue;
    if (value.is_null()) continue;
    // Only what a person wrote can be a slip of the pen.
    Require(code_ == ErrorCode::kSpec, key, "not implemented");
    const std::string nearest = Nearest(key, asked_);
    if (nearest.empty()) {
      Fail(code_, "{}: unknown key '{}'; the keys here are {}", where_, PathOf(key),
           fmt::join(asked_, ", "));
    }
    Fail(code_, "{}: unknown key '{}'; did you mean '{}'?", where_, PathOf(key), PathOf(nearest));
  }
}

}  // namespace omnitrain
