#include "data/source/source.h"

#include <algorithm>

#include "data/source/messages.h"
#include "data/source/paths.h"
#include "data/source/webdataset.h"

namespace omnitrain {

ItemBytes ItemBytes::InMemory(std::string name, std::string bytes) {
  ItemBytes item;
  item.name_ = std::move(name);
  item.bytes_ = std::move(bytes);
  return item;
}

ItemBytes ItemBytes::InFile(std::string name, std::shared_ptr<const RandomAccessFile> file,
                            int64_t offset, int64_t size) {
  ItemBytes item;
  item.name_ = std::move(name);
  item.file_ = std::move(file);
  item.offset_ = offset;
  item.size_ = size;
  return item;
}

std::string ItemBytes::Read(int64_t max_bytes) const {
  const int64_t n = std::min(size(), max_bytes);
  return file_ ? file_->Read(offset_, n) : bytes_.substr(0, static_cast<size_t>(n));
}

std::unique_ptr<Source> OpenSource(const std::string& path, SourceKind kind) {
  const auto files = ExpandPaths(
      path, kind == SourceKind::kMessages     ? std::vector<std::string>{".jsonl"}
            : kind == SourceKind::kWebDataset ? std::vector<std::string>{".tar"}
                                              : std::vector<std::string>{".tar", ".jsonl"});
  if (kind == SourceKind::kAuto) {
    const std::string& first = files.front();
    const bool is_jsonl = first.size() >= 6 && first.compare(first.size() - 6, 6, ".jsonl") == 0;
    kind = is_jsonl ? SourceKind::kMessages : SourceKind::kWebDataset;
  }
  if (kind == SourceKind::kMessages) return OpenMessages(path, files);
  return OpenWebDataset(path, files);
}

}  // namespace omnitrain
