#include "parallel/comm/inprocess_communicator.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "parallel/comm/reduce.h"
#include "parallel/comm/wait_record.h"

namespace omnitrain {
namespace {

using Bytes = std::vector<char>;

Bytes CopyOf(const Tensor& t) {
  const auto* begin = static_cast<const char*>(t.data);
  return begin == nullptr ? Bytes() : Bytes(begin, begin + t.num_bytes());
}

void CopyTo(void* to, const char* from, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

/// One collective: what each rank brought. Complete once all arrived, constant from then on.
struct Gathering {
  struct Part {
    bool has_arrived = false;
    CommCall call;
    Bytes data;
  };
  explicit Gathering(int size) : parts(static_cast<size_t>(size)) {}
  std::vector<Part> parts;
  int num_arrived = 0;
};

struct Message {
  Bytes data;
};

struct Group {
  std::map<int64_t, std::shared_ptr<Gathering>> gatherings;            // by seq
  std::map<std::tuple<int, int, int>, std::deque<Message>> mailboxes;  // by source, dest., tag
};

/// What must be the same on every rank of a collective; the per-rank counts are checked when read.
bool Match(const CommCall& a, const CommCall& b) {
  const bool is_sized = a.kind != CommKind::kAllToAllV;
  return a.kind == b.kind && a.op == b.op && a.peer == b.peer &&
         (!is_sized || (a.in.dtype == b.in.dtype && a.in.num_elements() == b.in.num_elements()));
}

}  // namespace

struct InProcessWorld::State {
  State(int size_, std::chrono::milliseconds timeout_) : size(size_), timeout(timeout_) {}
  const int size;
  const std::chrono::milliseconds timeout;
  std::mutex mutex;
  std::condition_variable changed;
  // Groups by (name, ranks, how many of that name and ranks each member made before).
  std::map<std::tuple<std::string, std::vector<int>, int>, std::shared_ptr<Group>> groups;
  bool has_failed = false;
  int failed_rank = -1;
  std::exception_ptr failure;
};

namespace {

using State = InProcessWorld::State;

class InProcessCommunicator : public Communicator {
 public:
  InProcessCommunicator(std::shared_ptr<State> state, std::string name, std::vector<int> ranks,
                        int rank, std::shared_ptr<Group> group)
      : Communicator(std::move(name), std::move(ranks), rank, state->timeout),
        state_(std::move(state)),
        group_(std::move(group)) {}

  std::unique_ptr<Communicator> NewGroup(const std::string& name,
                                         const std::vector<int>& global_ranks) override {
    const auto me = std::find(global_ranks.begin(), global_ranks.end(), global_rank());
    OT_CHECK(me != global_ranks.end(), "{}: rank {} makes a group that it is not in", name,
             global_rank());
    for (int r : global_ranks) {
      OT_CHECK(std::find(ranks().begin(), ranks().end(), r) != ranks().end(),
               "{}: rank {} is not in {}", name, r, this->name());
    }
    std::lock_guard<std::mutex> lock(state_->mutex);
    const int nth = num_made_[{name, global_ranks}]++;
    auto& group = state_->groups[{this->name() + "/" + name, global_ranks, nth}];
    if (group == nullptr) group = std::make_shared<Group>();
    return std::make_unique<InProcessCommunicator>(
        state_, name, global_ranks, static_cast<int>(me - global_ranks.begin()), group);
  }

  /// Blocks until `is_ready` (called under the lock) or a failure or the deadline.
  template <typename Ready>
  void Await(const CommCall& call, std::unique_lock<std::mutex>& lock, Ready is_ready) {
    if (is_ready()) return;
    const int peer = call.peer < 0 ? -1 : ranks()[static_cast<size_t>(call.peer)];
    WaitScope scope(global_rank(), name().c_str(), CommKindName(call.kind), call.seq, peer);
    const auto begin = std::chrono::steady_clock::now();
    const bool in_time = state_->changed.wait_until(
        lock, begin + timeout(), [&] { return state_->has_failed || is_ready(); });
    if (is_ready()) return;
    const double waited_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (!in_time) Fail(ErrorCode::kComm, "{}", DescribeWait(call, waited_s));
    Fail(ErrorCode::kComm, "{}: rank {} failed", DescribeWait(call, waited_s), state_->failed_rank);
  }

  State& state() { return *state_; }
  Group& group() { return *group_; }

 protected:
  std::unique_ptr<PendingComm> Start(CommCall call, Stream& stream) override;

 private:
  std::shared_ptr<State> state_;
  std::shared_ptr<Group> group_;
  std::map<std::pair<std::string, std::vector<int>>, int> num_made_;
};

class PendingRecv : public PendingComm {
 public:
  PendingRecv(InProcessCommunicator* comm, CommCall call) : comm_(comm), call_(std::move(call)) {}

  void Wait(Stream&) override {
    Message message;
    {
      std::unique_lock<std::mutex> lock(comm_->state().mutex);
      auto& mailbox = comm_->group().mailboxes[{call_.peer, comm_->rank(), call_.tag}];
      comm_->Await(call_, lock, [&] { return !mailbox.empty(); });
      message = std::move(mailbox.front());
      mailbox.pop_front();
    }
    OT_REQUIRE(static_cast<int64_t>(message.data.size()) == call_.out.num_bytes(), ErrorCode::kComm,
               "{}: {} bytes came", comm_->DescribeWait(call_, 0), message.data.size());
    CopyTo(call_.out.data, message.data.data(), call_.out.num_bytes());
  }

 private:
  InProcessCommunicator* comm_;
  CommCall call_;
};

class PendingCollective : public PendingComm {
 public:
  PendingCollective(InProcessCommunicator* comm, CommCall call,
                    std::shared_ptr<Gathering> gathering)
      : comm_(comm), call_(std::move(call)), gathering_(std::move(gathering)) {}

  void Wait(Stream&) override {
    {
      std::unique_lock<std::mutex> lock(comm_->state().mutex);
      comm_->Await(call_, lock, [&] { return gathering_->num_arrived == comm_->size(); });
    }
    switch (call_.kind) {
      case CommKind::kAllReduce:
        return Reduce(0);
      case CommKind::kReduceScatter:
        return Reduce(comm_->rank() * call_.out.num_bytes());
      case CommKind::kAllGather:
        for (int r = 0; r < comm_->size(); ++r) {
          CopyTo(static_cast<char*>(call_.out.data) + r * call_.in.num_bytes(), Data(r),
                 call_.in.num_bytes());
        }
        return;
      case CommKind::kBroadcast:
        if (comm_->rank() != call_.peer) {
          CopyTo(call_.out.data, Data(call_.peer), call_.out.num_bytes());
        }
        return;
      case CommKind::kAllToAllV:
        return TakeShares();
      case CommKind::kBarrier:
      case CommKind::kSend:
      case CommKind::kRecv:
        return;
    }
  }

 private:
  const char* Data(int r) const { return gathering_->parts[static_cast<size_t>(r)].data.data(); }

  void Reduce(int64_t offset) {
    std::vector<const void*> parts;
    for (int r = 0; r < comm_->size(); ++r) parts.push_back(Data(r) + offset);
    ReduceInOrder(call_.out.dtype, call_.op, parts, call_.out.data, call_.out.num_elements());
  }

  void TakeShares() {
    const auto me = static_cast<size_t>(comm_->rank());
    auto* to = static_cast<char*>(call_.out.data);
    for (size_t r = 0; r < call_.out_bytes.size(); ++r) {
      const std::vector<int64_t>& theirs = gathering_->parts[r].call.in_bytes;
      OT_REQUIRE(theirs[me] == call_.out_bytes[r], ErrorCode::kComm,
                 "{} AllToAllV (seq {}): rank {} takes {} bytes from rank {}, which sends {}",
                 comm_->name(), call_.seq, comm_->global_rank(), call_.out_bytes[r],
                 comm_->ranks()[r], theirs[me]);
      int64_t offset = 0;
      for (size_t q = 0; q < me; ++q) offset += theirs[q];
      CopyTo(to, Data(static_cast<int>(r)) + offset, theirs[me]);
      to += theirs[me];
    }
  }

  InProcessCommunicator* comm_;
  CommCall call_;
  std::shared_ptr<Gathering> gathering_;
};

std::unique_ptr<PendingComm> InProcessCommunicator::Start(CommCall call, Stream&) {
  OT_CHECK(call.in.device == DeviceKind::kCpu && call.out.device == DeviceKind::kCpu,
           "{}: in-process communication moves host memory", name());
  if (call.kind == CommKind::kRecv) return std::make_unique<PendingRecv>(this, std::move(call));
  Bytes data = CopyOf(call.in);
  std::lock_guard<std::mutex> lock(state_->mutex);
  if (call.kind == CommKind::kSend) {
    group_->mailboxes[{rank(), call.peer, call.tag}].push_back({std::move(data)});
    state_->changed.notify_all();
    return nullptr;
  }
  auto& entry = group_->gatherings[call.seq];
  if (entry == nullptr) entry = std::make_shared<Gathering>(size());
  std::shared_ptr<Gathering> gathering = entry;
  for (int r = 0; r < size(); ++r) {
    const Gathering::Part& other = gathering->parts[static_cast<size_t>(r)];
    if (!other.has_arrived) continue;
    OT_REQUIRE(Match(other.call, call), ErrorCode::kComm,
               "{} seq {}: rank {} calls {} of {}, rank {} {} of {}", name(), call.seq,
               global_rank(), CommKindName(call.kind), Describe(call.in),
               ranks()[static_cast<size_t>(r)], CommKindName(other.call.kind),
               Describe(other.call.in));
  }
  Gathering::Part& mine = gathering->parts[static_cast<size_t>(rank())];
  mine.has_arrived = true;
  mine.call = call;
  mine.data = std::move(data);
  if (++gathering->num_arrived == size()) {
    group_->gatherings.erase(call.seq);  // the handles hold it from here on
    state_->changed.notify_all();
  }
  return std::make_unique<PendingCollective>(this, std::move(call), std::move(gathering));
}

}  // namespace

InProcessWorld::InProcessWorld(int size, std::chrono::milliseconds timeout)
    : state_(std::make_shared<State>(size, timeout)) {
  OT_CHECK(size >= 1, "a world of {} ranks", size);
}

InProcessWorld::~InProcessWorld() = default;

void InProcessWorld::Run(const std::function<void(Communicator&)>& body) {
  state_->groups.clear();
  state_->has_failed = false;
  state_->failure = nullptr;
  std::vector<int> ranks;
  for (int r = 0; r < state_->size; ++r) ranks.push_back(r);
  auto group = std::make_shared<Group>();
  std::vector<std::thread> threads;
  for (int r = 0; r < state_->size; ++r) {
    threads.emplace_back([this, r, &ranks, &group, &body] {
      try {
        InProcessCommunicator comm(state_, "world", ranks, r, group);
        body(comm);
      } catch (...) {
        std::lock_guard<std::mutex> lock(state_->mutex);
        if (!state_->has_failed) {
          state_->has_failed = true;
          state_->failed_rank = r;
          state_->failure = std::current_exception();
        }
        state_->changed.notify_all();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (state_->failure != nullptr) std::rethrow_exception(state_->failure);
}

std::unique_ptr<Communicator> NewSelfCommunicator(const std::string& name) {
  auto state = std::make_shared<State>(1, std::chrono::milliseconds(60000));
  return std::make_unique<InProcessCommunicator>(std::move(state), name, std::vector<int>{0}, 0,
                                                 std::make_shared<Group>());
}

}  // namespace omnitrain
