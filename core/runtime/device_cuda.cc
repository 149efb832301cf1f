#include "core/runtime/device_cuda.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/runtime/allocation_ledger.h"
#include "core/runtime/cuda_check.h"

namespace omnitrain::cuda {
namespace {

class CudaStream : public Stream {
 public:
  CudaStream() { OT_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~CudaStream() override { cudaStreamDestroy(stream_); }
  void Synchronize() override { OT_CUDA(cudaStreamSynchronize(stream_)); }
  void* native() const override { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

cudaStream_t Native(const Stream& stream) { return static_cast<cudaStream_t>(stream.native()); }

class CudaEvent : public Event {
 public:
  CudaEvent() { OT_CUDA(cudaEventCreate(&event_)); }
  ~CudaEvent() override { cudaEventDestroy(event_); }
  void Record(Stream& stream) override { OT_CUDA(cudaEventRecord(event_, Native(stream))); }
  void WaitOn(Stream& stream) override { OT_CUDA(cudaStreamWaitEvent(Native(stream), event_)); }
  void Synchronize() override { OT_CUDA(cudaEventSynchronize(event_)); }
  bool IsReached() const override {
    const cudaError_t error = cudaEventQuery(event_);
    if (error == cudaErrorNotReady) {
      cudaGetLastError();  // it would show again at the next launch
      return false;
    }
    OT_CUDA(error);
    return true;
  }
  double ElapsedMsSince(const Event& earlier) const override {
    float ms = 0;
    OT_CUDA(cudaEventElapsedTime(&ms, static_cast<const CudaEvent&>(earlier).event_, event_));
    return ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Page-locked blocks that host data is copied through: a copy from ordinary memory would make the
/// host wait for the stream. A block is taken again once its copy is done.
class StagingBlocks {
 public:
  ~StagingBlocks() {
    for (Block& block : blocks_) {
      cudaEventDestroy(block.done);
      cudaFreeHost(block.data);
    }
  }

  void Copy(void* destination, const void* source, size_t bytes, cudaStream_t stream) {
    std::lock_guard<std::mutex> lock(mutex_);
    Block& block = Take(bytes);
    std::memcpy(block.data, source, bytes);
    OT_CUDA(cudaMemcpyAsync(destination, block.data, bytes, cudaMemcpyDefault, stream));
    OT_CUDA(cudaEventRecord(block.done, stream));
  }

 private:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
    cudaEvent_t done = nullptr;
  };

  Block& Take(size_t bytes) {
    Block* best = nullptr;
    for (Block& block : blocks_) {
      if (block.bytes < bytes || (best != nullptr && best->bytes <= block.bytes)) continue;
      if (cudaEventQuery(block.done) == cudaSuccess) best = &block;
    }
    if (best != nullptr) return *best;
    Block block;
    block.bytes = kSmallest;
    while (block.bytes < bytes) block.bytes *= 2;
    OT_CUDA(cudaHostAlloc(&block.data, block.bytes, cudaHostAllocDefault));
    OT_CUDA(cudaEventCreateWithFlags(&block.done, cudaEventDisableTiming));
    blocks_.push_back(block);
    return blocks_.back();
  }

  static constexpr size_t kSmallest = 64 << 10;
  std::mutex mutex_;
  std::vector<Block> blocks_;
};

class CudaDevice : public Device {
 public:
  explicit CudaDevice(int index) : index_(index) {
    Use();
    OT_CUDA(cudaGetDeviceProperties(&properties_, index));
    OT_REQUIRE(properties_.major >= 8, ErrorCode::kSpec,
               "runtime.device: cuda:{} {} has compute capability {}.{}; 8.0 or later is needed",
               index, properties_.name, properties_.major, properties_.minor);
  }

  DeviceKind kind() const override { return DeviceKind::kCuda; }
  int index() const override { return index_; }
  std::string Describe() const override {
    return fmt::format("cuda:{} {}", index_, properties_.name);
  }
  std::unique_ptr<Stream> NewStream() override {
    Use();
    return std::make_unique<CudaStream>();
  }
  std::unique_ptr<Event> NewEvent() override {
    Use();
    return std::make_unique<CudaEvent>();
  }

  void* Allocate(size_t bytes) override {
    Use();
    void* data = nullptr;
    const cudaError_t error = cudaMalloc(&data, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // it would show again at the next launch
      Fail(ErrorCode::kInternal,
           "{}: {:.2f} GiB asked for, {:.2f} GiB free, {:.2f} GiB held by this rank; use smaller "
           "micro-batches (batch.micro_batch_tokens) or more ranks",
           Describe(), Gib(bytes), Gib(available_bytes()), Gib(allocated_bytes()));
    }
    OT_CUDA(error);
    ledger_.Add(data, bytes);
    return data;
  }
  void Free(void* data) override {
    ledger_.Remove(data);
    Use();
    cudaFree(data);
  }
  void* AllocateHost(size_t bytes) override {
    Use();
    void* data = nullptr;
    OT_CUDA(cudaHostAlloc(&data, bytes, cudaHostAllocPortable));
    return data;
  }
  void FreeHost(void* data) override {
    Use();
    cudaFreeHost(data);
  }
  size_t allocated_bytes() const override { return ledger_.allocated(); }
  size_t peak_bytes() const override { return ledger_.peak(); }
  size_t available_bytes() const override {
    Use();
    size_t free = 0, total = 0;
    OT_CUDA(cudaMemGetInfo(&free, &total));
    return free;
  }

  void Copy(void* destination, const void* source, size_t bytes, Stream& stream) override {
    if (bytes == 0) return;
    Use();
    cudaPointerAttributes attributes;
    OT_CUDA(cudaPointerGetAttributes(&attributes, source));
    if (attributes.type == cudaMemoryTypeUnregistered) {
      staging_.Copy(destination, source, bytes, Native(stream));
    } else {
      OT_CUDA(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, Native(stream)));
    }
  }
  void Fill(void* destination, int byte, size_t bytes, Stream& stream) override {
    if (bytes == 0) return;
    Use();
    OT_CUDA(cudaMemsetAsync(destination, byte, bytes, Native(stream)));
  }

 private:
  // The current device belongs to the thread, and loaders and writers have threads of their own.
  void Use() const { OT_CUDA(cudaSetDevice(index_)); }
  static double Gib(size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

  int index_;
  cudaDeviceProp properties_{};
  AllocationLedger ledger_;
  StagingBlocks staging_;
};

}  // namespace

int NumDevices() {
  int count = 0;
  // Without a driver, or without a GPU, the call fails: both mean none.
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

std::unique_ptr<Device> NewDevice(int index) {
  const int count = NumDevices();
  OT_REQUIRE(index >= 0 && index < count, ErrorCode::kSpec,
             "runtime.device: cuda:{} asked for, but this process sees {} GPUs", index, count);
  return std::make_unique<CudaDevice>(index);
}

}  // namespace omnitrain::cuda
