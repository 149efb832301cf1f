#include <fmt/format.h>

#include "core/base/error.h"
#include "core/spec/job_spec.h"
#include "core/spec/load_yaml.h"
#include "core/spec/node.h"
#include "core/spec/parse.h"
#include "core/spec/problems.h"

namespace omnitrain {
namespace {

SpecNode MergeAll(const std::vector<std::string>& files, const std::vector<std::string>& sets,
                  std::vector<std::string>* problems) {
  SpecNode root;
  root.kind = SpecNode::Kind::kMap;
  for (const std::string& file : files) Merge(ReadYamlFile(file, problems), &root);
  for (const std::string& set : sets) ApplySet(set, &root);
  return root;
}

JobSpec Parse(const SpecNode& root, std::vector<std::string>* problems) {
  JobSpec spec = ParseFields(root, problems);
  if (spec.run.out.empty()) spec.run.out = "runs/" + spec.run.name;
  FailOnProblems(*problems);
  return spec;
}

}  // namespace

JobSpec ParseJobSpec(const std::vector<std::string>& files, const std::vector<std::string>& sets) {
  std::vector<std::string> problems;
  const SpecNode root = MergeAll(files, sets, &problems);
  return Parse(root, &problems);
}

JobSpec LoadJobSpec(const std::vector<std::string>& files, const std::vector<std::string>& sets) {
  std::vector<std::string> problems;
  const SpecNode root = MergeAll(files, sets, &problems);
  JobSpec spec = Parse(root, &problems);
  for (const Problem& problem : FindContradictions(spec)) {
    const std::string origin = OriginOf(root, problem.key);
    problems.push_back(
        fmt::format("{}{}{}: {}", origin, origin.empty() ? "" : ": ", problem.key, problem.text));
  }
  FailOnProblems(problems);
  return spec;
}

}  // namespace omnitrain
