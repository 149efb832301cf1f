#include <fmt/format.h>

#include "core/base/json.h"
#include "core/spec/fields.h"
#include "core/spec/json_echo.h"
#include "core/spec/range_text.h"

namespace omnitrain {
namespace {

/// Prints a line per key; defaults are taken from the echo of a default spec.
class ReferenceWriter : public FieldVisitor {
 public:
  explicit ReferenceWriter(Json defaults) : defaults_{std::move(defaults)}, path_{""} {}

  void BeginGroup(const char* key, const char* help) override {
    text +=
        fmt::format("{}{}  # {}\n", path_.size() == 1 ? "\n" : "", path_.back() + key + ":", help);
    Push(key);
  }
  void EndGroup() override { Pop(); }
  size_t BeginList(const char* key, size_t, const char* help) override {
    BeginGroup(key, help);
    return 1;
  }
  void BeginItem(size_t) override {
    JobSpec one;
    one.data.sources.resize(1);
    path_.push_back(path_.back() + "N.");
    defaults_.push_back(ToJson(one)["data"]["sources"][0]);
  }
  void EndItem() override { Pop(); }
  void EndList() override { Pop(); }

  void Bool(const char* key, bool*, const char* help) override { Line(key, "true, false", help); }
  void Int(const char* key, int64_t*, IntRange range, const char* help) override {
    Line(key, "integer " + RangeText(range), help);
  }
  void OptionalInt(const char* key, std::optional<int64_t>*, IntRange range,
                   const char* help) override {
    Line(key, "integer " + RangeText(range), help);
  }
  void Real(const char* key, double*, RealRange range, const char* help) override {
    Line(key, "number " + RangeText(range), help);
  }
  void String(const char* key, std::string*, const char* help) override {
    Line(key, "string", help);
  }
  void Enum(const char* key, int*, EnumNames names, const char* help) override {
    Line(key, ChoicesText(names), help);
  }
  void Ints(const char* key, std::vector<int64_t>*, IntRange range, const char* help) override {
    Line(key, "list of integers " + RangeText(range), help);
  }
  void Reals(const char* key, double*, size_t size, RealRange range, const char* help) override {
    Line(key, fmt::format("{} numbers {}", size, RangeText(range)), help);
  }
  void Strings(const char* key, std::vector<std::string>*, const char* help) override {
    Line(key, "list of strings", help);
  }
  void AnyMap(const char* key, std::string*, const char* help) override { Line(key, "map", help); }

  std::string text;

 private:
  void Push(const std::string& key) {
    path_.push_back(path_.back() + key + ".");
    defaults_.push_back(Json(defaults_.back()[key]));
  }
  void Pop() {
    path_.pop_back();
    defaults_.pop_back();
  }
  void Line(const char* key, const std::string& type, const char* help) {
    const Json value = defaults_.back()[key];
    text += fmt::format("{:<32} {:<34} {:<14} {}\n", path_.back() + key, type,
                        value.is_string() ? value.get<std::string>() : value.dump(), help);
  }

  std::vector<Json> defaults_;
  std::vector<std::string> path_;
};

}  // namespace

std::string KeyReference() {
  const JobSpec defaults;
  ReferenceWriter writer(ToJson(defaults));
  writer.text = fmt::format("{:<32} {:<34} {:<14} {}\n", "key", "values", "default", "meaning");
  JobSpec spec;
  VisitFields(writer, &spec);
  return writer.text;
}

}  // namespace omnitrain
