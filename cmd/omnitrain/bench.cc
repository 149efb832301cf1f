#include "kernels/cases/bench.h"

#include <cstdio>

#include "cmd/omnitrain/command.h"
#include "core/base/error.h"
#include "core/runtime/context.h"
#include "core/train/bench_step.h"

namespace omnitrain {
namespace {

struct BenchArguments {
  int threads = 0, steps = 6;
  std::string filter, precision = "fp32";
  int64_t micro_batch_tokens = 4096;
};

DType DTypeOfPrecision(const std::string& precision) {
  OT_REQUIRE(precision == "fp32" || precision == "fp64", ErrorCode::kSpec,
             "--precision {}: use fp32 or fp64", precision);
  return precision == "fp64" ? DType::kF64 : DType::kF32;
}

// Each run has a device of its own, with as many threads as were asked for.
int OnDevice(const BenchArguments& arguments, const std::function<void(Context&)>& body) {
  const auto device = NewCpuDevice(arguments.threads);
  const auto stream = device->NewStream();
  Context ctx(*device, *stream);
  body(ctx);
  return 0;
}

int RunKernels(const BenchArguments& arguments) {
  return OnDevice(arguments, [&](Context& ctx) {
    KernelBenchOptions options;
    options.dtype = DTypeOfPrecision(arguments.precision);
    options.num_threads = std::max(1, arguments.threads);
    options.filter = arguments.filter;
    RunKernelBench(ctx, options, [](const std::string& line) {
      std::printf("%s\n", line.c_str());
      std::fflush(stdout);
    });
  });
}

int RunStep(const BenchArguments& arguments) {
  return OnDevice(arguments, [&](Context& ctx) {
    StepBench bench = SmallStepBench();
    bench.dtype = DTypeOfPrecision(arguments.precision);
    bench.steps = arguments.steps;
    bench.micro_batch_tokens = arguments.micro_batch_tokens;
    Json record = RunStepBench(ctx, bench);
    record["threads"] = std::max(1, arguments.threads);
    std::printf("%s\n", record.dump().c_str());
  });
}

}  // namespace

void AddBench(CLI::App& app, Runner* run) {
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* bench = app.add_subcommand("bench", "measure; a JSON line per result");
  bench->require_subcommand(1);
  CLI::App* kernels = bench->add_subcommand("kernels", "every op against the machine's ceilings");
  CLI::App* step = bench->add_subcommand("step", "a whole training step of a small model");
  for (CLI::App* one : {kernels, step}) {
    one->add_option("--threads", arguments->threads, "threads per op; 0: as OMP_NUM_THREADS says");
    one->add_option("--precision", arguments->precision, "fp32 or fp64");
  }
  kernels->add_option("--filter", arguments->filter, "rows whose name or shape holds this");
  step->add_option("--steps", arguments->steps, "steps; the first is not counted");
  step->add_option("--micro-batch-tokens", arguments->micro_batch_tokens, "rows packed together");
  kernels->callback([arguments, run] { *run = [arguments] { return RunKernels(*arguments); }; });
  step->callback([arguments, run] { *run = [arguments] { return RunStep(*arguments); }; });
}

}  // namespace omnitrain
