#include "core/spec/parse.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <cstdlib>

#include "core/base/json.h"
#include "core/spec/fields.h"
#include "core/spec/range_text.h"
#include "core/spec/suggest.h"

namespace omnitrain {
namespace {

/// A YAML value as JSON, by the types of YAML 1.2's core schema.
Json ToJsonValue(const SpecNode& node) {
  if (node.kind == SpecNode::Kind::kMap) {
    Json map = Json::object();
    for (const auto& [key, value] : node.entries) map[key] = ToJsonValue(value);
    return map;
  }
  if (node.kind == SpecNode::Kind::kList) {
    Json list = Json::array();
    for (const SpecNode& item : node.items) list.push_back(ToJsonValue(item));
    return list;
  }
  if (node.is_quoted) return node.text;
  switch (ResolveScalar(node.text)) {
    case ScalarType::kNull:
      return nullptr;
    case ScalarType::kBool:
      return node.text[0] == 't' || node.text[0] == 'T';
    case ScalarType::kInt:
      return static_cast<int64_t>(std::strtoll(node.text.c_str(), nullptr, 10));
    case ScalarType::kReal:
      return std::strtod(node.text.c_str(), nullptr);
    case ScalarType::kString:
      break;
  }
  return node.text;
}

class SpecParser : public FieldVisitor {
 public:
  SpecParser(const SpecNode& root, std::vector<std::string>* problems) : problems_(problems) {
    frames_.push_back({&root, "", {}});
  }

  void BeginGroup(const char* key, const char*) override {
    const SpecNode* node = Take(key);
    if (node != nullptr && node->kind != SpecNode::Kind::kMap) {
      Report(*node, PathOf(key), "expected a map of keys, got {}", node->Describe());
      node = nullptr;
    }
    frames_.push_back({node, PathOf(key), {}});
  }
  void EndGroup() override {
    ReportUnknown();
    frames_.pop_back();
  }

  size_t BeginList(const char* key, size_t size, const char*) override {
    const SpecNode* node = TakeList(key, "a list of maps");
    frames_.push_back({node, PathOf(key), {}});
    return node == nullptr ? size : node->items.size();
  }
  void BeginItem(size_t index) override {
    const Frame& list = frames_.back();
    const std::string path = fmt::format("{}.{}", list.path, index);
    const SpecNode* item = list.node == nullptr ? nullptr : &list.node->items[index];
    if (item != nullptr && item->kind != SpecNode::Kind::kMap) {
      Report(*item, path, "expected a map of keys, got {}", item->Describe());
      item = nullptr;
    }
    frames_.push_back({item, path, {}});
  }
  void EndItem() override { EndGroup(); }
  void EndList() override { frames_.pop_back(); }

  void Bool(const char* key, bool* v, const char*) override {
    const SpecNode* node = TakeScalar(key, "true or false");
    if (node == nullptr) return;
    if (node->is_quoted || ResolveScalar(node->text) != ScalarType::kBool) {
      Report(*node, PathOf(key), "expected true or false, got {}", node->Describe());
      return;
    }
    *v = node->text[0] == 't' || node->text[0] == 'T';
  }

  void Int(const char* key, int64_t* v, IntRange range, const char*) override {
    const SpecNode* node = TakeScalar(key, "an integer");
    if (node != nullptr) ReadInt(*node, PathOf(key), range, v);
  }

  void OptionalInt(const char* key, std::optional<int64_t>* v, IntRange range,
                   const char*) override {
    const SpecNode* node = Take(key);
    int64_t x = 0;
    if (node != nullptr && ReadInt(*node, PathOf(key), range, &x)) *v = x;
  }

  void Real(const char* key, double* v, RealRange range, const char*) override {
    const SpecNode* node = TakeScalar(key, "a number");
    if (node != nullptr) ReadReal(*node, PathOf(key), range, v);
  }

  void String(const char* key, std::string* v, const char*) override {
    const SpecNode* node = Take(key);
    if (node != nullptr) ReadString(*node, PathOf(key), v);
  }

  void Enum(const char* key, int* v, EnumNames names, const char*) override {
    const SpecNode* node = TakeScalar(key, "one of " + ChoicesText(names));
    if (node == nullptr) return;
    const std::vector<std::string> choices(names.names, names.names + names.count);
    for (int i = 0; i < names.count; ++i) {
      if (node->kind == SpecNode::Kind::kScalar && node->text == choices[i]) {
        *v = i;
        return;
      }
    }
    const std::string nearest = Nearest(node->text, choices);
    Report(*node, PathOf(key), "expected one of {}, got {}{}", ChoicesText(names), node->Describe(),
           nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest));
  }

  void Ints(const char* key, std::vector<int64_t>* v, IntRange range, const char*) override {
    const SpecNode* list = TakeList(key, "a list of integers");
    if (list == nullptr) return;
    v->assign(list->items.size(), 0);
    for (size_t i = 0; i < v->size(); ++i) {
      ReadInt(list->items[i], fmt::format("{}.{}", PathOf(key), i), range, &(*v)[i]);
    }
  }

  void Reals(const char* key, double* v, size_t size, RealRange range, const char*) override {
    const SpecNode* list = TakeList(key, "a list of numbers");
    if (list == nullptr) return;
    if (list->items.size() != size) {
      Report(*list, PathOf(key), "expected {} numbers, got {}", size, list->items.size());
      return;
    }
    for (size_t i = 0; i < size; ++i) {
      ReadReal(list->items[i], fmt::format("{}.{}", PathOf(key), i), range, &v[i]);
    }
  }

  void Strings(const char* key, std::vector<std::string>* v, const char*) override {
    const SpecNode* list = TakeList(key, "a list of strings");
    if (list == nullptr) return;
    v->assign(list->items.size(), "");
    for (size_t i = 0; i < v->size(); ++i) {
      ReadString(list->items[i], fmt::format("{}.{}", PathOf(key), i), &(*v)[i]);
    }
  }

  void AnyMap(const char* key, std::string* json, const char*) override {
    const SpecNode* node = Take(key);
    if (node == nullptr) return;
    if (node->kind != SpecNode::Kind::kMap) {
      Report(*node, PathOf(key), "expected a map of keys, got {}", node->Describe());
      return;
    }
    *json = ToJsonValue(*node).dump();
  }

  /// Unknown keys of the innermost open group.
  void ReportUnknown() {
    const Frame& frame = frames_.back();
    if (frame.node == nullptr) return;
    for (const auto& [key, value] : frame.node->entries) {
      bool is_known = false;
      for (const std::string& known : frame.known) is_known = is_known || known == key;
      if (!is_known) problems_->push_back(UnknownKey(frame, key, value));
    }
  }

 private:
  struct Frame {
    const SpecNode* node;  // null where the group was not written
    std::string path;
    std::vector<std::string> known;  // keys asked for so far
  };

  std::string PathOf(const std::string& key) const {
    const std::string& group = frames_.back().path;
    return group.empty() ? key : group + "." + key;
  }

  template <typename... Args>
  void Report(const SpecNode& node, const std::string& path, fmt::format_string<Args...> format,
              Args&&... args) {
    problems_->push_back(fmt::format("{}: {}: {}", node.origin, path,
                                     fmt::format(format, std::forward<Args>(args)...)));
  }

  static std::string UnknownKey(const Frame& frame, const std::string& key, const SpecNode& value) {
    const std::string path = frame.path.empty() ? key : frame.path + "." + key;
    if (key.find('.') != std::string::npos) {
      return fmt::format("{}: unknown key '{}'; a file nests keys, dots are for --set",
                         value.origin, path);
    }
    std::vector<std::string> keys = AllKeys();
    for (const std::string& known : frame.known) {
      keys.push_back(frame.path.empty() ? known : frame.path + "." + known);
    }
    const std::string nearest = NearestKey(path, keys);
    if (!nearest.empty()) {
      return fmt::format("{}: unknown key '{}'; did you mean '{}'?", value.origin, path, nearest);
    }
    return fmt::format("{}: unknown key '{}'; the keys here are {}", value.origin, path,
                       fmt::join(frame.known, ", "));
  }

  /// The value of `key` in the open group; null if it was not written, or written as null.
  const SpecNode* Take(const std::string& key) {
    Frame& frame = frames_.back();
    frame.known.push_back(key);
    const SpecNode* node = frame.node == nullptr ? nullptr : frame.node->Find(key);
    return node == nullptr || node->is_null() ? nullptr : node;
  }

  /// As Take, for keys that cannot be null.
  const SpecNode* TakeScalar(const std::string& key, const std::string& expected) {
    const SpecNode* node = Take(key);
    const Frame& frame = frames_.back();
    const SpecNode* written = frame.node == nullptr ? nullptr : frame.node->Find(key);
    if (node == nullptr && written != nullptr) {
      Report(*written, PathOf(key), "expected {}, got null", expected);
    }
    return node;
  }

  const SpecNode* TakeList(const std::string& key, const char* expected) {
    const SpecNode* node = Take(key);
    if (node == nullptr || node->kind == SpecNode::Kind::kList) return node;
    Report(*node, PathOf(key), "expected {}, got {}", expected, node->Describe());
    return nullptr;
  }

  bool ReadInt(const SpecNode& node, const std::string& path, IntRange range, int64_t* v) {
    if (node.kind != SpecNode::Kind::kScalar || node.is_quoted ||
        ResolveScalar(node.text) != ScalarType::kInt) {
      Report(node, path, "expected an integer, got {}", node.Describe());
      return false;
    }
    errno = 0;
    const int64_t x = std::strtoll(node.text.c_str(), nullptr, 10);
    if (errno == ERANGE || x < range.min || x > range.max) {
      Report(node, path, "{} is out of range; expected {}", node.text, RangeText(range));
      return false;
    }
    *v = x;
    return true;
  }

  void ReadReal(const SpecNode& node, const std::string& path, RealRange range, double* v) {
    const ScalarType type = node.kind != SpecNode::Kind::kScalar || node.is_quoted
                                ? ScalarType::kString
                                : ResolveScalar(node.text);
    if (type != ScalarType::kInt && type != ScalarType::kReal) {
      Report(node, path, "expected a number, got {}", node.Describe());
      return;
    }
    // strtod does not read YAML's ".inf" and ".nan"; no key takes them.
    const double x = node.text.find_first_of("nN") == std::string::npos
                         ? std::strtod(node.text.c_str(), nullptr)
                         : std::numeric_limits<double>::quiet_NaN();
    if (!range.Contains(x)) {
      Report(node, path, "{} is out of range; expected {}", node.text, RangeText(range));
      return;
    }
    *v = x;
  }

  void ReadString(const SpecNode& node, const std::string& path, std::string* v) {
    if (node.kind != SpecNode::Kind::kScalar || node.is_null()) {
      Report(node, path, "expected a string, got {}", node.Describe());
      return;
    }
    if (!node.is_quoted && ResolveScalar(node.text) != ScalarType::kString) {
      Report(node, path, "expected a string, got {}; write \"{}\", in quotes", node.text,
             node.text);
      return;
    }
    *v = node.text;
  }

  std::vector<Frame> frames_;
  std::vector<std::string>* problems_;
};

}  // namespace

JobSpec ParseFields(const SpecNode& root, std::vector<std::string>* problems) {
  SpecParser parser(root, problems);
  JobSpec spec;
  VisitFields(parser, &spec);
  parser.ReportUnknown();
  return spec;
}

std::string OriginOf(const SpecNode& root, const std::string& path) {
  const SpecNode* node = &root;
  std::string origin;
  size_t begin = 0;
  while (begin <= path.size()) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    const SpecNode* child = nullptr;
    if (node->kind == SpecNode::Kind::kMap) {
      child = node->Find(key);
    } else if (node->kind == SpecNode::Kind::kList) {
      const size_t index = std::strtoul(key.c_str(), nullptr, 10);
      if (index < node->items.size()) child = &node->items[index];
    }
    if (child == nullptr) break;
    node = child;
    origin = child->origin;
    begin = end + 1;
  }
  return origin;
}

}  // namespace omnitrain
