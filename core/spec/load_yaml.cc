#include "core/spec/load_yaml.h"

#include <yaml-cpp/yaml.h>

#include "core/base/check.h"
#include "core/base/json.h"

namespace omnitrain {
namespace {

// Aliases may turn a short file into an endless or huge tree; no job spec comes near these.
constexpr int kMaxDepth = 64;
constexpr int kMaxNodes = 100000;

/// Turns yaml-cpp's nodes into ours.
class Converter {
 public:
  /// `fixed_origin` replaces "file:line" if it is not empty.
  Converter(std::string file, std::string fixed_origin, std::vector<std::string>* problems)
      : file_(std::move(file)), fixed_origin_(std::move(fixed_origin)), problems_(problems) {}

  SpecNode Convert(const YAML::Node& node, const std::string& path, int depth) {
    SpecNode out;
    out.origin = Origin(node);
    if (depth > kMaxDepth || ++num_nodes_ > kMaxNodes) {
      Fail(ErrorCode::kSpec, "{}: nested too deeply, or expanded too far by aliases", out.origin);
    }
    if (node.IsMap()) {
      out.kind = SpecNode::Kind::kMap;
      for (const auto& entry : node) AddEntry(entry.first, entry.second, path, depth, &out);
    } else if (node.IsSequence()) {
      out.kind = SpecNode::Kind::kList;
      for (const YAML::Node& item : node) {
        const std::string item_path = fmt::format("{}.{}", path, out.items.size());
        out.items.push_back(Convert(item, item_path, depth + 1));
      }
    } else if (node.IsScalar()) {
      out.text = node.Scalar();
      // yaml-cpp tags plain scalars "?", quoted and block ones "!".
      out.is_quoted = node.Tag() == "!" || node.Tag() == "tag:yaml.org,2002:str";
    }
    return out;
  }

 private:
  std::string Origin(const YAML::Node& node) const {
    if (!fixed_origin_.empty()) return fixed_origin_;
    return fmt::format("{}:{}", file_, node.Mark().line + 1);
  }

  void AddEntry(const YAML::Node& key, const YAML::Node& value, const std::string& path, int depth,
                SpecNode* map) {
    if (!key.IsScalar()) Fail(ErrorCode::kSpec, "{}: keys must be plain words", Origin(key));
    const std::string& name = key.Scalar();
    const std::string entry_path = path.empty() ? name : path + "." + name;
    SpecNode entry = Convert(value, entry_path, depth + 1);
    // The key's line is where people look; null values have none of their own.
    entry.origin = Origin(key);
    if (const SpecNode* first = map->Find(name)) {
      problems_->push_back(fmt::format("{}: duplicate key '{}', first given at {}", entry.origin,
                                       entry_path, first->origin));
      return;
    }
    map->entries.emplace_back(name, std::move(entry));
  }

  std::string file_;
  std::string fixed_origin_;
  std::vector<std::string>* problems_;
  int num_nodes_ = 0;
};

}  // namespace

SpecNode ReadYamlFile(const std::string& path, std::vector<std::string>* problems) {
  const std::string text = ReadFile(path, ErrorCode::kSpec);
  std::vector<YAML::Node> documents;
  try {
    documents = YAML::LoadAll(text);
  } catch (const YAML::Exception& e) {
    Fail(ErrorCode::kSpec, "{}:{}: not valid YAML: {}", path, e.mark.line + 1, e.msg);
  }
  OT_REQUIRE(documents.size() <= 1, ErrorCode::kSpec, "{}: holds {} YAML documents, expected one",
             path, documents.size());
  SpecNode root;
  if (!documents.empty()) root = Converter(path, "", problems).Convert(documents[0], "", 0);
  if (root.is_null()) root.kind = SpecNode::Kind::kMap;
  OT_REQUIRE(root.kind == SpecNode::Kind::kMap, ErrorCode::kSpec,
             "{}: expected a map of keys, got {}", root.origin, root.Describe());
  return root;
}

SpecNode ParseYamlValue(const std::string& text, const std::string& origin) {
  std::vector<std::string> problems;
  SpecNode value;
  try {
    value = Converter("", origin, &problems).Convert(YAML::Load(text), "", 0);
  } catch (const YAML::Exception& e) {
    Fail(ErrorCode::kSpec, "{}: not valid YAML: {}", origin, e.msg);
  }
  OT_REQUIRE(problems.empty(), ErrorCode::kSpec, "{}", problems[0]);
  return value;
}

}  // namespace omnitrain
