#include "parallel/comm/mpi_call.h"

#include <algorithm>
#include <cstring>

#include "parallel/comm/reduce.h"

namespace omnitrain {
namespace {

// Up to this many bytes over all ranks, one collective of log(n) rounds beats messages to everyone.
constexpr int64_t kSmallBytes = 64 << 10;

void CopyBytes(void* to, const void* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memmove(to, from, static_cast<size_t>(bytes));
}

}  // namespace

MpiCall::MpiCall(MpiCommunicator* communicator, CommCall call)
    : communicator_(communicator),
      call_(std::move(call)),
      rank_(communicator->rank()),
      size_(communicator->size()) {
  const MPI_Comm comm = communicator_->comm();
  switch (call_.kind) {
    case CommKind::kBarrier:
      Require(MPI_Ibarrier(comm, NewRequest()));
      break;
    case CommKind::kBroadcast: {
      const int64_t piece = communicator_->engine().max_message_bytes();
      for (int64_t at = 0; at < call_.out.num_bytes(); at += piece) {
        const auto bytes = static_cast<int>(std::min(piece, call_.out.num_bytes() - at));
        Require(MPI_Ibcast(out() + at, bytes, MPI_BYTE, call_.peer, comm, NewRequest()));
      }
      break;
    }
    case CommKind::kAllGather:
      PostGather();
      break;
    case CommKind::kAllToAllV:
      PostAllToAllV();
      break;
    case CommKind::kSend:
      Send(in(), call_.in.num_bytes(), call_.peer, call_.tag);
      break;
    case CommKind::kRecv:
      Recv(out(), call_.out.num_bytes(), call_.peer, call_.tag);
      break;
    case CommKind::kAllReduce:
      if (call_.out.num_bytes() == 0) break;
      if (call_.out.num_bytes() * size_ <= kSmallBytes) {
        phase_ = Phase::kSmallParts;
        const auto bytes = static_cast<int>(call_.out.num_bytes());
        parts_.resize(static_cast<size_t>(call_.out.num_bytes() * size_));
        Require(MPI_Iallgather(in(), bytes, MPI_BYTE, parts_.data(), bytes, MPI_BYTE, comm,
                               NewRequest()));
      } else {
        PostParts();
      }
      break;
    case CommKind::kReduceScatter:
      if (call_.out.num_bytes() > 0) PostParts();
      break;
  }
}

bool MpiCall::Advance() {
  while (!is_done_) {
    int flag = 1;
    if (!requests_.empty()) {
      statuses_.resize(requests_.size());
      const int code = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &flag,
                                   statuses_.data());
      if (code == MPI_ERR_IN_STATUS) {
        for (const MPI_Status& status : statuses_) {
          if (status.MPI_ERROR != MPI_ERR_PENDING) Require(status.MPI_ERROR);
        }
      }
      Require(code);
    }
    if (!flag) return false;
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (received_bytes_[i] < 0) continue;
      int bytes = 0;
      Require(MPI_Get_count(&statuses_[i], MPI_BYTE, &bytes));
      OT_REQUIRE(bytes == received_bytes_[i], ErrorCode::kComm, "{}: {} bytes came where {} belong",
                 communicator_->DescribeWait(call_, 0), bytes, received_bytes_[i]);
    }
    requests_.clear();
    received_bytes_.clear();
    is_done_ = !NextPhase();
  }
  return true;
}

bool MpiCall::NextPhase() {
  switch (phase_) {
    case Phase::kOnly:
      return false;
    case Phase::kSmallParts: {
      std::vector<const void*> parts;
      for (int r = 0; r < size_; ++r) parts.push_back(parts_.data() + r * call_.out.num_bytes());
      ReduceInOrder(call_.out.dtype, call_.op, parts, out(), call_.out.num_elements());
      return false;
    }
    case Phase::kParts:
      SumParts();
      if (call_.kind == CommKind::kAllReduce) {
        PostSums();
        return true;
      }
      break;
    case Phase::kSums:
      break;
  }
  begin_ += slice_;
  if (begin_ == call_.out.num_elements()) return false;
  PostParts();
  return true;
}

void MpiCall::PostGather() {
  const int64_t bytes = call_.in.num_bytes();
  if (bytes * size_ <= kSmallBytes) {
    const bool is_in_place = in() == out() + rank_ * bytes;
    Require(MPI_Iallgather(is_in_place ? MPI_IN_PLACE : in(), static_cast<int>(bytes), MPI_BYTE,
                           out(), static_cast<int>(bytes), MPI_BYTE, communicator_->comm(),
                           NewRequest()));
    return;
  }
  CopyBytes(out() + rank_ * bytes, in(), bytes);
  // Neighbours first, so that no rank is everybody's first target.
  for (int d = 1; d < size_; ++d) {
    const int from = (rank_ + size_ - d) % size_;
    Recv(out() + from * bytes, bytes, from, internal_tag());
  }
  for (int d = 1; d < size_; ++d) Send(in(), bytes, (rank_ + d) % size_, internal_tag());
}

void MpiCall::PostAllToAllV() {
  std::vector<int64_t> in_at(static_cast<size_t>(size_)), out_at(in_at);
  for (size_t r = 1; r < in_at.size(); ++r) {
    in_at[r] = in_at[r - 1] + call_.in_bytes[r - 1];
    out_at[r] = out_at[r - 1] + call_.out_bytes[r - 1];
  }
  const auto me = static_cast<size_t>(rank_);
  CopyBytes(out() + out_at[me], in() + in_at[me], call_.in_bytes[me]);
  for (int d = 1; d < size_; ++d) {
    const auto from = static_cast<size_t>((rank_ + size_ - d) % size_);
    if (call_.out_bytes[from] == 0) continue;
    Recv(out() + out_at[from], call_.out_bytes[from], static_cast<int>(from), internal_tag());
  }
  for (int d = 1; d < size_; ++d) {
    const auto to = static_cast<size_t>((rank_ + d) % size_);
    if (call_.in_bytes[to] == 0) continue;
    Send(in() + in_at[to], call_.in_bytes[to], static_cast<int>(to), internal_tag());
  }
}

void MpiCall::PostParts() {
  phase_ = Phase::kParts;
  const int64_t size = element_bytes(), limit = communicator_->engine().max_reduce_bytes() / size;
  const bool is_all = call_.kind == CommKind::kAllReduce;
  // Parts take slice bytes for AllReduce, and that for each rank for ReduceScatter.
  const int64_t largest = std::max<int64_t>(1, is_all ? limit : limit / size_);
  slice_ = std::min(largest, call_.out.num_elements() - begin_);
  const auto begin_of = [&](int r) {
    return is_all ? ShareBegin(r) : r * call_.out.num_elements() + begin_;
  };
  const auto count_of = [&](int r) { return is_all ? ShareBegin(r + 1) - ShareBegin(r) : slice_; };
  const int64_t mine = count_of(rank_) * size;
  parts_.resize(static_cast<size_t>(mine * size_));
  for (int d = 1; d < size_; ++d) {
    const int from = (rank_ + size_ - d) % size_;
    if (mine > 0) Recv(parts_.data() + from * mine, mine, from, internal_tag());
  }
  for (int d = 1; d < size_; ++d) {
    const int to = (rank_ + d) % size_;
    if (count_of(to) > 0) {
      Send(in() + begin_of(to) * size, count_of(to) * size, to, internal_tag());
    }
  }
  CopyBytes(parts_.data() + rank_ * mine, in() + begin_of(rank_) * size, mine);
}

void MpiCall::SumParts() {
  const int64_t size = element_bytes();
  const bool is_all = call_.kind == CommKind::kAllReduce;
  const int64_t at = is_all ? ShareBegin(rank_) : begin_;
  const int64_t count = is_all ? ShareBegin(rank_ + 1) - at : slice_;
  std::vector<const void*> parts;
  for (int r = 0; r < size_; ++r) parts.push_back(parts_.data() + r * count * size);
  ReduceInOrder(call_.out.dtype, call_.op, parts, out() + at * size, count);
}

void MpiCall::PostSums() {
  phase_ = Phase::kSums;
  const int64_t size = element_bytes();
  const auto bytes_of = [&](int r) { return (ShareBegin(r + 1) - ShareBegin(r)) * size; };
  for (int d = 1; d < size_; ++d) {
    const int from = (rank_ + size_ - d) % size_;
    if (bytes_of(from) > 0) {
      Recv(out() + ShareBegin(from) * size, bytes_of(from), from, internal_tag());
    }
  }
  for (int d = 1; d < size_; ++d) {
    if (bytes_of(rank_) > 0) {
      Send(out() + ShareBegin(rank_) * size, bytes_of(rank_), (rank_ + d) % size_, internal_tag());
    }
  }
}

void MpiCall::Send(const void* data, int64_t bytes, int peer, int tag) {
  const int64_t piece = communicator_->engine().max_message_bytes();
  int64_t at = 0;
  do {  // once for an empty message
    const auto n = static_cast<int>(std::min(piece, bytes - at));
    Require(MPI_Isend(static_cast<const char*>(data) + at, n, MPI_BYTE, peer, tag,
                      communicator_->comm(), NewRequest()));
    at += n;
  } while (at < bytes);
}

void MpiCall::Recv(void* data, int64_t bytes, int peer, int tag) {
  const int64_t piece = communicator_->engine().max_message_bytes();
  int64_t at = 0;
  do {
    const auto n = static_cast<int>(std::min(piece, bytes - at));
    Require(MPI_Irecv(static_cast<char*>(data) + at, n, MPI_BYTE, peer, tag, communicator_->comm(),
                      NewRequest(n)));
    at += n;
  } while (at < bytes);
}

MPI_Request* MpiCall::NewRequest(int64_t received_bytes) {
  requests_.push_back(MPI_REQUEST_NULL);
  received_bytes_.push_back(received_bytes);
  return &requests_.back();
}

void MpiCall::Require(int mpi_code) const {
  if (mpi_code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(mpi_code, text, &length);
  Fail(ErrorCode::kComm, "{}: {}", communicator_->DescribeWait(call_, 0), text);
}

int MpiCall::internal_tag() const {
  // Tags above those of Send and Recv, one per collective under way. The phases of a collective
  // share it: messages of one pair and tag arrive in the order they were sent.
  const int64_t first = Communicator::kMaxTag + 1;
  return static_cast<int>(first + call_.seq % (communicator_->engine().max_tag() - first));
}

int64_t MpiCall::element_bytes() const { return static_cast<int64_t>(DTypeBytes(call_.out.dtype)); }

}  // namespace omnitrain
