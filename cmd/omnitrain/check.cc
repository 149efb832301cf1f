#include "core/train/check.h"

#include <cstdio>

#include "cmd/omnitrain/command.h"
#include "core/train/layout_groups.h"

namespace omnitrain {
namespace {

struct CheckArguments {
  std::vector<std::string> files, sets;
  int world = 1;
  bool keys = false;
};

int Run(const CheckArguments& arguments) {
  if (arguments.keys) {
    std::printf("%s", KeyReference().c_str());
    return 0;
  }
  OT_REQUIRE(!arguments.files.empty(), ErrorCode::kSpec, "check: name a job spec");
  const JobSpec spec = LoadJobSpec(arguments.files, arguments.sets);
  RefuseUnsupported(spec);
  CheckPaths(spec);
  const ParallelLayout layout = ParallelLayout::Build(DegreesOf(spec), arguments.world);
  CheckJob(spec, layout, [](const std::string& line) { std::printf("%s\n", line.c_str()); });
  return 0;
}

}  // namespace

void AddCheck(CLI::App& app, Runner* run) {
  auto arguments = std::make_shared<CheckArguments>();
  CLI::App* check = app.add_subcommand(
      "check", "resolve and validate a job: layout, memory, FLOPs, one sample with its labels");
  check->add_option("spec", arguments->files, "job specs, merged left to right");
  check->add_option("--set", arguments->sets, "key=value, over what the files say")
      ->allow_extra_args(false);
  check->add_option("--world", arguments->world, "number of ranks")->check(CLI::PositiveNumber);
  check->add_flag("--keys", arguments->keys, "list every key of a job spec");
  check->callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace omnitrain
