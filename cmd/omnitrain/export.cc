#include <cstdio>

#include "cmd/omnitrain/command.h"
#include "core/runtime/context.h"
#include "core/train/trainer.h"

namespace omnitrain {
namespace {

struct ExportArguments {
  std::string run, target, dtype = "auto";
};

int Run(const ExportArguments& arguments) {
  SaveDtype dtype = SaveDtype::kAuto;
  bool is_known = false;
  for (SaveDtype d : {SaveDtype::kAuto, SaveDtype::kFp32, SaveDtype::kBf16, SaveDtype::kFp16}) {
    if (arguments.dtype != Name(d)) continue;
    dtype = d;
    is_known = true;
  }
  OT_REQUIRE(is_known, ErrorCode::kSpec, "--dtype {}: use auto, fp32, bf16 or fp16",
             arguments.dtype);
  const auto device = NewCpuDevice();
  const auto stream = device->NewStream();
  Context ctx(*device, *stream);
  ExportRun(ctx, arguments.run, arguments.target, dtype);
  std::printf("%s\n", arguments.target.c_str());
  return 0;
}

}  // namespace

void AddExport(CLI::App& app, Runner* run) {
  auto arguments = std::make_shared<ExportArguments>();
  CLI::App* command =
      app.add_subcommand("export", "write a run's newest checkpoint as a Hugging Face directory");
  command->add_option("run", arguments->run, "run.out of a job, or one of its checkpoints")
      ->required();
  command->add_option("--to", arguments->target, "the directory to write")->required();
  command->add_option("--dtype", arguments->dtype, "auto (as the model came), fp32, bf16 or fp16");
  command->callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace omnitrain
