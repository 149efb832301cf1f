#include "parallel/comm/staged_call.h"

#include <numeric>
#include <utility>

namespace omnitrain {
namespace {

int64_t Sum(const std::vector<int64_t>& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

int64_t Aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

StagedCall::StagedCall(MpiCommunicator* communicator, CommCall call, Stream& stream)
    : communicator_(communicator),
      staging_(call.is_on_device() ? communicator->engine().staging() : nullptr),
      call_(std::move(call)),
      host_call_(call_),
      turn_(communicator->TakeTurn()) {
  if (staging_ == nullptr) return;
  Plan();
  if (!block_) return;
  block_->is_ready->Record(stream);
  if (out_.empty()) return;
  block_->is_ready->WaitOn(staging_->out_stream());
  for (const Piece& p : out_) {
    staging_->device().Copy(p.on_host, p.on_device, static_cast<size_t>(p.bytes),
                            staging_->out_stream());
  }
  block_->is_out->Record(staging_->out_stream());
}

StagedCall::~StagedCall() {
  // After a failure copies may still be under way; the process is about to end.
  if (is_done_ && block_) staging_->GiveBack(std::move(*block_));
}

void StagedCall::Plan() {
  Tensor& in = host_call_.in;
  Tensor& out = host_call_.out;
  in.device = out.device = DeviceKind::kCpu;
  int64_t in_bytes = 0, out_bytes = 0;
  switch (call_.kind) {
    case CommKind::kAllReduce:
    case CommKind::kBroadcast:
    case CommKind::kAllGather:  // its `in` goes to its place in `out`
    case CommKind::kRecv:
      out_bytes = out.num_bytes();
      break;
    case CommKind::kReduceScatter:
      in_bytes = in.num_bytes();
      out_bytes = out.num_bytes();
      break;
    case CommKind::kSend:
      in_bytes = in.num_bytes();
      break;
    case CommKind::kAllToAllV:
      in_bytes = Sum(call_.in_bytes);
      out_bytes = Sum(call_.out_bytes);
      break;
    case CommKind::kBarrier:
      break;
  }
  in.data = out.data = nullptr;
  if (in_bytes + out_bytes == 0) return;
  block_ = staging_->Take(Aligned(in_bytes) + out_bytes);
  char* const in_at = static_cast<char*>(block_->data);
  char* const out_at = in_at + Aligned(in_bytes);
  if (in_bytes > 0) in.data = in_at;
  if (out_bytes > 0) out.data = out_at;
  const auto add = [](std::vector<Piece>* pieces, void* on_device, void* on_host, int64_t bytes) {
    if (bytes > 0) pieces->push_back({on_device, on_host, bytes});
  };
  switch (call_.kind) {
    case CommKind::kAllReduce:
      in.data = out.data;
      add(&out_, call_.in.data, out.data, out_bytes);
      break;
    case CommKind::kBroadcast:
      in.data = out.data;
      if (communicator_->rank() == call_.peer) {
        add(&out_, call_.in.data, out.data, out_bytes);
        return;
      }
      break;
    case CommKind::kAllGather:
      in.data = out_at + communicator_->rank() * in.num_bytes();
      add(&out_, call_.in.data, in.data, in.num_bytes());
      break;
    default:
      add(&out_, call_.in.data, in.data, in_bytes);
  }
  add(&in_, call_.out.data, out.data, out_bytes);
}

bool StagedCall::Advance() {
  if (is_done_) return true;
  if (mpi_ == nullptr) {
    if (!communicator_->IsTurn(turn_)) return false;
    if (!out_.empty() && !block_->is_out->IsReached()) return false;
    mpi_ = std::make_unique<MpiCall>(communicator_, host_call_);
    communicator_->EndTurn();
  }
  if (!mpi_->Advance()) return false;
  CopyIn();
  return is_done_ = true;
}

void StagedCall::CopyIn() {
  if (in_.empty()) return;
  // What the caller's stream did before the call may still use the memory.
  block_->is_ready->WaitOn(staging_->in_stream());
  for (const Piece& p : in_) {
    staging_->device().Copy(p.on_device, p.on_host, static_cast<size_t>(p.bytes),
                            staging_->in_stream());
  }
  block_->is_in->Record(staging_->in_stream());
}

void StagedCall::OrderAfter(Stream& stream) {
  if (!in_.empty()) block_->is_in->WaitOn(stream);
}

}  // namespace omnitrain
