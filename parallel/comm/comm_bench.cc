#include "parallel/comm/comm_bench.h"

#include <algorithm>
#include <vector>

#include "core/base/json.h"

namespace omnitrain {
namespace {

/// The calls of one size; every tensor has `bytes`, a rank's share is one part of it.
class Calls {
 public:
  Calls(Communicator& comm, Device& device, Stream& stream, int64_t bytes)
      : comm_(comm),
        stream_(stream),
        count_(bytes / 4 / comm.size()),
        whole_(device, DType::kF32, {count_ * comm.size()}),
        other_(device, DType::kF32, {count_ * comm.size()}),
        part_(device, DType::kF32, {count_}),
        part_bytes_(static_cast<size_t>(comm.size()), count_ * 4) {
    device.Fill(whole_->data, 0, static_cast<size_t>(bytes_held()), stream);
  }

  int64_t bytes_held() const { return whole_->num_bytes(); }

  void AllReduce() { comm_.AllReduce(*whole_, ReduceOp::kSum, stream_).Wait(stream_); }
  void ReduceScatter() {
    comm_.ReduceScatter(*whole_, *part_, ReduceOp::kSum, stream_).Wait(stream_);
  }
  void AllGather() { comm_.AllGather(*part_, *whole_, stream_).Wait(stream_); }
  void AllToAll() {
    comm_.AllToAllV(*whole_, part_bytes_, *other_, part_bytes_, stream_).Wait(stream_);
  }
  /// To the next rank of the ring, from the one before.
  void SendRecv() {
    const int n = comm_.size(), r = comm_.rank();
    CommHandle sent = comm_.Send(*whole_, (r + 1) % n, 0, stream_);
    CommHandle received = comm_.Recv(*other_, (r + n - 1) % n, 0, stream_);
    sent.Wait(stream_);
    received.Wait(stream_);
  }

 private:
  Communicator& comm_;
  Stream& stream_;
  int64_t count_;  // of a rank's share
  OwnedTensor whole_, other_, part_;
  std::vector<int64_t> part_bytes_;
};

struct Kind {
  const char* name;
  void (Calls::*run)();
  double (*bus_share)(double n);  // bytes that leave a rank, over those that it holds
};
const Kind kKinds[] = {
    {"all_reduce", &Calls::AllReduce, [](double n) { return 2 * (n - 1) / n; }},
    {"reduce_scatter", &Calls::ReduceScatter, [](double n) { return (n - 1) / n; }},
    {"all_gather", &Calls::AllGather, [](double n) { return (n - 1) / n; }},
    {"all_to_all", &Calls::AllToAll, [](double n) { return (n - 1) / n; }},
    {"send_recv", &Calls::SendRecv, [](double) { return 1.0; }},
};

/// Times in ms, ascending. With a communicator all ranks do as many repetitions, set by the slowest
/// first one.
std::vector<double> Measure(Device& device, Stream& stream, Communicator* comm, double min_ms,
                            const std::function<void()>& run) {
  constexpr int kWarmup = 3, kMin = 10, kMax = 2000;
  const auto begin = device.NewEvent(), end = device.NewEvent();
  const auto once = [&] {
    begin->Record(stream);
    run();
    end->Record(stream);
    end->Synchronize();
    return end->ElapsedMsSince(*begin);
  };
  double first_ms = 0;
  for (int i = 0; i < kWarmup; ++i) first_ms = once();
  if (comm != nullptr) first_ms = comm->AllReduceScalar(first_ms, ReduceOp::kMax);
  const int repetitions =
      static_cast<int>(std::clamp(min_ms / std::max(first_ms, 1e-4), double{kMin}, double{kMax}));
  std::vector<double> times(static_cast<size_t>(repetitions));
  for (double& time : times) time = once();
  std::sort(times.begin(), times.end());
  return times;
}

double At(const std::vector<double>& sorted, double quantile) {
  return sorted[static_cast<size_t>(quantile * static_cast<double>(sorted.size() - 1))];
}

}  // namespace

void RunCommBench(Communicator& comm, Device& device, Stream& stream,
                  const CommBenchOptions& options,
                  const std::function<void(const std::string&)>& emit) {
  for (int64_t bytes = 4096; bytes <= options.max_bytes; bytes *= 8) {
    const OwnedTensor from(device, DType::kU8, {bytes}), to(device, DType::kU8, {bytes});
    const double copy_ms =
        At(Measure(device, stream, nullptr, options.min_ms / 4,
                   [&] { device.Copy(to->data, from->data, static_cast<size_t>(bytes), stream); }),
           0.5);
    Calls calls(comm, device, stream, bytes);
    for (const Kind& kind : kKinds) {
      const std::vector<double> times =
          Measure(device, stream, &comm, options.min_ms, [&] { (calls.*kind.run)(); });
      if (comm.rank() != 0) continue;
      const auto held = static_cast<double>(calls.bytes_held());
      const double bus = held * kind.bus_share(comm.size()) / (At(times, 0.5) * 1e6);
      const double copy = static_cast<double>(bytes) / (copy_ms * 1e6);
      const Json line = {{"bench", "comm"},
                         {"call", kind.name},
                         {"transport", options.transport},
                         {"device", device.Describe()},
                         {"ranks", comm.size()},
                         {"bytes", calls.bytes_held()},
                         {"repetitions", times.size()},
                         {"median_us", At(times, 0.5) * 1e3},
                         {"p10_us", At(times, 0.1) * 1e3},
                         {"p90_us", At(times, 0.9) * 1e3},
                         {"bus_gb_s", bus},
                         {"copy_gb_s", copy},
                         {"ratio_to_copy", bus / copy}};
      emit(line.dump());
    }
  }
}

}  // namespace omnitrain
