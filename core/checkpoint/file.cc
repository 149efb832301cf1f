#include "core/checkpoint/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/base/error.h"

namespace omnitrain {
namespace {

namespace fs = std::filesystem;

// The kernel moves at most 2 GiB a call.
constexpr int64_t kMaxTransfer = int64_t{1} << 30;

}  // namespace

InputFile::InputFile(std::string path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) Fail(ErrorCode::kCheckpoint, "{}: cannot open: {}", path_, std::strerror(errno));
  struct stat status;
  const bool is_file = ::fstat(fd_, &status) == 0 && S_ISREG(status.st_mode);
  if (!is_file) {
    ::close(fd_);
    Fail(ErrorCode::kCheckpoint, "{}: not a regular file", path_);
  }
  size_ = status.st_size;
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

void InputFile::Read(int64_t offset, int64_t bytes, void* out) const {
  char* target = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t n =
        ::pread(fd_, target, static_cast<size_t>(std::min(bytes, kMaxTransfer)), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) Fail(ErrorCode::kCheckpoint, "{}: cannot read: {}", path_, std::strerror(errno));
    if (n == 0) {
      Fail(ErrorCode::kCheckpoint, "{}: truncated: {} more bytes expected at offset {}", path_,
           bytes, offset);
    }
    target += n;
    offset += n;
    bytes -= n;
  }
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) Fail(ErrorCode::kCheckpoint, "{}: cannot create: {}", path_, std::strerror(errno));
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(path_.c_str());
}

void OutputFile::FailWith(int error) {
  Fail(ErrorCode::kCheckpoint, "{}: cannot write: {} (after {} bytes)", path_, std::strerror(error),
       size_);
}

void OutputFile::Write(const void* data, int64_t bytes) {
  const char* source = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd_, source, static_cast<size_t>(std::min(bytes, kMaxTransfer)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) FailWith(errno);
    source += n;
    bytes -= n;
    size_ += n;
  }
}

void OutputFile::Finish() {
  if (::fsync(fd_) != 0) FailWith(errno);
  // Network file systems report a full disk as late as here.
  if (::close(std::exchange(fd_, -1)) != 0) {
    const int error = errno;
    ::unlink(path_.c_str());
    FailWith(error);
  }
}

void ReplaceAtomically(const std::string& from, const std::string& to) {
  int error = 0;
  if (std::rename(from.c_str(), to.c_str()) != 0) error = errno;
  // rename() takes the place of an empty directory at most.
  const bool is_occupied = error == ENOTEMPTY || error == EEXIST;
  if (is_occupied) {
    error = 0;
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
      RemoveTree(from);
    } else {
      // A file system without exchange: for a moment the old one stands aside only.
      const std::string aside = to + ".old";
      RemoveTree(aside);
      if (std::rename(to.c_str(), aside.c_str()) != 0) {
        error = errno;
      } else if (std::rename(from.c_str(), to.c_str()) != 0) {
        error = errno;
        std::rename(aside.c_str(), to.c_str());
      } else {
        RemoveTree(aside);
      }
    }
  }
  if (error != 0) {
    Fail(ErrorCode::kCheckpoint, "{}: cannot rename to {}: {}", from, to, std::strerror(error));
  }
  const fs::path parent = fs::path(to).parent_path();
  SyncDirectory(parent.empty() ? "." : parent.string());
}

void SyncDirectory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int error = fd < 0 ? errno : 0;
  // Some network file systems cannot sync a directory, and need not.
  if (error == 0 && ::fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP) error = errno;
  if (fd >= 0) ::close(fd);
  if (error != 0) {
    Fail(ErrorCode::kCheckpoint, "{}: cannot sync: {}", path, std::strerror(error));
  }
}

void MakeDirectories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) Fail(ErrorCode::kCheckpoint, "{}: cannot create: {}", path, error.message());
}

std::vector<std::string> ListDirectory(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(path, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) Fail(ErrorCode::kCheckpoint, "{}: cannot list: {}", path, error.message());
  std::sort(names.begin(), names.end());
  return names;
}

void RemoveTree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) Fail(ErrorCode::kCheckpoint, "{}: cannot remove: {}", path, error.message());
}

}  // namespace omnitrain
