#pragma once

#include <string>
#include <utility>
#include <vector>

namespace omnitrain {

/// A YAML value that remembers where it was written: what files and --set are merged into before
/// the keys are known. Scalars stay text, since only their key says which type they must have.
struct SpecNode {
  enum class Kind { kScalar, kMap, kList };

  Kind kind = Kind::kScalar;
  std::string text;        // scalar
  bool is_quoted = false;  // scalar: always a string, whatever it looks like
  std::string origin;      // "job.yaml:12" or "--set optim.lr=3"; starts every message about it
  std::vector<std::pair<std::string, SpecNode>> entries;  // map, in order
  std::vector<SpecNode> items;                            // list

  const SpecNode* Find(const std::string& key) const;
  SpecNode* Find(const std::string& key);
  bool is_null() const;
  /// "'text'", "null", "a map", "a list": for messages.
  std::string Describe() const;
};

/// What a plain (unquoted) scalar is by YAML 1.2's core schema. "yes" and "on" are strings.
enum class ScalarType { kNull, kBool, kInt, kReal, kString };
ScalarType ResolveScalar(const std::string& text);

/// Lays `over` on `*base`: maps key by key, everything else replaced.
void Merge(SpecNode over, SpecNode* base);

/// Applies one `a.b.c=value` or `a.b+=value`; a number in the path is an index into a list, one
/// past the end appends. Errors: kSpec, starting with "--set".
void ApplySet(const std::string& assignment, SpecNode* root);

}  // namespace omnitrain
