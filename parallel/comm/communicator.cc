#include "parallel/comm/communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/runtime/wait_meter.h"

namespace omnitrain {
namespace {

/// The host helpers work on host memory, where nothing is ever queued.
class HostStream : public Stream {
 public:
  void Synchronize() override {}
  void* native() const override { return nullptr; }
};

std::string HumanBytes(int64_t bytes) {
  static const char* const kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1000 && unit < 4) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, unit == 0 ? 0 : 1, kUnits[unit]);
}

}  // namespace

const char* CommKindName(CommKind kind) {
  switch (kind) {
    case CommKind::kAllReduce:
      return "AllReduce";
    case CommKind::kReduceScatter:
      return "ReduceScatter";
    case CommKind::kAllGather:
      return "AllGather";
    case CommKind::kBroadcast:
      return "Broadcast";
    case CommKind::kSend:
      return "Send";
    case CommKind::kRecv:
      return "Recv";
    case CommKind::kAllToAllV:
      return "AllToAllV";
    case CommKind::kBarrier:
      return "Barrier";
  }
  return "?";
}

void CommHandle::Wait(Stream& stream) {
  if (pending_ == nullptr) return;
  WaitMeter* meter = stream.wait_meter();
  if (meter != nullptr) meter->Begin(stream, name_);
  pending_->Wait(stream);
  if (meter != nullptr) meter->End(stream);
  pending_.reset();
}

int64_t CommCall::bytes() const {
  if (kind == CommKind::kBarrier) return 0;
  if (kind == CommKind::kAllToAllV) {
    return std::max(std::accumulate(in_bytes.begin(), in_bytes.end(), int64_t{0}),
                    std::accumulate(out_bytes.begin(), out_bytes.end(), int64_t{0}));
  }
  // A tensor without dims, which an absent one is, counts as one element.
  return std::max(in ? in.num_bytes() : 0, out ? out.num_bytes() : 0);
}

Communicator::Communicator(std::string name, std::vector<int> ranks, int rank,
                           std::chrono::milliseconds timeout)
    : name_(std::move(name)), ranks_(std::move(ranks)), rank_(rank), timeout_(timeout) {
  OT_CHECK(rank_ >= 0 && rank_ < size(), "{}: rank {} of {}", name_, rank_, size());
}

void Communicator::CheckTensor(const Tensor& t, CommKind kind) const {
  OT_CHECK(t.is_dense(), "{} {} of a strided {}", name_, CommKindName(kind), Describe(t));
  OT_CHECK(t.data != nullptr || t.num_elements() == 0, "{} {}: {} without memory", name_,
           CommKindName(kind), Describe(t));
}

void Communicator::CheckSameDevice(const Tensor& in, const Tensor& out, CommKind kind) const {
  OT_CHECK(in.device == out.device, "{} {}: one tensor on the host, one on a device", name_,
           CommKindName(kind));
}

void Communicator::CheckPeer(int peer, CommKind kind) const {
  OT_CHECK(peer >= 0 && peer < size(), "{} {}: peer {} of {} ranks", name_, CommKindName(kind),
           peer, size());
}

void Communicator::CopyOnDevice(void*, const void*, int64_t, Stream&) {
  OT_CHECK(false, "{} moves host memory", name_);
}

void Communicator::CopyToSelf(const Tensor& out, const Tensor& in, int64_t bytes, Stream& stream) {
  // The place of `in` inside `out` may be `in` itself.
  if (bytes == 0 || out.data == in.data) return;
  if (out.device == DeviceKind::kCpu) {
    std::memmove(out.data, in.data, static_cast<size_t>(bytes));
  } else {
    CopyOnDevice(out.data, in.data, bytes, stream);
  }
}

std::unique_ptr<PendingComm> Communicator::StartOn(Communicator& other, CommCall call,
                                                   Stream& stream) {
  const bool is_message = call.kind == CommKind::kSend || call.kind == CommKind::kRecv;
  call.seq = is_message ? other.num_messages_++ : other.num_collectives_++;
  return other.Start(std::move(call), stream);
}

CommHandle Communicator::Begin(CommCall call, Stream& stream) {
  return {StartOn(*this, std::move(call), stream), name_};
}

CommHandle Communicator::AllReduce(const Tensor& t, ReduceOp op, Stream& stream) {
  CheckTensor(t, CommKind::kAllReduce);
  OT_CHECK(t.dtype != DType::kF16, "{} AllReduce: f16 is not summed", name_);
  if (size() == 1) return {};
  CommCall call;
  call.kind = CommKind::kAllReduce;
  call.in = call.out = t;
  call.op = op;
  return Begin(std::move(call), stream);
}

CommHandle Communicator::ReduceScatter(const Tensor& in, const Tensor& out, ReduceOp op,
                                       Stream& stream) {
  CheckTensor(in, CommKind::kReduceScatter);
  CheckTensor(out, CommKind::kReduceScatter);
  CheckSameDevice(in, out, CommKind::kReduceScatter);
  OT_CHECK(in.dtype == out.dtype && in.num_elements() == size() * out.num_elements(),
           "{} ReduceScatter: {} over {} ranks into {}", name_, Describe(in), size(),
           Describe(out));
  OT_CHECK(in.dtype != DType::kF16, "{} ReduceScatter: f16 is not summed", name_);
  if (size() == 1) {
    CopyToSelf(out, in, in.num_bytes(), stream);
    return {};
  }
  CommCall call;
  call.kind = CommKind::kReduceScatter;
  call.in = in;
  call.out = out;
  call.op = op;
  return Begin(std::move(call), stream);
}

CommHandle Communicator::AllGather(const Tensor& in, const Tensor& out, Stream& stream) {
  CheckTensor(in, CommKind::kAllGather);
  CheckTensor(out, CommKind::kAllGather);
  CheckSameDevice(in, out, CommKind::kAllGather);
  OT_CHECK(in.dtype == out.dtype && size() * in.num_elements() == out.num_elements(),
           "{} AllGather: {} from {} ranks into {}", name_, Describe(in), size(), Describe(out));
  if (size() == 1) {
    CopyToSelf(out, in, in.num_bytes(), stream);
    return {};
  }
  CommCall call;
  call.kind = CommKind::kAllGather;
  call.in = in;
  call.out = out;
  return Begin(std::move(call), stream);
}

CommHandle Communicator::Broadcast(const Tensor& t, int root, Stream& stream) {
  CheckTensor(t, CommKind::kBroadcast);
  CheckPeer(root, CommKind::kBroadcast);
  if (size() == 1) return {};
  CommCall call;
  call.kind = CommKind::kBroadcast;
  call.in = call.out = t;
  call.peer = root;
  return Begin(std::move(call), stream);
}

CommHandle Communicator::Send(const Tensor& t, int peer, int tag, Stream& stream) {
  CheckTensor(t, CommKind::kSend);
  CheckPeer(peer, CommKind::kSend);
  OT_CHECK(peer != rank_, "{} Send: rank {} to itself", name_, rank_);
  OT_CHECK(tag >= 0 && tag <= kMaxTag, "{} Send: tag {}", name_, tag);
  CommCall call;
  call.kind = CommKind::kSend;
  call.in = t;
  call.peer = peer;
  call.tag = tag;
  return Begin(std::move(call), stream);
}

CommHandle Communicator::Recv(const Tensor& t, int peer, int tag, Stream& stream) {
  CheckTensor(t, CommKind::kRecv);
  CheckPeer(peer, CommKind::kRecv);
  OT_CHECK(peer != rank_, "{} Recv: rank {} from itself", name_, rank_);
  OT_CHECK(tag >= 0 && tag <= kMaxTag, "{} Recv: tag {}", name_, tag);
  CommCall call;
  call.kind = CommKind::kRecv;
  call.out = t;
  call.peer = peer;
  call.tag = tag;
  return Begin(std::move(call), stream);
}

CommHandle Communicator::AllToAllV(const Tensor& in, const std::vector<int64_t>& in_bytes,
                                   const Tensor& out, const std::vector<int64_t>& out_bytes,
                                   Stream& stream) {
  CheckTensor(in, CommKind::kAllToAllV);
  CheckTensor(out, CommKind::kAllToAllV);
  CheckSameDevice(in, out, CommKind::kAllToAllV);
  const auto check = [&](const std::vector<int64_t>& bytes, const Tensor& t, const char* side) {
    int64_t total = 0;
    for (int64_t b : bytes) {
      OT_CHECK(b >= 0, "{} AllToAllV: {} bytes {}", name_, b, side);
      total += b;
    }
    OT_CHECK(static_cast<int>(bytes.size()) == size() && total <= t.num_bytes(),
             "{} AllToAllV {}: {} counts for {} ranks, {} bytes of {}", name_, side, bytes.size(),
             size(), total, Describe(t));
  };
  check(in_bytes, in, "in");
  check(out_bytes, out, "out");
  const auto me = static_cast<size_t>(rank_);
  OT_CHECK(in_bytes[me] == out_bytes[me], "{} AllToAllV: rank {} sends itself {} bytes, takes {}",
           name_, rank_, in_bytes[me], out_bytes[me]);
  if (size() == 1) {
    CopyToSelf(out, in, in_bytes[0], stream);
    return {};
  }
  CommCall call;
  call.kind = CommKind::kAllToAllV;
  call.in = in;
  call.out = out;
  call.in_bytes = in_bytes;
  call.out_bytes = out_bytes;
  return Begin(std::move(call), stream);
}

void Communicator::Barrier() {
  if (size() == 1) return;
  HostStream stream;
  Begin(CommCall{}, stream).Wait(stream);
}

std::vector<std::string> Communicator::AllGatherStrings(const std::string& mine) {
  if (size() == 1) return {mine};
  HostStream stream;
  const auto n = static_cast<size_t>(size());
  int64_t length = static_cast<int64_t>(mine.size());
  std::vector<int64_t> lengths(n);
  AllGather(Tensor(&length, DType::kI64, {1}), Tensor(lengths.data(), DType::kI64, {size()}),
            stream)
      .Wait(stream);
  // Padded to the longest: one collective more is dearer than the bytes of short strings.
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::string padded = mine;
  padded.resize(static_cast<size_t>(longest));
  std::string all(static_cast<size_t>(longest) * n, '\0');
  AllGather(Tensor(padded.data(), DType::kU8, {longest}),
            Tensor(all.data(), DType::kU8, {size() * longest}), stream)
      .Wait(stream);
  std::vector<std::string> strings;
  for (size_t r = 0; r < n; ++r) {
    strings.push_back(
        all.substr(r * static_cast<size_t>(longest), static_cast<size_t>(lengths[r])));
  }
  return strings;
}

double Communicator::AllReduceScalar(double mine, ReduceOp op) {
  HostStream stream;
  AllReduce(Tensor(&mine, DType::kF64, {1}), op, stream).Wait(stream);
  return mine;
}

int64_t Communicator::AllReduceScalar(int64_t mine, ReduceOp op) {
  HostStream stream;
  AllReduce(Tensor(&mine, DType::kI64, {1}), op, stream).Wait(stream);
  return mine;
}

std::string Communicator::DescribeWait(const CommCall& call, double waited_s) const {
  std::string text = fmt::format("rank {} waits {:.3g} s in {} {} (seq {}", global_rank(), waited_s,
                                 name_, CommKindName(call.kind), call.seq);
  const bool is_message = call.kind == CommKind::kSend || call.kind == CommKind::kRecv;
  if (is_message) text += fmt::format(", tag {}", call.tag);
  text += ")";
  if (call.kind != CommKind::kBarrier) text += " of " + HumanBytes(call.bytes());
  if (is_message) {
    return text + fmt::format(" {} rank {}", call.kind == CommKind::kSend ? "to" : "from",
                              ranks_[static_cast<size_t>(call.peer)]);
  }
  text += " with ranks ";
  for (int r = 0; r < size(); ++r) {
    text += fmt::format("{}{}", r ? "," : "", ranks_[static_cast<size_t>(r)]);
  }
  if (call.kind == CommKind::kBroadcast) {
    text += fmt::format(" from rank {}", ranks_[static_cast<size_t>(call.peer)]);
  }
  return text;
}

}  // namespace omnitrain
