#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/chat/chat_template.h"
#include "data/source/random_access_file.h"

namespace omnitrain {

/// Where the encoded bytes (PNG, JPEG, ...) of an item lie: a range of a file, or memory.
class ItemBytes {
 public:
  static ItemBytes InMemory(std::string name, std::string bytes);
  static ItemBytes InFile(std::string name, std::shared_ptr<const RandomAccessFile> file,
                          int64_t offset, int64_t size);

  const std::string& name() const { return name_; }  // for messages
  int64_t size() const { return file_ ? size_ : static_cast<int64_t>(bytes_.size()); }

  /// The leading bytes, at most max_bytes. Errors: kData when the file cannot be read.
  std::string Read(int64_t max_bytes = INT64_MAX) const;

 private:
  std::string name_;
  std::string bytes_;
  std::shared_ptr<const RandomAccessFile> file_;
  int64_t offset_ = 0;
  int64_t size_ = 0;
};

/// A sample as stored: the conversation, and where its items are. Nothing is decoded.
struct RawSample {
  std::string key;  // names it in messages: file and line, or shard and key
  std::vector<Message> messages;
  std::vector<ItemBytes> items;  // the index of a content part counts these; images
  /// A plain caption: messages are user [image], assistant [caption], and the user's turn takes one
  /// of the source's prompts.
  bool takes_prompt = false;
};

/// Samples by index. Reading is thread safe and depends on the index alone.
class Source {
 public:
  virtual ~Source() = default;
  virtual const std::string& name() const = 0;  // its path, for messages
  virtual int64_t size() const = 0;             // samples, bad ones included
  /// Errors: kData for a sample that is broken or incomplete; the message names it.
  virtual RawSample Read(int64_t index) const = 0;
};

enum class SourceKind { kAuto, kWebDataset, kMessages };

/// Opens and indexes `path`: files, braces, a glob or a folder (see ExpandPaths). kAuto: messages
/// when the first file ends in .jsonl, else WebDataset.
/// Errors: kSpec when the path names nothing; kData when a file is broken or holds no sample.
std::unique_ptr<Source> OpenSource(const std::string& path, SourceKind kind = SourceKind::kAuto);

}  // namespace omnitrain
