#include "parallel/comm/mpi_communicator.h"

#include <sched.h>

#include <algorithm>
#include <exception>

#include "core/base/log.h"
#include "core/base/rng.h"
#include "parallel/comm/mpi_call.h"
#include "parallel/comm/staged_call.h"
#include "parallel/comm/wait_record.h"

namespace omnitrain {
namespace {

using Clock = std::chrono::steady_clock;

/// Advances until `task` is done. Polls without sleeping at first; a long wait gives its core to
/// those who compute.
void PollUntilDone(MpiCommunicator& communicator, MpiTask& task) {
  MpiEngine& engine = communicator.engine();
  engine.CheckThread();
  engine.Progress();
  if (task.is_done()) return;
  const CommCall& what = task.call();
  const int peer = what.peer < 0 ? -1 : communicator.ranks()[static_cast<size_t>(what.peer)];
  WaitScope scope(communicator.global_rank(), communicator.name().c_str(), CommKindName(what.kind),
                  what.seq, peer);
  const auto begin = Clock::now();
  constexpr auto kBusyTime = std::chrono::milliseconds(2);
  constexpr auto kNap = std::chrono::microseconds(50);
  for (int64_t round = 0;; ++round) {
    engine.Progress();
    if (task.is_done()) return;
    if (round < 100) continue;
    const auto waited = Clock::now() - begin;
    if (waited > communicator.timeout()) {
      const std::string text =
          communicator.DescribeWait(what, std::chrono::duration<double>(waited).count());
      engine.SetFailed(text);
      Fail(ErrorCode::kComm, "{}", text);
    }
    if (waited > kBusyTime) {
      std::this_thread::sleep_for(kNap);
    } else {
      sched_yield();
    }
  }
}

class PendingMpi : public PendingComm {
 public:
  PendingMpi(MpiCommunicator* communicator, std::shared_ptr<MpiTask> task)
      : communicator_(communicator), task_(std::move(task)) {}

  ~PendingMpi() override {
    if (task_->is_done() || communicator_->engine().has_failed()) return;
    if (std::uncaught_exceptions() > 0) {
      // This rank is failing; waiting for peers would only delay its report.
      communicator_->engine().SetFailed(communicator_->DescribeWait(task_->call(), 0) +
                                        ", given up after an error");
      return;
    }
    try {
      PollUntilDone(*communicator_, *task_);
    } catch (const Error& error) {
      LogLine("comm", error.what());
    }
  }

  void Wait(Stream& stream) override {
    PollUntilDone(*communicator_, *task_);
    task_->OrderAfter(stream);
  }

 private:
  MpiCommunicator* communicator_;
  std::shared_ptr<MpiTask> task_;
};

void RequireMpi(int code, const std::string& what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  Fail(ErrorCode::kComm, "{}: {}", what, text);
}

}  // namespace

MpiEngine::MpiEngine(int64_t max_message_bytes, int64_t max_reduce_bytes)
    : owner_(std::this_thread::get_id()),
      max_message_bytes_(max_message_bytes),
      max_reduce_bytes_(max_reduce_bytes) {
  OT_CHECK(max_message_bytes_ >= 1 && max_message_bytes_ <= (int64_t{1} << 30),
           "MPI messages of {} bytes", max_message_bytes_);
  int* max_tag = nullptr;
  int is_set = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &max_tag, &is_set);
  max_tag_ = is_set ? *max_tag : 32767;
  OT_REQUIRE(max_tag_ >= 2 * Communicator::kMaxTag, ErrorCode::kComm,
             "this MPI has tags up to {}, {} are needed: choose another transport (--mca pml)",
             max_tag_, 2 * Communicator::kMaxTag);
}

void MpiEngine::CheckThread() const {
  OT_CHECK(std::this_thread::get_id() == owner_, "MPI belongs to the thread that started it");
}

void MpiEngine::Add(std::shared_ptr<MpiTask> task) { tasks_.push_back(std::move(task)); }

void MpiEngine::Progress() {
  OT_REQUIRE(!has_failed_, ErrorCode::kComm, "communication has failed before: {}", reason_);
  for (auto it = tasks_.begin(); it != tasks_.end();) {
    try {
      it = (*it)->Advance() ? tasks_.erase(it) : std::next(it);
    } catch (const Error& error) {
      SetFailed(error.what());
      throw;
    }
  }
}

void MpiEngine::SetFailed(const std::string& reason) {
  if (has_failed_) return;
  has_failed_ = true;
  reason_ = reason;
}

MpiCommunicator::MpiCommunicator(std::shared_ptr<MpiEngine> engine, MPI_Comm comm, std::string name,
                                 std::vector<int> ranks, int rank,
                                 std::chrono::milliseconds timeout)
    : Communicator(std::move(name), std::move(ranks), rank, timeout),
      engine_(std::move(engine)),
      comm_(comm) {
  MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
}

MpiCommunicator::~MpiCommunicator() {
  // Freeing is collective: not after a failure, when peers may be gone.
  if (!engine_->has_failed() && std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
}

std::unique_ptr<PendingComm> MpiCommunicator::Start(CommCall call, Stream& stream) {
  engine_->CheckThread();
  OT_REQUIRE(!engine_->has_failed(), ErrorCode::kComm, "{} {}: communication has failed before",
             name(), CommKindName(call.kind));
  const bool is_on_device = call.is_on_device();
  OT_CHECK(!is_on_device || engine_->staging() != nullptr,
           "{}: MPI moves host memory, and no device was given to stage for", name());
  if (is_on_device || !IsTurn(num_turns_)) {
    auto staged = std::make_shared<StagedCall>(this, std::move(call), stream);
    staged->Advance();
    if (!staged->is_done()) engine_->Add(staged);
    return std::make_unique<PendingMpi>(this, std::move(staged));
  }
  auto task = std::make_shared<MpiCall>(this, std::move(call));
  if (task->Advance()) return nullptr;
  engine_->Add(task);
  return std::make_unique<PendingMpi>(this, std::move(task));
}

void MpiCommunicator::CopyOnDevice(void* to, const void* from, int64_t bytes, Stream& stream) {
  OT_CHECK(engine_->staging() != nullptr, "{}: a device's memory, and no device was given", name());
  engine_->staging()->device().Copy(to, from, static_cast<size_t>(bytes), stream);
}

std::unique_ptr<Communicator> MpiCommunicator::NewGroup(const std::string& name,
                                                        const std::vector<int>& global_ranks) {
  return NewGroup(name, global_ranks, timeout());
}

std::unique_ptr<Communicator> MpiCommunicator::NewGroup(const std::string& name,
                                                        const std::vector<int>& global_ranks,
                                                        std::chrono::milliseconds timeout) {
  engine_->CheckThread();
  const auto me = std::find(global_ranks.begin(), global_ranks.end(), global_rank());
  OT_CHECK(me != global_ranks.end(), "{}: rank {} makes a group that it is not in", name,
           global_rank());
  std::vector<int> members;  // as ranks of this communicator
  for (int r : global_ranks) {
    const auto at = std::find(ranks().begin(), ranks().end(), r);
    OT_CHECK(at != ranks().end(), "{}: rank {} is not in {}", name, r, this->name());
    members.push_back(static_cast<int>(at - ranks().begin()));
  }
  AgreeOnGroup(name, members);
  MPI_Group mine, group;
  RequireMpi(MPI_Comm_group(comm_, &mine), name);
  RequireMpi(MPI_Group_incl(mine, static_cast<int>(members.size()), members.data(), &group), name);
  MPI_Comm comm = MPI_COMM_NULL;
  RequireMpi(MPI_Comm_create_group(comm_, group, 0, &comm), name);
  MPI_Group_free(&group);
  MPI_Group_free(&mine);
  return std::make_unique<MpiCommunicator>(engine_, comm, name, global_ranks,
                                           static_cast<int>(me - global_ranks.begin()), timeout);
}

/// MPI_Comm_create_group blocks without a deadline, and mixes up members that make different
/// groups. So the members meet first, under the deadline, with what they are about to make.
void MpiCommunicator::AgreeOnGroup(const std::string& name, const std::vector<int>& members) {
  const int group_tag = engine_->max_tag();  // no call uses it
  std::string text = name;
  for (int m : members) text += fmt::format(",{}", m);
  const auto mine = static_cast<int64_t>(StreamId(text.c_str()));
  const auto exchange = [&](CommKind kind, int64_t* value, int peer) {
    CommCall call;
    call.kind = kind;
    call.peer = peer;
    call.tag = group_tag;
    (kind == CommKind::kSend ? call.in : call.out) = Tensor(value, DType::kI64, {1});
    auto state = std::make_shared<MpiCall>(this, std::move(call));
    if (!state->Advance()) engine_->Add(state);
    PollUntilDone(*this, *state);
  };
  const auto compare = [&](int64_t theirs, int peer) {
    OT_REQUIRE(theirs == mine, ErrorCode::kComm,
               "rank {} makes group {} with ranks {} of {}, rank {} another group", global_rank(),
               name, text.substr(name.size() + 1), this->name(),
               ranks()[static_cast<size_t>(peer)]);
  };
  int64_t value = mine;
  if (members.front() == rank()) {
    for (size_t i = 1; i < members.size(); ++i) {
      exchange(CommKind::kRecv, &value, members[i]);
      compare(value, members[i]);
    }
    value = mine;
    for (size_t i = 1; i < members.size(); ++i) exchange(CommKind::kSend, &value, members[i]);
  } else {
    exchange(CommKind::kSend, &value, members.front());
    exchange(CommKind::kRecv, &value, members.front());
    compare(value, members.front());
  }
}

}  // namespace omnitrain
