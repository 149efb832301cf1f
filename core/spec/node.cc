#include "core/spec/node.h"

#include <algorithm>
#include <initializer_list>

#include "core/base/check.h"
#include "core/spec/load_yaml.h"

namespace omnitrain {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

bool IsDigits(const std::string& s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), IsDigit);
}

bool IsOneOf(const std::string& s, std::initializer_list<const char*> values) {
  return std::any_of(values.begin(), values.end(), [&](const char* v) { return s == v; });
}

/// Skips digits from `*i` on; returns how many there were.
size_t SkipDigits(const std::string& s, size_t* i) {
  const size_t begin = *i;
  while (*i < s.size() && IsDigit(s[*i])) ++*i;
  return *i - begin;
}

std::vector<std::string> SplitPath(const std::string& path) {
  std::vector<std::string> parts(1);
  for (char c : path) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

/// The entry `key` of the list `*node`, one past the end included.
SpecNode* DescendList(const std::string& origin, const std::string& path, const std::string& key,
                      SpecNode* node) {
  const size_t size = node->items.size();
  if (!IsDigits(key) || key.size() > 9) {
    Fail(ErrorCode::kSpec,
         "{}: '{}' is a list of {}: choose an entry by index ({}.0), or append with +=", origin,
         path, size, path);
  }
  const size_t index = std::stoul(key);
  if (index > size) {
    Fail(ErrorCode::kSpec, "{}: '{}' is a list of {}: there is no entry {}", origin, path, size,
         index);
  }
  if (index == size) {
    node->items.emplace_back();
    node->items.back().origin = origin;
  }
  return &node->items[index];
}

/// The node at `key` of `*node` (which stands at `path`), made if it is not there.
SpecNode* Descend(const std::string& origin, const std::string& path, const std::string& key,
                  SpecNode* node) {
  if (node->kind == SpecNode::Kind::kScalar) {
    *node = SpecNode{};
    node->kind = IsDigits(key) ? SpecNode::Kind::kList : SpecNode::Kind::kMap;
    node->origin = origin;
  }
  if (node->kind == SpecNode::Kind::kList) return DescendList(origin, path, key, node);
  SpecNode* child = node->Find(key);
  if (child != nullptr) return child;
  node->entries.emplace_back(key, SpecNode{});
  child = &node->entries.back().second;
  child->origin = origin;
  return child;
}

}  // namespace

const SpecNode* SpecNode::Find(const std::string& key) const {
  for (const auto& [name, value] : entries) {
    if (name == key) return &value;
  }
  return nullptr;
}

SpecNode* SpecNode::Find(const std::string& key) {
  return const_cast<SpecNode*>(static_cast<const SpecNode*>(this)->Find(key));
}

bool SpecNode::is_null() const {
  return kind == Kind::kScalar && !is_quoted && ResolveScalar(text) == ScalarType::kNull;
}

std::string SpecNode::Describe() const {
  if (kind == Kind::kMap) return "a map";
  if (kind == Kind::kList) return "a list";
  return is_null() ? "null" : fmt::format("'{}'", text);
}

ScalarType ResolveScalar(const std::string& s) {
  if (IsOneOf(s, {"", "~", "null", "Null", "NULL"})) return ScalarType::kNull;
  if (IsOneOf(s, {"true", "True", "TRUE", "false", "False", "FALSE"})) return ScalarType::kBool;
  size_t i = s[0] == '-' || s[0] == '+' ? 1 : 0;
  const std::string unsigned_part = s.substr(i);
  if (IsOneOf(unsigned_part, {".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"})) {
    return ScalarType::kReal;
  }
  size_t num_digits = SkipDigits(s, &i);
  if (num_digits > 0 && i == s.size()) return ScalarType::kInt;
  if (i < s.size() && s[i] == '.') {
    ++i;
    num_digits += SkipDigits(s, &i);
  }
  if (num_digits == 0) return ScalarType::kString;
  if (i < s.size() && (s[i] == 'e' || s[i] == 'E')) {
    ++i;
    if (i < s.size() && (s[i] == '-' || s[i] == '+')) ++i;
    if (SkipDigits(s, &i) == 0) return ScalarType::kString;
  }
  return i == s.size() ? ScalarType::kReal : ScalarType::kString;
}

void Merge(SpecNode over, SpecNode* base) {
  if (over.kind != SpecNode::Kind::kMap || base->kind != SpecNode::Kind::kMap) {
    *base = std::move(over);
    return;
  }
  for (auto& [key, value] : over.entries) {
    SpecNode* existing = base->Find(key);
    if (existing != nullptr) {
      Merge(std::move(value), existing);
    } else {
      base->entries.emplace_back(key, std::move(value));
    }
  }
}

void ApplySet(const std::string& assignment, SpecNode* root) {
  const std::string origin = "--set " + assignment;
  const size_t equals = assignment.find('=');
  OT_REQUIRE(equals != std::string::npos && equals > 0, ErrorCode::kSpec,
             "{}: expected key=value, as in --set optim.lr=1e-4", origin);
  const bool is_append = assignment[equals - 1] == '+';
  const std::string path = assignment.substr(0, equals - (is_append ? 1 : 0));
  SpecNode value = ParseYamlValue(assignment.substr(equals + 1), origin);

  SpecNode* node = root;
  std::string prefix;
  for (const std::string& key : SplitPath(path)) {
    OT_REQUIRE(!key.empty(), ErrorCode::kSpec, "{}: '{}' is not a key", origin, path);
    node = Descend(origin, prefix, key, node);
    prefix += (prefix.empty() ? "" : ".") + key;
  }
  if (!is_append) {
    Merge(std::move(value), node);
    return;
  }
  if (node->is_null()) {
    *node = SpecNode{};
    node->kind = SpecNode::Kind::kList;
    node->origin = origin;
  }
  OT_REQUIRE(node->kind == SpecNode::Kind::kList, ErrorCode::kSpec,
             "{}: '{}' is not a list, += appends to lists", origin, path);
  if (value.kind == SpecNode::Kind::kList) {
    for (SpecNode& item : value.items) node->items.push_back(std::move(item));
  } else {
    node->items.push_back(std::move(value));
  }
}

}  // namespace omnitrain
