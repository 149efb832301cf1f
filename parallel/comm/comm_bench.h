#pragma once

#include <functional>
#include <string>

#include "core/runtime/device.h"
#include "parallel/comm/communicator.h"

namespace omnitrain {

struct CommBenchOptions {
  std::string transport;                 // reported
  int64_t max_bytes = int64_t{1} << 28;  // sizes go from 4 KiB up to this, by factors of 8
  double min_ms = 100;                   // of timed repetitions a size
};

/// Times each kind of call on tensors of `device` and calls `emit` on rank 0 with one JSON object
/// per kind and size, without a newline:
///   bench, call, transport, device, ranks, bytes, repetitions, median_us, p10_us, p90_us,
///   bus_gb_s, copy_gb_s, ratio_to_copy
/// bytes: what one rank holds in all. bus_gb_s: bytes that must leave each rank over the median
/// time, as nccl-tests count them (AllReduce 2 (n-1)/n, the other collectives (n-1)/n, a message in
/// each direction at once 1). copy_gb_s: a copy of as many bytes inside the device, in this run.
/// `comm` was made with messages.  Collective.
void RunCommBench(Communicator& comm, Device& device, Stream& stream,
                  const CommBenchOptions& options,
                  const std::function<void(const std::string&)>& emit);

}  // namespace omnitrain
