#include "cmd/omnitrain/command.h"
#include "cmd/omnitrain/session.h"
#include "core/train/trainer.h"

namespace omnitrain {
namespace {

struct TrainArguments {
  std::vector<std::string> files, sets;
  std::string resume = "auto";
};

int Run(const TrainArguments& arguments) {
  const JobSpec spec = LoadJobSpec(arguments.files, arguments.sets);
  RefuseUnsupported(spec);
  CheckPaths(spec);
  Session session(spec);
  return RunTraining(spec, session.RuntimeFor(spec), arguments.resume);
}

}  // namespace

void AddTrain(CLI::App& app, Runner* run) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* train = app.add_subcommand("train", "run a job: mpirun -n 8 omnitrain train job.yaml");
  train->add_option("spec", arguments->files, "job specs, merged left to right")->required();
  train->add_option("--set", arguments->sets, "key=value, over what the files say")
      ->allow_extra_args(false);
  train->add_option("--resume", arguments->resume,
                    "auto (the newest whole checkpoint of run.out), none, or a checkpoint");
  train->callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace omnitrain
