#pragma once

#include <cstdint>
#include <mutex>
#include <string>

namespace omnitrain {

/// A file read at any offset. Opened at first use; stays open or not, so that thousands of shards
/// do not exhaust descriptors. Thread safe. Errors: kData with the path and the system's reason.
class RandomAccessFile {
 public:
  enum class Handle { kKeepOpen, kOpenPerRead };

  RandomAccessFile(std::string path, Handle handle);
  ~RandomAccessFile();
  RandomAccessFile(const RandomAccessFile&) = delete;
  RandomAccessFile& operator=(const RandomAccessFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // bytes, when this object was made

  /// Bytes [offset, offset + size). Errors: also when the file ends before.
  std::string Read(int64_t offset, int64_t size) const;
  void Read(int64_t offset, int64_t size, char* out) const;

 private:
  int Open() const;

  std::string path_;
  Handle handle_;
  int64_t size_ = 0;
  mutable std::mutex mutex_;
  mutable int fd_ = -1;
};

}  // namespace omnitrain
