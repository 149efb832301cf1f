#include "kernels/cases/bench.h"

#include <algorithm>

#include "core/base/json.h"
#include "kernels/cases/ceilings.h"
#include "kernels/cases/op_cases.h"

namespace omnitrain {
namespace {

struct Timing {
  int64_t repetitions = 0;
  double median_us = 0, p10_us = 0, p90_us = 0;
};

/// Runs of at least `min_ms` in all, after a warm-up, each timed with events of the device.
Timing Measure(Context& ctx, double min_ms, const std::function<void()>& run) {
  constexpr int kWarmup = 2, kMinRuns = 10, kMaxRuns = 5000;
  for (int i = 0; i < kWarmup; ++i) run();
  const auto begin = ctx.device().NewEvent(), end = ctx.device().NewEvent();
  std::vector<double> times_us;
  double total_ms = 0;
  while (static_cast<int>(times_us.size()) < kMaxRuns &&
         (total_ms < min_ms || static_cast<int>(times_us.size()) < kMinRuns)) {
    begin->Record(ctx.stream());
    run();
    end->Record(ctx.stream());
    end->Synchronize();
    const double ms = end->ElapsedMsSince(*begin);
    times_us.push_back(ms * 1e3);
    total_ms += ms;
  }
  std::sort(times_us.begin(), times_us.end());
  const auto at = [&](double quantile) {
    return times_us[static_cast<size_t>(quantile * static_cast<double>(times_us.size() - 1))];
  };
  return {static_cast<int64_t>(times_us.size()), at(0.5), at(0.1), at(0.9)};
}

/// The ceilings, measured when first asked for.
class Ceilings {
 public:
  Ceilings(Context& ctx, DType dtype) : ctx_(ctx), dtype_(dtype) {}

  double CopyGbs(double bytes) {
    double& rate = copy_gb_s_[static_cast<int64_t>(bytes)];
    if (rate == 0) rate = MeasureCopyRate(ctx_, static_cast<int64_t>(bytes)) / 1e9;
    return rate;
  }
  double GemmGflops() {
    if (gemm_gflop_s_ == 0) gemm_gflop_s_ = MeasureGemmFlops(ctx_, dtype_) / 1e9;
    return gemm_gflop_s_;
  }

 private:
  Context& ctx_;
  const DType dtype_;
  std::map<int64_t, double> copy_gb_s_;
  double gemm_gflop_s_ = 0;
};

}  // namespace

void RunKernelBench(Context& ctx, const KernelBenchOptions& options,
                    const std::function<void(const std::string&)>& emit) {
  Ceilings ceilings(ctx, options.dtype);
  constexpr std::string_view kForward = "forward";
  const BenchOn here = ctx.is_cuda() ? BenchOn::kGpu : BenchOn::kCpu;
  for (const OpCase& c : AllOpCases()) {
    if (c.bench_on != here || c.Name().find(options.filter) == std::string::npos) continue;
    CaseRun run(ctx, c, options.dtype);
    const auto emit_pass = [&](std::string_view pass, double bytes, double flops,
                               const std::function<void()>& body) {
      const Timing t = Measure(ctx, options.min_ms, body);
      const double copy_gb_s = ceilings.CopyGbs(bytes), gemm_gflop_s = ceilings.GemmGflops();
      const double best_us = std::max(bytes / copy_gb_s, flops / gemm_gflop_s) * 1e-3;
      Json line = {{"op", c.op},
                   {"pass", pass},
                   {"shape", c.label},
                   {"dtype", DTypeName(options.dtype)},
                   {"device", ctx.device().Describe()},
                   {"threads", options.num_threads},
                   {"repetitions", t.repetitions},
                   {"median_us", t.median_us},
                   {"p10_us", t.p10_us},
                   {"p90_us", t.p90_us},
                   {"bytes", bytes},
                   {"flops", flops},
                   {"gb_s", bytes / (t.median_us * 1e3)},
                   {"gflop_s", flops / (t.median_us * 1e3)},
                   {"copy_gb_s", copy_gb_s},
                   {"gemm_gflop_s", gemm_gflop_s},
                   {"ratio_to_ceiling", best_us / t.median_us}};
      if (c.baseline && pass == kForward) {
        const double baseline_us = Measure(ctx, options.min_ms, [&] { run.Baseline(); }).median_us;
        line["baseline"] = c.baseline_name;
        line["baseline_median_us"] = baseline_us;
        line["ratio_to_baseline"] = baseline_us / t.median_us;
      }
      emit(line.dump());
    };
    emit_pass(kForward, run.ForwardBytes(), c.forward_flops, [&] { run.Forward(); });
    if (!c.backward) continue;
    // What backward reads of forward: the state after one forward of the first operands.
    run.Reset();
    run.Forward();
    emit_pass("backward", run.BackwardBytes(), c.backward_flops, [&] { run.Backward(); });
  }
}

}  // namespace omnitrain
