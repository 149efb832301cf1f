#include "data/source/random_access_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/base/error.h"

namespace omnitrain {

RandomAccessFile::RandomAccessFile(std::string path, Handle handle)
    : path_(std::move(path)), handle_(handle) {
  struct stat info;
  if (::stat(path_.c_str(), &info) != 0) {
    Fail(ErrorCode::kData, "{}: cannot open: {}", path_, std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) Fail(ErrorCode::kData, "{}: not a regular file", path_);
  size_ = info.st_size;
}

RandomAccessFile::~RandomAccessFile() {
  if (fd_ >= 0) ::close(fd_);
}

int RandomAccessFile::Open() const {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) Fail(ErrorCode::kData, "{}: cannot open: {}", path_, std::strerror(errno));
  return fd;
}

std::string RandomAccessFile::Read(int64_t offset, int64_t size) const {
  std::string out(static_cast<size_t>(size), '\0');
  Read(offset, size, out.data());
  return out;
}

void RandomAccessFile::Read(int64_t offset, int64_t size, char* out) const {
  int fd = -1;
  if (handle_ == Handle::kKeepOpen) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (fd_ < 0) fd_ = Open();
    fd = fd_;
  } else {
    fd = Open();
  }
  int64_t done = 0;
  ssize_t n = 1;
  int error = 0;
  while (done < size && n > 0) {
    n = ::pread(fd, out + done, static_cast<size_t>(size - done), offset + done);
    if (n < 0 && errno == EINTR)
      n = 1;  // nothing was read: try again
    else if (n < 0)
      error = errno;
    else
      done += n;
  }
  if (handle_ == Handle::kOpenPerRead) ::close(fd);
  if (error != 0) Fail(ErrorCode::kData, "{}: cannot read: {}", path_, std::strerror(error));
  if (done < size) {
    Fail(ErrorCode::kData, "{}: truncated: ends at byte {}, {} bytes at {} were expected", path_,
         offset + done, size, offset);
  }
}

}  // namespace omnitrain
