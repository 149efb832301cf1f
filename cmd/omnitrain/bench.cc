#include "kernels/cases/bench.h"

#include <cstdio>

#include "cmd/omnitrain/command.h"
#include "cmd/omnitrain/session.h"
#include "core/base/error.h"
#include "core/runtime/context.h"
#include "core/train/bench_step.h"
#include "parallel/comm/comm_bench.h"

namespace omnitrain {
namespace {

struct BenchArguments {
  int threads = 0, steps = 6, num_micro_batches = 0;
  bool one_sample = false;
  std::vector<std::string> sets;
  std::string filter, precision = "fp32", device = "cpu", preset = "small";
  std::string transport = "auto";
  int64_t micro_batch_tokens = 0, max_mib = 256;
};

void PrintLine(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

DType DTypeOfPrecision(const std::string& precision) {
  OT_REQUIRE(precision == "fp32" || precision == "fp64" || precision == "bf16", ErrorCode::kSpec,
             "--precision {}: use fp32, fp64 or bf16", precision);
  if (precision == "bf16") return DType::kBF16;
  return precision == "fp64" ? DType::kF64 : DType::kF32;
}

void CheckPrecision(const BenchArguments& arguments) {
  OT_REQUIRE(arguments.device == "cpu" || arguments.device == "cuda", ErrorCode::kSpec,
             "--device {}: use cpu or cuda", arguments.device);
  OT_REQUIRE((arguments.precision == "fp64") <= (arguments.device == "cpu") &&
                 (arguments.precision == "bf16") <= (arguments.device == "cuda"),
             ErrorCode::kSpec,
             "--precision {}: the CPU computes in fp32 and fp64, a GPU in fp32 and "
             "bf16",
             arguments.precision);
}

// Each run has a device of its own, with as many threads as were asked for.
int OnDevice(const BenchArguments& arguments, const std::function<void(Context&)>& body) {
  CheckPrecision(arguments);
  const auto device =
      arguments.device == "cuda" ? NewCudaDevice(0) : NewCpuDevice(arguments.threads);
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
    RunKernelBench(ctx, options, PrintLine);
  });
}

int RunStep(const BenchArguments& arguments) {
  CheckPrecision(arguments);
  std::vector<std::string> sets = {"precision=" + arguments.precision,
                                   "runtime.device=" + arguments.device,
                                   "runtime.comm=" + arguments.transport};
  if (arguments.threads > 0) sets.push_back(fmt::format("runtime.threads={}", arguments.threads));
  sets.insert(sets.end(), arguments.sets.begin(), arguments.sets.end());
  const JobSpec spec = ParseJobSpec({}, sets);
  RefuseUnsupported(spec);
  StepBench bench = StepBenchPreset(
      arguments.preset,
      {arguments.micro_batch_tokens, arguments.num_micro_batches, arguments.one_sample});
  bench.dtype = DTypeOfPrecision(arguments.precision);
  bench.steps = arguments.steps;
  Session session(spec);
  Json record = RunStepBench(session.RuntimeFor(spec), spec, bench);
  if (!session.ctx().is_cuda()) record["threads"] = std::max(1, arguments.threads);
  if (session.world().rank() == 0) PrintLine(record.dump());
  return 0;
}

int RunComm(const BenchArguments& arguments) {
  const JobSpec spec = ParseJobSpec(
      {}, {"runtime.device=" + arguments.device, "runtime.comm=" + arguments.transport});
  Session session(spec);
  OT_REQUIRE(session.world().size() > 1, ErrorCode::kSpec,
             "bench comm: one rank has nobody to talk to; start it by mpirun -n 2 or more");
  const auto comm = session.NewGroup("bench", session.world().ranks(), true);
  CommBenchOptions options;
  options.transport = TransportName(session.transport());
  options.max_bytes = arguments.max_mib << 20;
  RunCommBench(*comm, session.ctx().device(), session.ctx().stream(), options, PrintLine);
  return 0;
}

}  // namespace

void AddBench(CLI::App& app, Runner* run) {
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* bench = app.add_subcommand("bench", "measure; a JSON line per result");
  bench->require_subcommand(1);
  CLI::App* kernels = bench->add_subcommand("kernels", "every op against the machine's ceilings");
  CLI::App* step = bench->add_subcommand("step", "a whole training step");
  CLI::App* comm = bench->add_subcommand("comm", "calls between the ranks of an mpirun");
  for (CLI::App* one : {kernels, step}) {
    one->add_option("--threads", arguments->threads, "threads per op; 0: as OMP_NUM_THREADS says");
    one->add_option("--precision", arguments->precision, "fp32, fp64 (CPU) or bf16 (GPU)");
  }
  for (CLI::App* one : {kernels, step, comm}) {
    one->add_option("--device", arguments->device, "cpu or cuda");
  }
  step->add_option("--preset", arguments->preset,
                   "small, qwen2-vl-2b, qwen3-vl-2b, 7b-quarter or 30b-a3b-cut");
  kernels->add_option("--filter", arguments->filter, "rows whose name or shape holds this");
  step->add_option("--steps", arguments->steps, "steps; the first is not counted");
  step->add_option("--micro-batch-tokens", arguments->micro_batch_tokens,
                   "rows packed together; 0: as the preset says");
  step->add_option("--micro-batches", arguments->num_micro_batches,
                   "of each replica; 0: as the preset says");
  step->add_flag("--one-sample", arguments->one_sample, "each micro-batch is one long sample");
  step->add_option("--set", arguments->sets, "key=value of a job spec, such as parallel.llm.tp=2")
      ->allow_extra_args(false);
  for (CLI::App* one : {step, comm}) {
    one->add_option("--comm", arguments->transport, "auto, mpi or nccl");
  }
  comm->add_option("--max-mib", arguments->max_mib, "largest tensor");
  comm->callback([arguments, run] { *run = [arguments] { return RunComm(*arguments); }; });
  kernels->callback([arguments, run] { *run = [arguments] { return RunKernels(*arguments); }; });
  step->callback([arguments, run] { *run = [arguments] { return RunStep(*arguments); }; });
}

}  // namespace omnitrain
