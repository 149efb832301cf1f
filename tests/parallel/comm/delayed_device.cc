#include "tests/parallel/comm/delayed_device.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace omnitrain {
namespace {

constexpr size_t kPage = 4096;

size_t Pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

class DelayedStream : public Stream {
 public:
  explicit DelayedStream(DelayedDevice* device)
      : device_(device), queue_(std::make_shared<DelayedDevice::Queue>()) {}
  void Synchronize() override {
    while (!queue_->ops.empty()) device_->Step();
  }
  void* native() const override { return nullptr; }
  const std::shared_ptr<DelayedDevice::Queue>& queue() const { return queue_; }

 private:
  DelayedDevice* device_;
  std::shared_ptr<DelayedDevice::Queue> queue_;
};

void Push(Stream& stream, DelayedDevice::Op op) {
  static_cast<DelayedStream&>(stream).queue()->ops.push_back(std::move(op));
}

class DelayedEvent : public Event {
 public:
  explicit DelayedEvent(DelayedDevice* device) : device_(device) {}
  void Record(Stream& stream) override {
    Push(stream, [counts = counts_, n = ++counts_->recorded] {
      counts->reached = n;
      return true;
    });
  }
  void WaitOn(Stream& stream) override {
    Push(stream, [counts = counts_, n = counts_->recorded] { return counts->reached >= n; });
  }
  void Synchronize() override {
    while (counts_->reached < counts_->recorded) device_->Step();
  }
  bool IsReached() const override {
    device_->Step();
    return counts_->reached >= counts_->recorded;
  }
  double ElapsedMsSince(const Event&) const override { return 0; }

 private:
  struct Counts {
    int64_t recorded = 0, reached = 0;
  };
  DelayedDevice* device_;
  std::shared_ptr<Counts> counts_ = std::make_shared<Counts>();
};

}  // namespace

DelayedDevice::~DelayedDevice() {
  for (const auto& [data, bytes] : memory_) munmap(const_cast<char*>(data), Pages(bytes));
}

std::unique_ptr<Stream> DelayedDevice::NewStream() {
  auto stream = std::make_unique<DelayedStream>(this);
  queues_.push_back(stream->queue());
  return stream;
}

std::unique_ptr<Event> DelayedDevice::NewEvent() { return std::make_unique<DelayedEvent>(this); }

void* DelayedDevice::Allocate(size_t bytes) {
  void* data =
      mmap(nullptr, Pages(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, /*fd=*/-1, /*offset=*/0);
  OT_CHECK(data != MAP_FAILED, "{} bytes", bytes);
  memory_[static_cast<const char*>(data)] = bytes;
  return data;
}

void DelayedDevice::Free(void* data) {
  const auto has_work = [&] {
    for (const auto& queue : queues_) {
      const auto alive = queue.lock();
      if (alive != nullptr && !alive->ops.empty()) return true;
    }
    return false;
  };
  while (has_work()) Step();
  const auto it = memory_.find(static_cast<const char*>(data));
  OT_CHECK(it != memory_.end(), "not of this device");
  munmap(data, Pages(it->second));
  memory_.erase(it);
}

void* DelayedDevice::AllocateHost(size_t bytes) {
  void* data = std::malloc(bytes);
  std::memset(data, 0xff, bytes);
  host_memory_[static_cast<const char*>(data)] = bytes;
  return data;
}

void DelayedDevice::FreeHost(void* data) {
  host_memory_.erase(static_cast<const char*>(data));
  std::free(data);
}

void DelayedDevice::Copy(void* destination, const void* source, size_t bytes, Stream& stream) {
  if (bytes == 0) return;
  const auto holds = [&](const std::map<const char*, size_t>& blocks) {
    auto it = blocks.upper_bound(static_cast<const char*>(source));
    if (it == blocks.begin()) return false;
    --it;
    return static_cast<const char*>(source) < it->first + it->second;
  };
  if (holds(memory_) || holds(host_memory_)) {
    Push(stream, [=] {
      CopyNow(destination, source, bytes);
      return true;
    });
  } else {
    Push(stream,
         [this, destination, bytes, copy = std::string(static_cast<const char*>(source), bytes)] {
           CopyNow(destination, copy.data(), bytes);
           return true;
         });
  }
}

void DelayedDevice::Fill(void* destination, int byte, size_t bytes, Stream& stream) {
  const std::string values(bytes, static_cast<char>(byte));
  Copy(destination, values.data(), bytes, stream);
}

void DelayedDevice::CopyNow(void* destination, const void* source, size_t bytes) {
  SetAccess(destination, true);
  SetAccess(source, true);
  std::memmove(destination, source, bytes);
  SetAccess(destination, false);
  SetAccess(source, false);
  ++num_copies_;
}

void DelayedDevice::SetAccess(const void* data, bool is_open) {
  auto it = memory_.upper_bound(static_cast<const char*>(data));
  if (it == memory_.begin()) return;
  --it;
  if (static_cast<const char*>(data) >= it->first + it->second) return;
  mprotect(const_cast<char*>(it->first), Pages(it->second),
           is_open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void DelayedDevice::Step() {
  if (is_held_) return;
  for (size_t q = 0; q < queues_.size(); ++q) {
    const auto queue = queues_[q].lock();
    if (queue == nullptr || queue->ops.empty()) continue;
    if (queue->ops.front()()) queue->ops.erase(queue->ops.begin());
  }
}

}  // namespace omnitrain
