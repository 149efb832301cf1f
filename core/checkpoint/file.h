#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace omnitrain {

// Files as checkpoints need them. Every failure is Error(kCheckpoint) with the path and the
// system's reason.

/// A regular file open for reading at any offset. Reads may run in several threads at once.
class InputFile {
 public:
  explicit InputFile(std::string path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;

  const std::string& path() const { return path_; }
  /// Bytes at the time of opening.
  int64_t size() const { return size_; }
  /// Reads exactly [offset, offset + bytes). Errors: also when the file has become shorter.
  void Read(int64_t offset, int64_t bytes, void* out) const;

 private:
  std::string path_;
  int fd_ = -1;
  int64_t size_ = 0;
};

/// A file being written from its beginning. One that is not finished is removed.
class OutputFile {
 public:
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  int64_t size() const { return size_; }
  void Write(const void* data, int64_t bytes);
  /// Makes the bytes durable (fsync) and closes the file.
  void Finish();

 private:
  [[noreturn]] void FailWith(int error);

  std::string path_;
  int fd_ = -1;
  int64_t size_ = 0;
};

/// Replaces `to` with `from` at once, files and directories alike; a directory that stood at `to`
/// is removed afterwards. The new name is durable on return.
void ReplaceAtomically(const std::string& from, const std::string& to);

/// Makes names created or removed in the directory durable.
void SyncDirectory(const std::string& path);

/// The directory and those above it.
void MakeDirectories(const std::string& path);

/// Names in a directory, sorted.
std::vector<std::string> ListDirectory(const std::string& path);

/// A file or a directory with all that is in it; nothing to remove is not an error.
void RemoveTree(const std::string& path);

}  // namespace omnitrain
