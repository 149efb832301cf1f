#pragma once

#include <functional>
#include <string>

#include "core/runtime/context.h"

namespace omnitrain {

struct KernelBenchOptions {
  DType dtype = DType::kF32;  // the compute dtype
  int num_threads = 1;        // reported; the caller makes the device with as many
  std::string filter;         // rows whose "op label" holds this; empty: all
  double min_ms = 200;        // of timed runs a pass
};

/// Times forward and backward of every bench row of the case table and calls `emit` with one JSON
/// object per pass, without a newline:
///   op, pass, shape, dtype, device, threads, repetitions, median_us, p10_us, p90_us, bytes, flops,
///   gb_s, gflop_s, copy_gb_s, gemm_gflop_s, ratio_to_ceiling
/// and for the forward of a row with a baseline, which is timed right after it,
///   baseline, baseline_median_us, ratio_to_baseline (how many times faster the op is)
/// bytes are those that must move at least once. The ceilings are measured in this run, with the
/// same threads: copy_gb_s copies as many bytes (read + written) as the pass moves, so that it has
/// the same chance to stay in cache; gemm_gflop_s is a 1024^3 product in the compute dtype.
/// ratio_to_ceiling is the time that the slower of both would take, over the median.
/// Cost: seconds a row.  Source: Williams et al. 2009 (roofline).
void RunKernelBench(Context& ctx, const KernelBenchOptions& options,
                    const std::function<void(const std::string&)>& emit);

}  // namespace omnitrain
