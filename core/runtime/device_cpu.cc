#include <omp.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "core/runtime/allocation_ledger.h"
#include "core/runtime/device.h"

namespace omnitrain {
namespace {

class CpuStream : public Stream {
 public:
  void Synchronize() override {}
  void* native() const override { return nullptr; }
};

class CpuEvent : public Event {
 public:
  void Record(Stream&) override { time_ = std::chrono::steady_clock::now(); }
  void WaitOn(Stream&) override {}
  void Synchronize() override {}
  bool IsReached() const override { return true; }
  double ElapsedMsSince(const Event& earlier) const override {
    const auto& other = static_cast<const CpuEvent&>(earlier);
    return std::chrono::duration<double, std::milli>(time_ - other.time_).count();
  }

 private:
  std::chrono::steady_clock::time_point time_;
};

class CpuDevice : public Device {
 public:
  explicit CpuDevice(int num_threads) {
    if (num_threads > 0) omp_set_num_threads(num_threads);
    num_threads_ = omp_get_max_threads();
  }

  DeviceKind kind() const override { return DeviceKind::kCpu; }
  int index() const override { return 0; }
  std::string Describe() const override { return fmt::format("cpu, {} threads", num_threads_); }
  std::unique_ptr<Stream> NewStream() override { return std::make_unique<CpuStream>(); }
  std::unique_ptr<Event> NewEvent() override { return std::make_unique<CpuEvent>(); }

  void* Allocate(size_t bytes) override {
    void* data = AllocateHost(bytes);
    ledger_.Add(data, bytes);
    return data;
  }
  void Free(void* data) override {
    ledger_.Remove(data);
    FreeHost(data);
  }
  void* AllocateHost(size_t bytes) override {
    constexpr size_t kAlignment = 256;
    void* data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    OT_CHECK(data != nullptr, "host memory: {} bytes asked for, {} held", bytes, allocated_bytes());
    return data;
  }
  void FreeHost(void* data) override { std::free(data); }
  size_t allocated_bytes() const override { return ledger_.allocated(); }
  size_t peak_bytes() const override { return ledger_.peak(); }
  size_t available_bytes() const override { return std::numeric_limits<size_t>::max(); }

  void Copy(void* destination, const void* source, size_t bytes, Stream&) override {
    if (bytes) std::memcpy(destination, source, bytes);
  }
  void Fill(void* destination, int byte, size_t bytes, Stream&) override {
    if (bytes) std::memset(destination, byte, bytes);
  }

 private:
  int num_threads_ = 1;
  AllocationLedger ledger_;
};

}  // namespace

std::unique_ptr<Device> NewCpuDevice(int num_threads) {
  return std::make_unique<CpuDevice>(num_threads);
}

}  // namespace omnitrain
