#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "core/tensor/tensor.h"

namespace omnitrain {

class WaitMeter;

/// A queue of work of one device, run in order. On the CPU work runs at once, in the calling
/// thread, so a CPU stream has nothing to wait for; on CUDA it is a cudaStream_t.
class Stream {
 public:
  virtual ~Stream() = default;
  /// Blocks the host until all work given so far is done. Never on the hot path of a step.
  virtual void Synchronize() = 0;
  /// The cudaStream_t on CUDA, null on the CPU.
  virtual void* native() const = 0;

  /// Told of every wait for other ranks (wait_meter.h); null, the default: nobody is. Outlives the
  /// stream or is taken off it.
  void set_wait_meter(WaitMeter* meter) { wait_meter_ = meter; }
  WaitMeter* wait_meter() const { return wait_meter_; }

 private:
  WaitMeter* wait_meter_ = nullptr;
};

/// A point in a stream that other streams, or the host, can wait for.
class Event {
 public:
  virtual ~Event() = default;
  virtual void Record(Stream& stream) = 0;
  /// Work given to `stream` from now on starts after this event.
  virtual void WaitOn(Stream& stream) = 0;
  virtual void Synchronize() = 0;
  /// Whether the work before the last Record is done, without waiting; true if never recorded.
  virtual bool IsReached() const = 0;
  /// Time from `earlier` to this event, both recorded and reached.
  virtual double ElapsedMsSince(const Event& earlier) const = 0;
};

/// One processor and its memory. Made once per process, outlives all that it made.
class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  /// The GPU's number among those that this process sees; 0 for the host.
  virtual int index() const = 0;
  /// "cpu, 2 threads", "cuda:0 NVIDIA H100 80GB HBM3".
  virtual std::string Describe() const = 0;
  virtual std::unique_ptr<Stream> NewStream() = 0;
  virtual std::unique_ptr<Event> NewEvent() = 0;
  /// 256-byte aligned; throws kInternal naming the bytes asked for and free. Slow: at start and
  /// when a step outgrows its memory, never per op.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* data) = 0;
  /// Host memory that copies from and to this device reach at full speed (page-locked). Slow, as
  /// Allocate is. A copy reads it in stream order: it must stay as it is until the copy is done.
  virtual void* AllocateHost(size_t bytes) = 0;
  virtual void FreeHost(void* data) = 0;
  /// Bytes held now through Allocate, and the most there ever were.
  virtual size_t allocated_bytes() const = 0;
  virtual size_t peak_bytes() const = 0;
  /// What Allocate could still give; no limit is known for the host.
  virtual size_t available_bytes() const = 0;
  /// Copies between any two of host and this device, in stream order and without waiting for the
  /// stream. Host memory that is read is free again when the call returns, unless it is of
  /// AllocateHost; host memory that is written holds the values once the stream got there.
  virtual void Copy(void* destination, const void* source, size_t bytes, Stream& stream) = 0;
  virtual void Fill(void* destination, int byte, size_t bytes, Stream& stream) = 0;
};

/// The host as a device; `num_threads` OpenMP threads serve each op (0: as the environment says).
std::unique_ptr<Device> NewCpuDevice(int num_threads = 0);

/// Number of GPUs that this process sees: 0 without a driver, or in a build without CUDA.
int NumCudaDevices();
/// GPU `index` of those. Errors: kSpec where there is none, or in a build without CUDA.
std::unique_ptr<Device> NewCudaDevice(int index);

/// Memory of a device, freed with the object.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device& device, size_t bytes)
      : device_(&device), data_(bytes ? device.Allocate(bytes) : nullptr), bytes_(bytes) {}
  Buffer(Buffer&& o) noexcept { *this = std::move(o); }
  Buffer& operator=(Buffer&& o) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// A tensor with memory of its own.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(Device& device, DType dtype, Shape shape)
      : buffer_(device, static_cast<size_t>(shape.num_elements()) * DTypeBytes(dtype)),
        tensor_(buffer_.data(), dtype, shape, device.kind()) {}
  const Tensor& tensor() const { return tensor_; }
  const Tensor* operator->() const { return &tensor_; }
  const Tensor& operator*() const { return tensor_; }

 private:
  Buffer buffer_;
  Tensor tensor_;
};

}  // namespace omnitrain
