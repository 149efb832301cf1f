#include "parallel/comm/wait_record.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>

namespace omnitrain {
namespace {

constexpr int kNumSlots = 64;

/// One thread's record. Only its thread writes; a signal handler or another thread may read at any
/// moment, so every byte is atomic (lock-free: plain moves). A reader may see a mix of two records,
/// which is worth more in a crash than none.
struct Slot {
  std::atomic<bool> is_taken{false};
  std::atomic<bool> is_waiting{false};
  std::array<std::atomic<char>, 48> communicator{};
  std::array<std::atomic<char>, 24> op{};
  std::array<std::atomic<char>, 48> activity{};
  std::atomic<int64_t> rank{0}, seq{0}, peer{-1}, since_ns{0};
};

static_assert(std::atomic<int64_t>::is_always_lock_free && std::atomic<char>::is_always_lock_free,
              "a signal handler reads these");

Slot g_slots[kNumSlots];

template <size_t N>
void Store(std::array<std::atomic<char>, N>& to, const char* from) {
  size_t i = 0;
  for (; i + 1 < N && from[i] != '\0'; ++i) to[i].store(from[i], std::memory_order_relaxed);
  to[i].store('\0', std::memory_order_relaxed);
}

template <size_t N>
void Load(const std::array<std::atomic<char>, N>& from, char* to) {
  for (size_t i = 0; i < N; ++i) to[i] = from[i].load(std::memory_order_relaxed);
  to[N - 1] = '\0';
}

/// The calling thread's slot, taken at its first use and given back when the thread ends.
class SlotLease {
 public:
  SlotLease() {
    for (Slot& slot : g_slots) {
      bool expected = false;
      if (slot.is_taken.compare_exchange_strong(expected, true)) {
        slot_ = &slot;
        return;
      }
    }
  }
  ~SlotLease() {
    if (slot_ == nullptr) return;
    slot_->is_waiting = false;
    Store(slot_->activity, "");
    slot_->is_taken = false;
  }
  Slot* slot() const { return slot_; }

 private:
  Slot* slot_ = nullptr;
};

Slot* MySlot() {
  thread_local SlotLease lease;
  return lease.slot();
}

int64_t NowNs() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1000000000 + t.tv_nsec;
}

/// A line built without the heap; what does not fit is cut.
class Line {
 public:
  void Text(const char* text) {
    while (*text != '\0' && length_ < sizeof(buffer_) - 1) buffer_[length_++] = *text++;
  }
  void Number(int64_t value) {
    char digits[24];
    int n = 0;
    // The magnitude as unsigned: the least int64 has no positive twin.
    uint64_t rest = value < 0 ? ~static_cast<uint64_t>(value) + 1 : static_cast<uint64_t>(value);
    do {
      digits[n++] = static_cast<char>('0' + rest % 10);
      rest /= 10;
    } while (rest != 0);
    if (value < 0) Text("-");
    while (n > 0) {
      const char one[2] = {digits[--n], '\0'};
      Text(one);
    }
  }
  const char* data() const { return buffer_; }
  size_t size() const { return length_; }
  void End() { buffer_[length_++] = '\n'; }

 private:
  char buffer_[320];
  size_t length_ = 0;
};

/// False when the slot has nothing to say.
bool Format(const Slot& slot, Line* line) {
  if (!slot.is_taken.load()) return false;
  char activity[48];
  Load(slot.activity, activity);
  const bool is_waiting = slot.is_waiting.load();
  if (!is_waiting && activity[0] == '\0') return false;
  line->Text("[comm] ");
  if (is_waiting) {
    char name[48], op[24];
    Load(slot.communicator, name);
    Load(slot.op, op);
    line->Text("rank ");
    line->Number(slot.rank.load());
    line->Text(" waits ");
    line->Number((NowNs() - slot.since_ns.load()) / 1000000000);
    line->Text(" s in ");
    line->Text(name);
    line->Text(" ");
    line->Text(op);
    line->Text(" (seq ");
    line->Number(slot.seq.load());
    line->Text(")");
    if (slot.peer.load() >= 0) {
      line->Text(" for rank ");
      line->Number(slot.peer.load());
    }
    if (activity[0] != '\0') line->Text(", doing ");
  } else {
    line->Text("not waiting, doing ");
  }
  line->Text(activity);
  line->End();
  return true;
}

void Publish(Slot* slot, const WaitFields& fields) {
  slot->is_waiting = false;
  Store(slot->communicator, fields.communicator);
  Store(slot->op, fields.op);
  slot->rank = fields.rank;
  slot->seq = fields.seq;
  slot->peer = fields.peer;
  slot->since_ns = fields.since_ns;
  slot->is_waiting = fields.is_waiting;
}

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTERM};
struct sigaction g_previous[sizeof(kSignals) / sizeof(int)];

void OnSignal(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  WriteWaitReport(STDERR_FILENO);
  for (size_t i = 0; i < sizeof(kSignals) / sizeof(int); ++i) {
    if (kSignals[i] != signal) continue;
    const struct sigaction& previous = g_previous[i];
    if (signal == SIGTERM && previous.sa_handler == SIG_IGN) return;
    if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN || signal != SIGTERM) {
      // Back to what was, and again: delivered as soon as this handler returns.
      sigaction(signal, &previous, nullptr);
      raise(signal);
    } else if (previous.sa_flags & SA_SIGINFO) {
      previous.sa_sigaction(signal, info, context);
    } else {
      previous.sa_handler(signal);
    }
  }
  errno = saved_errno;
}

}  // namespace

WaitScope::WaitScope(int global_rank, const char* communicator, const char* op, int64_t seq,
                     int peer)
    : outer_{} {
  Slot* slot = MySlot();
  if (slot == nullptr) return;
  Load(slot->communicator, outer_.communicator);
  Load(slot->op, outer_.op);
  outer_.rank = slot->rank;
  outer_.seq = slot->seq;
  outer_.peer = slot->peer;
  outer_.since_ns = slot->since_ns;
  outer_.is_waiting = slot->is_waiting;
  slot->is_waiting = false;
  Store(slot->communicator, communicator);
  Store(slot->op, op);
  slot->rank = global_rank;
  slot->seq = seq;
  slot->peer = peer;
  slot->since_ns = NowNs();
  slot->is_waiting = true;
}

WaitScope::~WaitScope() {
  if (Slot* slot = MySlot()) Publish(slot, outer_);
}

ActivityScope::ActivityScope(const char* activity) : outer_{} {
  Slot* slot = MySlot();
  if (slot == nullptr) return;
  Load(slot->activity, outer_);
  Store(slot->activity, activity);
}

ActivityScope::~ActivityScope() {
  if (Slot* slot = MySlot()) Store(slot->activity, outer_);
}

void WriteWaitReport(int fd) {
  for (const Slot& slot : g_slots) {
    Line line;
    if (!Format(slot, &line)) continue;
    if (::write(fd, line.data(), line.size()) < 0) return;
  }
}

std::string WaitReport() {
  std::string report;
  for (const Slot& slot : g_slots) {
    Line line;
    if (Format(slot, &line)) report.append(line.data(), line.size());
  }
  return report;
}

void InstallCrashReporter() {
  struct sigaction action = {};
  action.sa_sigaction = OnSignal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof(kSignals) / sizeof(int); ++i) {
    struct sigaction now;
    sigaction(kSignals[i], nullptr, &now);
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == OnSignal) continue;
    g_previous[i] = now;
    sigaction(kSignals[i], &action, nullptr);
  }
}

}  // namespace omnitrain
