#include <cctype>
#include <cstring>

#include "core/spec/fields.h"
#include "core/spec/json_echo.h"
#include "core/spec/node.h"

namespace omnitrain {
namespace {

class JsonWriter : public FieldVisitor {
 public:
  JsonWriter() { open_.push_back(&root_); }

  void BeginGroup(const char* key, const char*) override { Open(key, Json::object()); }
  void EndGroup() override { open_.pop_back(); }
  size_t BeginList(const char* key, size_t size, const char*) override {
    Open(key, Json::array());
    return size;
  }
  void BeginItem(size_t) override {
    open_.back()->push_back(Json::object());
    open_.push_back(&open_.back()->back());
  }
  void EndItem() override { open_.pop_back(); }
  void EndList() override { open_.pop_back(); }

  void Bool(const char* key, bool* v, const char*) override { Put(key, *v); }
  void Int(const char* key, int64_t* v, IntRange, const char*) override { Put(key, *v); }
  void OptionalInt(const char* key, std::optional<int64_t>* v, IntRange, const char*) override {
    Put(key, v->has_value() ? Json(**v) : Json(nullptr));
  }
  void Real(const char* key, double* v, RealRange, const char*) override { Put(key, *v); }
  void String(const char* key, std::string* v, const char*) override {
    Put(key, v->empty() ? Json(nullptr) : Json(*v));
  }
  void Enum(const char* key, int* v, EnumNames names, const char*) override {
    Put(key, names.names[*v]);
  }
  void Ints(const char* key, std::vector<int64_t>* v, IntRange, const char*) override {
    Put(key, *v);
  }
  void Reals(const char* key, double* v, size_t size, RealRange, const char*) override {
    Put(key, std::vector<double>(v, v + size));
  }
  void Strings(const char* key, std::vector<std::string>* v, const char*) override { Put(key, *v); }
  void AnyMap(const char* key, std::string* json, const char*) override {
    Put(key, json->empty() ? Json(nullptr) : Json::parse(*json));
  }

  Json Result() { return std::move(root_); }

 private:
  void Put(const char* key, Json value) { (*open_.back())[key] = std::move(value); }
  void Open(const char* key, Json empty) {
    Put(key, std::move(empty));
    // Pointers stay good: a parent gets no further entry before its child is closed.
    open_.push_back(&(*open_.back())[key]);
  }

  Json root_ = Json::object();
  std::vector<Json*> open_;
};

/// A string as it may stand in YAML: plain where nothing can misread it, quoted as JSON elsewhere.
std::string YamlString(const std::string& s) {
  bool is_plain = !s.empty() && ResolveScalar(s) == ScalarType::kString &&
                  (std::isalpha(static_cast<unsigned char>(s[0])) || s[0] == '/' || s[0] == '_');
  for (unsigned char c : s) is_plain = is_plain && (std::isalnum(c) || (c && strchr("_./-", c)));
  return is_plain ? s : Json(s).dump();
}

bool IsFlow(const Json& value) {
  if (!value.is_structured() || value.empty()) return true;
  if (value.is_object()) return false;
  for (const Json& item : value) {
    if (item.is_structured()) return false;
  }
  return true;
}

/// A scalar, an empty map, or a list of scalars on one line.
std::string FlowYaml(const Json& value) {
  if (value.is_string()) return YamlString(value.get<std::string>());
  if (!value.is_array()) {
    std::string text = value.dump();
    // YAML 1.1 readers take 1e-08 for a string.
    const size_t exponent = text.find('e');
    if (value.is_number_float() && exponent != std::string::npos && text.find('.') > exponent)
      text.insert(exponent, ".0");
    return text;
  }
  std::string text = "[";
  for (const Json& item : value) text += (text.size() > 1 ? ", " : "") + FlowYaml(item);
  return text + "]";
}

void AppendYaml(const Json& value, int indent, std::string* out) {
  const std::string pad(indent, ' ');
  if (value.is_array()) {
    for (const Json& item : value) {
      if (IsFlow(item)) {
        *out += pad + "- " + FlowYaml(item) + "\n";
      } else {
        const size_t begin = out->size();
        AppendYaml(item, indent + 2, out);
        (*out)[begin + indent] = '-';  // over the padding of the item's first line
      }
    }
    return;
  }
  for (const auto& [key, child] : value.items()) {
    *out += pad + YamlString(key) + ":";
    if (IsFlow(child)) {
      *out += " " + FlowYaml(child) + "\n";
    } else {
      *out += "\n";
      AppendYaml(child, indent + 2, out);
    }
  }
}

}  // namespace

Json ToJson(const JobSpec& spec) {
  JsonWriter writer;
  JobSpec copy = spec;  // visitors may write, this one only reads
  VisitFields(writer, &copy);
  return writer.Result();
}

std::string ToYaml(const JobSpec& spec) {
  std::string out;
  AppendYaml(ToJson(spec), 0, &out);
  return out;
}

bool operator==(const JobSpec& a, const JobSpec& b) { return ToJson(a) == ToJson(b); }

}  // namespace omnitrain
